"""`python -m bench.queue`: nowserving and a peer side by side, seen from outside by the same clients.

Both stacks run at once on this machine, each with a Redis server of its own, and are observed in turn: one observation
of the one, the same at once of the other; the next round starts both afresh and takes them in the other order. The job
does nothing, so all that is measured is the way there and back. Each stack runs as its users run it: the tutorials'
stack on Celery's and Redis's defaults (no append-only file), nowserving with every accepted job on disk before it is
answered. Both APIs are one uvicorn process, both sides log no line a job.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import uvloop

from bench.environment import differing_versions, python_of, work_folder
from bench.errors import BenchError
from bench.machine import Watch, describe_machine
from bench.observe import Figures, Size, observe
from bench.report import table
from bench.stack import Stack
from bench.stacks import STACKS, Nowserving

MIN_JOBS = 100


def main() -> int:
    """Run, print the table, and leave the figures of every round in .bench/."""
    parser = _parser()
    options = parser.parse_args()
    jobs = options.jobs or (2000 if options.peer == "tutorial" else 400)
    if jobs < MIN_JOBS or options.rounds < 1:
        parser.error(f"at least {MIN_JOBS} jobs and 1 round")
    size = Size(jobs=min(jobs, 300), idle_seconds=3) if options.quick else Size(jobs=jobs, idle_seconds=10)
    count = 1 if options.quick else options.rounds
    kinds = [STACKS[options.peer], Nowserving]
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # ends the stacks as Ctrl-C does
    try:
        python_of(options.peer)
        rounds, others_cores = [], []
        for number in range(1, count + 1):
            print(f"round {number} of {count} …", file=sys.stderr, flush=True)
            figures, cores = run_round(kinds if number % 2 else kinds[::-1], size)
            rounds.append(figures)
            others_cores.append(cores)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    file = work_folder() / f"queue-{options.peer}.json"
    file.write_text(json.dumps(rounds, indent=1))
    print(table(rounds, options.peer))
    print(f"\nmedians of the rounds ({count}), in brackets the least and the most; {size.jobs} jobs an observation")
    print(describe_machine(others_cores))
    if different := differing_versions(options.peer):
        print(f"versions differ: {options.peer} has {', '.join(different)}")
    return 0


def run_round(kinds: Sequence[type[Stack]], size: Size) -> tuple[Mapping[str, Figures], float]:
    """Start the stacks, observe them, end them; the figures by stack, and the cores that others took meanwhile.

    Raises BenchError with the ends of the logs.
    """
    with ExitStack() as running:
        stacks = [running.enter_context(kind()) for kind in kinds]
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                watch = Watch(stacks)
                return runner.run(observe(stacks, size)), watch.others_cores()
        except BenchError as error:
            logs = [log for stack in stacks for log in stack.logs()]
            raise BenchError("\n".join([str(error), *logs])) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.queue", description="Measure nowserving beside a peer.")
    parser.add_argument("--peer", choices=("tutorial", "ray"), default="tutorial", help="beside whom (tutorial)")
    parser.add_argument("--jobs", type=int, help="jobs of one observation (2000; beside ray 400)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (3)")
    parser.add_argument(
        "--quick", action="store_true", help="one round of at most 300 jobs: shows that it runs, no more"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
