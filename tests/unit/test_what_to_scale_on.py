"""The formulas of docs/what-to-scale-on.md are the ones that were measured, and KEDA would take them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import ceil

import pytest

from tests.child_process import ROOT
from tests.keda.expression import evaluate
from tests.keda.strategy import ours, packed, patient

PAGE = (ROOT / "docs/what-to-scale-on.md").read_text()
FORMULAS = re.findall(r'^formula: "(.*)"$', PAGE, re.MULTILINE)
NONE = dict.fromkeys((trigger.name for trigger in ours(8).triggers), 0.0)


def test_the_page_shows_what_is_rendered_and_what_is_measured() -> None:
    assert [ours(8).formula, packed(8).formula, patient(8).formula] == FORMULAS


@pytest.mark.parametrize(
    ("seen", "wanted"),
    [
        ({}, (0, 0, 0)),
        ({"queued": 1}, (1, 1, 1)),  # the first job starts the first worker
        ({"queued": 64}, (8, 8, 1)),
        ({"queued": 192}, (24, 24, 2)),
        ({"running": 3, "busy": 3}, (3, 0.375, 3)),  # packing would take two of these away
        ({"queued": 1, "blocked": 1}, (2, 2, 2)),
        ({"blocked": 1}, (0, 0, 0)),  # nobody waits for a worker whose memory is full
    ],
)
def test_each_formula_counts_in_workers(seen: Mapping[str, float], wanted: tuple[float, ...]) -> None:
    for formula, workers in zip(FORMULAS, wanted, strict=True):
        assert evaluate(formula, NONE | dict(seen)) == workers


def test_a_worker_closed_for_memory_is_replaced_though_others_are_full() -> None:
    seen = {"queued": 50.0, "running": 50.0, "busy": 1.0, "blocked": 2.0}
    assert evaluate(ours(50).formula, NONE | seen) == 3


def test_full_workers_are_not_counted_twice() -> None:
    for full in range(1, 5):
        for queued in range(1, 40):
            seen = {"queued": queued, "running": 8 * full, "busy": full, "blocked": full}
            assert ceil(evaluate(ours(8).formula, NONE | seen)) == ceil((queued + 8 * full) / 8)
