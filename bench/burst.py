"""`python -m bench.burst`: a burst for a model that sleeps, until it sleeps again, by several ways to scale.

KEDA, the HPA and the ReplicaSet are the model of tests/keda; Redis, keys, workers, their starts, signals and jobs are
real. Time runs faster for those who only wait. All figures are in the seconds of that faster clock, so that KEDA's 5 s
are 5 s, and a worker's start, which nobody makes faster, counts so many times more.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist, median

from bench.machine import describe_hardware
from nowserving.store import Store, connect
from tests.keda.burst import TOKEN_SECONDS, Burst, Load, Outcome
from tests.keda.scaled_object import ScaledObject
from tests.keda.strategy import constant, ours, packed, patient, queue_length
from tests.redis_server import RedisServer

JOBS, SLOTS = 100, 4
MEDIAN_SECONDS, SPREAD = 40, 1.2
"""Of the jobs' run times, which are as uneven as texts are long: log-normal, with a tenth over three minutes."""
HOUR_SECONDS = 3600
PATIENCE_SECONDS = 600
"""Real ones."""


@dataclass(frozen=True)
class Way:
    """One way to decide how many workers there are; without `costs` Kubernetes is not told who is busy."""

    name: str
    scaled: Callable[[int], ScaledObject]
    costs: bool = False


WAYS = (
    Way("nowserving", ours, costs=True),
    Way("no cost", ours),
    Way("packed", packed, costs=True),
    Way("patient", patient, costs=True),
    Way("queue length", queue_length),
    Way("always", constant),
)


def main() -> int:
    """Run each way, print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.burst", description="A burst from zero and back to zero.")
    parser.add_argument("--speed", type=float, default=20, help="how many times faster those go who only wait (20)")
    parser.add_argument("--quick", action="store_true", help="two ways at speed 60: shows that it runs, no more")
    parser.add_argument("--rounds", type=int, default=1, help="rounds (1)")
    parser.add_argument("--seed", type=int, default=1, help="orders the first round's jobs (1)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # ends the workers as Ctrl-C does
    busy_before = os.getloadavg()[0]
    speed, ways = (60.0, (WAYS[0], WAYS[4])) if options.quick else (options.speed, WAYS)
    rounds: list[dict[str, Outcome]] = []
    starts: list[float] = []
    for number in range(options.rounds):
        load, outcomes = make_load(options.seed + number, speed), dict[str, Outcome]()
        for way in ways:
            print(f"round {number + 1} of {options.rounds}: {way.name} …", file=sys.stderr, flush=True)
            outcomes[way.name], seconds = measure(way, load, speed)
            starts += seconds
        rounds.append(outcomes)
    lengths = run_seconds()
    print(table(rounds))
    print(
        f"\nmedians of the rounds ({options.rounds}), counts of each if they differ;"
        f" {JOBS} jobs at once, in another order each round;"
        f" half run under {median(lengths):.0f} s,\na tenth over {lengths[-JOBS // 10]:.0f} s, the longest"
        f" {lengths[-1]:.0f} s; {SLOTS} slots a worker\n"
        f"time runs {speed:g} times as fast for all but the workers: their start took"
        f" {median(starts) / speed:.1f} s and counts as {median(starts):.0f} s\n"
        f"{describe_hardware()}, load average before {busy_before:.1f}"
    )
    return 0


def run_seconds() -> list[float]:
    """How long each job runs, from the shortest to the longest: the same in every run."""
    normal = NormalDist()
    return [MEDIAN_SECONDS * math.exp(SPREAD * normal.inv_cdf((index + 0.5) / JOBS)) for index in range(JOBS)]


def make_load(seed: int, speed: float) -> Load:
    """The jobs in an order. So many seconds of the clock are so many tokens."""
    tokens = [max(1, round(seconds / speed / TOKEN_SECONDS)) for seconds in run_seconds()]
    random.Random(seed).shuffle(tokens)
    return Load(tokens, SLOTS)


def measure(way: Way, load: Load, speed: float) -> tuple[Outcome, Sequence[float]]:
    """One burst on a Redis of its own; and how long each worker took to be ready."""
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(Path(folder))
        server.start()
        store = Store(connect(server.url))
        costs = None if way.costs else dict[str, int]
        burst = Burst(way.scaled(load.slots), load, store, server.url, Path(folder), speed, costs=costs)
        cluster = burst.cluster
        try:
            wanted, beat = cluster.scaled.min_replicas, cluster.scaled.polling_seconds
            cluster.run(lambda: sum(life.pod.ready for life in cluster.active) >= wanted, PATIENCE_SECONDS)
            # It comes half-way between two of KEDA's looks: the mean of what may happen.
            burst_at = (cluster.clock.now() // beat + 2.5) * beat
            cluster.run(lambda: cluster.clock.now() >= burst_at, PATIENCE_SECONDS)
            outcome = burst.see_through(PATIENCE_SECONDS)
            pods = [life.pod for life in cluster.lives]
            return outcome, [pod.ready_at - pod.created_at for pod in pods if pod.ready_at and pod.created_at]
        finally:
            cluster.close()
            store.close()
            server.stop()


def table(rounds: Sequence[Mapping[str, Outcome]]) -> str:
    """A column for each way; medians over the rounds, or each round's."""
    ways = list(rounds[0])

    def row(label: str, value: Callable[[Outcome], float | str], form: str = ",.0f") -> list[str]:
        return [label, *(_cell([value(outcomes[way]) for outcomes in rounds], form) for way in ways)]

    rows = [
        ["", *ways],
        row("first worker asked for, s", lambda o: _after(o.first_asked)),
        row("most workers", lambda o: str(o.peak)),
        row("  asked for, s", lambda o: _after(o.peak_asked)),
        row("first job runs, s", lambda o: o.first_started),
        row("a job waits, p50, s", lambda o: o.wait(50)),
        row("  p95, s", lambda o: o.wait(95)),
        row("last job done, s", lambda o: o.last_ended),
        row("busy workers stopped", lambda o: str(o.stopped_busy)),
        row("  beside idle ones", lambda o: str(o.stopped_busy_beside_idle)),
        row("jobs handed over", lambda o: str(o.handed_back)),
        row("replica-seconds", _paid),
        row("  of the least possible", lambda o: _paid(o) / o.least_replica_seconds, ".1f"),
    ]
    widths = [max(len(cells[column]) for cells in rows) for column in range(len(rows[0]))]
    lines = []
    for first, *cells in rows:
        shown = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *shown]))
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def _cell(values: Sequence[float | str], form: str) -> str:
    """The median of numbers; of words each, or one if all are the same."""
    words = [value for value in values if isinstance(value, str)]
    if words:
        return words[0] if len(set(words)) == 1 else " ".join(words)
    return format(median(value for value in values if not isinstance(value, str)), form)


def _after(seconds: float) -> float | str:
    """Nothing for what was asked for before the burst."""
    return seconds if seconds >= 0 else ""


def _paid(outcome: Outcome) -> float:
    """Of what never sleeps: in an hour with one such burst."""
    return outcome.replica_seconds if outcome.slept else outcome.peak * HOUR_SECONDS


if __name__ == "__main__":
    sys.exit(main())
