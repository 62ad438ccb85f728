"""`python -m bench.chaos`: the worst day in figures: all faults at once, a take-over, cancels, a drain, a job's bytes.

With `--peer celery` the same faults strike a stock Celery worker instead. The storm is the one of `make chaos`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench import memory, scene, stock
from bench.machine import describe_hardware, describe_versions
from tests.chaos.storm import Storm


def main() -> int:
    """Print the table; 1 if a figure that must be zero is not."""
    parser = argparse.ArgumentParser(prog="python -m bench.chaos", description="Measure the worst day.")
    parser.add_argument("--peer", choices=("celery",), help="strike a stock Celery worker instead")
    parser.add_argument("--jobs", type=int, default=500, help="jobs, at least (500)")
    parser.add_argument("--faults", type=int, default=108, help="faults (108: 18 of each kind)")
    parser.add_argument("--seed", type=int, default=1, help="decides the faults, their order and their moments (1)")
    parser.add_argument("--kills", type=int, default=10, help="workers killed for the take-over (10, of 8 jobs each)")
    options = parser.parse_args()
    storm = Storm(options.jobs, options.faults, options.seed)
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if options.peer:
            _print("Celery under fire", stock.blow(storm, folder))
        else:
            verdict = storm.blow(folder)
            wrong = verdict.wrong.total()
            _print("nowserving under fire", verdict.rows())
            print("\n".join(verdict.details[:20]), file=sys.stderr)
            _print("one at a time", _scenes(folder, options.kills))
    print(f"{describe_hardware()}\n{describe_versions()}")
    return 1 if wrong else 0


def _scenes(folder: Path, kills: int) -> dict[str, object]:
    taken = scene.take_over(folder, kills)
    freed_ms = scene.cancel(folder, rounds=10).freed_ms
    drained = scene.drain(folder)
    weight = memory.measure_alone()
    jobs = scene.JOBS
    return {
        f"take-over: jobs of {kills} killed workers": len(taken.taken_seconds),
        f"… queued again p50 / p99 s (lease {taken.lease_seconds:g} s)": _spread(taken.queued_seconds, 2),
        "… taken again p50 / p99 s": _spread(taken.taken_seconds, 2),
        "… readers with a gap or a repetition, texts that differ": len(taken.wrong),
        "cancel: running jobs, 50 at once": len(freed_ms),
        "… slot let go p50 / p99 ms": _spread(freed_ms, 0),
        "drain of 2 s, 8 longer jobs: exit code": drained.exit_code,
        "… seconds from SIGTERM to the exit": f"{drained.seconds:.1f}",
        "… jobs finished by another worker": f"{drained.finished_elsewhere} of {jobs}",
        "… attempts charged": drained.charged,
        "… texts equal": f"{drained.texts_equal} of {jobs}",
        "bytes in Redis of a 500-token job: queued": f"{weight['queued']:,.0f}",
        "… running, all tokens made": f"{weight['running']:,.0f}",
        "… finished": f"{weight['finished']:,.0f}",
        "… 30 s later": f"{weight['collapsed']:,.0f}",
    }


def _spread(figures: Sequence[float], digits: int) -> str:
    return f"{scene.percentile(figures, 50):.{digits}f} / {scene.percentile(figures, 99):.{digits}f}"


def _print(title: str, rows: Mapping[str, object]) -> None:
    width = max(map(len, rows))
    print(f"\n{title}\n{'-' * (width + 16)}")
    for name, value in rows.items():
        print(f"{name:<{width}}  {value!s:>14}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
