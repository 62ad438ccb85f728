"""The formula's language: what expr-lang's definition and KEDA's own examples say of it."""

from __future__ import annotations

import math

import pytest

from tests.keda.expression import ExpressionError, evaluate

NAMES = {"trigger1": 2.0, "trigger2": 5.0, "queued": 7.0, "busy": 3.0, "none": 0.0}


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("trigger1 + trigger2", 7),  # KEDA, pkg/scaling/modifiers/formula_test.go
        ("(trigger1 + trigger2) / 2", 3.5),
        ("1 + 2 * 3 - 4 / 2", 5),
        ("10 - 4 - 3", 3),
        ("8 / 4 / 2", 1),
        ("7 / 2", 3.5),  # never whole numbers' division
        ("-trigger1 * 3", -6),
        ("7 % 4", 3),
        ("max(trigger1, trigger2, 3)", 5),
        ("min(trigger1, trigger2 - 4)", 1),
        ("ceil(queued / 4) + floor(queued / 4) + abs(-1)", 4),
        ("float(trigger1)", 2),
        ("trigger1 > 1 ? trigger2 : 0", 5),  # KEDA's documentation: conditions
        ("trigger1 > 2 && trigger2 > 2 ? 1 : 0", 0),
        ("trigger1 > 2 or trigger2 > 2 ? 1 : 0", 1),
        ("not (trigger1 > 2) ? 1 : 0", 1),
        ("trigger1 == 2 ? trigger2 != 5 ? 1 : 2 : 3", 2),
        ("trigger1 > 5 ? 1 : trigger1 > 1 ? 2 : 3", 2),
        ("max(busy, none > 0 ? 9 : 1)", 3),
        ("1 + trigger1 > 2 ? 10 : 20", 10),
    ],
)
def test_a_formula_has_the_value_that_expr_gives_it(formula: str, value: float) -> None:
    assert evaluate(formula, NAMES) == value


def test_division_by_zero_is_infinite_as_for_floats() -> None:
    assert evaluate("queued / none", NAMES) == math.inf
    assert math.isnan(evaluate("none / none", NAMES))


@pytest.mark.parametrize(
    "formula",
    ["unknown + 1", "1 +", "(1", "1 2", "trigger1 > 1", "trigger1 ? 1 : 2", "max(1", "queued $ 2", "", "1 ? 2", "f(1)"],
)
def test_a_formula_that_keda_would_refuse_is_an_error(formula: str) -> None:
    with pytest.raises(ExpressionError):
        evaluate(formula, NAMES)
