"""The engine bench's tables in Markdown: medians over the rounds, ratios of the same round, texts compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from statistics import median

from bench.bandwidth import Floor
from bench.bare import BareEngine, OpenAIServer
from bench.run import Run
from bench.ways import Generate, StaticBatch
from bench.whole import WholeStack

Round = Mapping[int, Mapping[str, Run]]
"""By the number of jobs, by the way's name."""
Prompts = Mapping[int, Sequence[int]]
"""By the number of jobs, how many tokens each prompt has: the first round's."""

NAMES = [way.name for way in (Generate, StaticBatch, BareEngine, WholeStack, OpenAIServer)]
CEILING = "of the ceiling"
HEAD = (
    "jobs",
    "way",
    "tokens/s",
    "times one by one",
    "times bare engine",
    "first token p50, ms",
    "p99, ms",
    "decoding, tokens/s",
    CEILING,
    "tokens a CPU second",
    "texts as one by one",
)


def ways_table(rounds: Sequence[Round], prompts: Prompts, new_tokens: int, floor: Floor | None) -> str:
    """A line for each number of jobs and way; texts are compared with those of one by one.

    Without a floor nothing is said of a ceiling.
    """
    lines = [HEAD]
    for jobs, ways in rounds[0].items():
        ceiling = floor.tokens_per_second(prompts[jobs], new_tokens) if floor else inf
        alone = floor.tokens_per_second(prompts[jobs][:1], new_tokens) if floor else inf
        for name in sorted(ways, key=NAMES.index):
            runs = [figures[jobs][name] for figures in rounds]
            lines.append(
                (
                    str(jobs),
                    name + ("" if runs[0].jobs == jobs else f" ({runs[0].jobs} of {jobs} jobs measured)"),
                    number(median(run.tokens_per_second for run in runs)),
                    _ratio(rounds, jobs, name, Generate.name),
                    _ratio(rounds, jobs, name, BareEngine.name),
                    *_first_tokens(runs, jobs),
                    *_decoding(runs, alone if runs[0].how == "one by one" else ceiling),
                    number(median(run.tokens_per_cpu_second for run in runs)) if runs[0].cpu_seconds else "",
                    _same(rounds, jobs, name),
                )
            )
    said = [column for column, name in enumerate(HEAD) if floor or name != CEILING]
    return markdown([[line[column] for column in said] for line in lines])


def floor_table(prompts: Prompts, new_tokens: int, floor: Floor) -> str:
    """What a step must read, and the ceiling that follows."""
    lines = [("jobs", "weights, MB a step", "keys and values, MB a step", "floor, ms a step", "ceiling, tokens/s")]
    for jobs, lengths in prompts.items():
        lines.append(
            (
                str(jobs),
                number(floor.weights_bytes / 1e6),
                number(floor.cache_bytes(lengths, new_tokens) / 1e6),
                number(floor.step_seconds(lengths, new_tokens) * 1000),
                number(floor.tokens_per_second(lengths, new_tokens)),
            )
        )
    return markdown(lines)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table, aligned to be read as it is; the first line is its head, numbers are to the right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    left = [name == "way" for name in lines[0]]
    rows = ["| " + " | ".join(_pad(*cell) for cell in zip(line, widths, left, strict=True)) + " |" for line in lines]
    rule = "|" + "|".join("-" * (width + 1) + ("-" if side else ":") for width, side in zip(widths, left, strict=True))
    return "\n".join([rows[0], rule + "|", *rows[1:]])


def number(value: float) -> str:
    """Three digits that matter."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _pad(cell: str, width: int, left: bool) -> str:
    return cell.ljust(width) if left else cell.rjust(width)


def _ratio(rounds: Sequence[Round], jobs: int, name: str, other: str) -> str:
    if other not in rounds[0][jobs]:
        return ""
    times = [one[jobs][name].tokens_per_second / one[jobs][other].tokens_per_second for one in rounds]
    spread = f" ({min(times):.2f} to {max(times):.2f})" if len(times) > 1 and name != other else ""
    return f"{median(times):.2f}{spread}"


def _first_tokens(runs: Sequence[Run], jobs: int) -> tuple[str, str]:
    """None of a part: those not measured would have waited longest."""
    if runs[0].jobs != jobs:
        return "", ""
    return number(median(run.first_token_ms(50) for run in runs)), number(
        median(run.first_token_ms(99) for run in runs)
    )


def _decoding(runs: Sequence[Run], ceiling: float) -> tuple[str, str]:
    rates = [rate for run in runs if (rate := run.decoded_per_second) is not None]
    if len(rates) < len(runs):
        return "", ""
    return number(median(rates)), f"{median(rates) / ceiling:.0%}"


def _same(rounds: Sequence[Round], jobs: int, name: str) -> str:
    """How many texts of all rounds are those of `generate` alone, as far as it made them."""
    if name == Generate.name or Generate.name not in rounds[0][jobs]:
        return ""
    texts = [(one[jobs][name].texts, one[jobs][Generate.name].texts) for one in rounds]
    same = [mine == theirs for pair in texts for mine, theirs in zip(*pair, strict=False)]
    return "the same" if all(same) else f"{sum(same)} of {len(same)}"
