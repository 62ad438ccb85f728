"""The table: medians over the rounds, how many times better, and the aims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from bench.figure import FIGURES, Figure

Rounds = Sequence[Mapping[str, Mapping[str, float]]]
"""For each round, by stack, the figures by name."""


def table(rounds: Rounds, peer: str, ours: str = "nowserving") -> str:
    """Lay the figures out. `times better` is the median of the rounds' ratios; in brackets the least and the most."""
    rows = [("", peer, ours, "times better", "aim", "")]
    rows += [_row(figure, rounds, peer, ours) for figure in FIGURES]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, *rest = zip(row, widths, strict=True)
        lines.append("  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]))
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def _row(figure: Figure, rounds: Rounds, peer: str, ours: str) -> tuple[str, str, str, str, str, str]:
    theirs = [figures[peer][figure.name] for figures in rounds]
    own = [figures[ours][figure.name] for figures in rounds]
    times = [figure.times_better(a, b) for a, b in zip(theirs, own, strict=True)]
    ratio = f"{median(times):.2f} ({min(times):.2f} to {max(times):.2f})"
    verdict = {True: "reached", False: "missed", None: ""}[figure.reached(median(own), median(times))]
    return (figure.label, _number(median(theirs)), _number(median(own)), ratio, figure.aim(), verdict)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
