"""Formulas are computed as expr-lang computes them, or not at all."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nowserving.keda.check.expression import UnknownFormulaError, names, parse, unclosed

DEPTHS = {"queued": 3.0, "running": 8.0, "busy": 1.0, "blocked": 1.0, "none": 0.0}


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("max(busy, (queued + running) / 8, queued > 0 ? blocked + queued / 8 : 0)", 1.375),
        ("queued + running * 2 ** 2", 35),
        ("2 ** 3 ** 2", 512),
        ("-2 ** 2", -4),
        ("10 - 4 - 3", 3),
        ("running % 3", 2),
        ("queued > 2 ? queued < 5 ? 10 : 20 : 30", 10),
        ("queued > 2 && running > 9 || busy == 1 ? 1 : 0", 1),
        ("not (queued > 2) or !(busy > 0) ? 1 : 0", 0),
        ("ceil(queued / 8) + floor(queued / 2) + round(2.5) + int(2.9) + abs(-1)", 8),
        ("max([queued, running, min(1, 2)])", 8),
        ("sum([queued, running]) + mean([queued, 5])", 15),
        ("float(queued)", 3),
        ("missing ?? 4", 4),
        ("1_000 + .5 + 1e2", 1100.5),
    ],
)
def test_a_formula_is_computed(formula: str, value: float) -> None:
    values = DEPTHS | ({"missing": None} if "missing" in formula else {})
    assert parse(formula).value(values) == pytest.approx(value)  # type: ignore[arg-type]  # nil, as a failed trigger is


@pytest.mark.parametrize(
    "formula", ["queued / none", "none / none", "queued % none", "unheard", "queued > 1", "10 ** 999"]
)
def test_what_is_no_finite_number_is_no_number(formula: str) -> None:
    found = parse(formula).value(DEPTHS)
    assert formula == "queued > 1" or not math.isfinite(found)


@pytest.mark.parametrize(
    "formula",
    [
        "",
        "queued +",
        "(queued",
        "queued)",
        "queued queued",
        "max()",
        "queued | running",
        "filter([1], {# > 1})",
        "{",
        "'a'",
        "§",
    ],
)
def test_what_is_not_judged_is_refused(formula: str) -> None:
    with pytest.raises(UnknownFormulaError):
        parse(formula)


def test_names_are_those_of_triggers_alone() -> None:
    assert names("let all = queued + running; all > 0 ? max(busy, all / 8) : blocked") == {
        "queued",
        "running",
        "busy",
        "blocked",
    }
    assert names("count([queued, busy], {# > 1}) + 'text'.length") == {"queued", "busy"}
    assert names("queued-depth") == {"queued", "depth"}


@settings(deadline=None)
@given(st.text(alphabet="max(busy, queued)/8+-*?:><=[]{}|&!\"'.#;0_ \n\\§", max_size=60))
def test_no_text_breaks_it(formula: str) -> None:
    try:
        names(formula)
        parse(formula).value(DEPTHS)
    except UnknownFormulaError:
        pass


@pytest.mark.parametrize(
    "formula", ["(" * 2000, "-" * 3000 + "1", "1" + "+1" * 1900, "[" * 1500 + "]" * 1500, "1 ? " * 900]
)
def test_depth_is_bounded(formula: str) -> None:
    with contextlib.suppress(UnknownFormulaError):
        parse(formula).value({})


@pytest.mark.parametrize(
    ("formula", "bracket"),
    [
        ("max(queued, [running][0], {a: 1}.a)", ""),
        ('queued + len(")(")', ""),
        ("", ""),
        ("max(queued", "("),
        ("max(queued))", ")"),
        ("max([queued)]", ")"),
    ],
)
def test_a_bracket_without_the_other_is_found(formula: str, bracket: str) -> None:
    assert unclosed(formula) == bracket
