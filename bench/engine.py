"""`python -m bench.engine`: an engine worth its device? The same chats by every way, side by side in one run.

The ways are transformers' `generate` one by one and as a static batch, the engine bare, the engine through the whole
stack, and an OpenAI-compatible server where one is named. Each number of jobs is answered by all ways in turn, in
rounds that change their order; the jobs of one number are all submitted at once.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from bench.contest import WAYS, Measured, Plan, measure
from bench.engine_table import floor_table, ways_table
from bench.errors import BenchError
from bench.machine import describe_device, describe_machine
from bench.model import DTYPES, PACED

SIMULATED = """\
**No card was there.** Engine, worker and stack are real; for a device, each step waits at least as long as an NVIDIA
H200 takes for random-8b, or is supposed to take for prompts (bench/paced.py), and what the engine itself takes comes on
top: "decoding" tells how long a step was. What this is about is the whole stack beside the bare engine."""


def main() -> int:
    """Run, print the tables, and write them where told."""
    words = sys.argv[1:]
    options = _parser().parse_args(words)
    try:
        plan = _plan(options)
    except ValueError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # ends the parts as Ctrl-C does
    try:
        report = describe(plan, measure(plan), " ".join(["python -m bench.engine", *words]))
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(report)
    if options.out:
        options.out.write_text(report + "\n")
    return 0


def describe(plan: Plan, measured: Measured, command: str) -> str:
    """The report in Markdown."""
    simulated = plan.model in PACED
    note = f"\n{SIMULATED}\n" if simulated else ""
    floor = "" if simulated else _floor(plan, measured)
    lengths = [length for prompts in measured.prompts.values() for length in prompts]
    return f"""\
`{command}`
{note}
{ways_table(measured.rounds, measured.prompts, plan.tokens, None if simulated else measured.floor)}

Medians of {len(measured.rounds)} rounds, in brackets the least and the most ratio; prompts of {min(lengths)} to
{max(lengths)} tokens, {plan.tokens} new tokens each, greedy; {plan.model} in {plan.kind}.
{floor}
```
{describe_device(plan.device, plan.threads)}
{describe_machine(measured.others_cores)}
```"""


def _floor(plan: Plan, measured: Measured) -> str:
    return f"""
What decoding must read, at {measured.floor.bytes_per_second / 1e9:.1f} GB/s (the best of some tries in each round):

{floor_table(measured.prompts, plan.tokens, measured.floor)}
"""


def _plan(options: argparse.Namespace) -> Plan:
    """Raises ValueError where a number makes no sense."""
    if min(*options.jobs, options.tokens, options.rounds, options.threads, options.alone or 1) < 1:
        raise ValueError("jobs, tokens, rounds, threads and alone are 1 or more")
    fewest, _, most = options.prompt.partition(":")
    return Plan(
        options.model,
        options.device,
        options.dtype,
        options.jobs,
        options.tokens,
        (int(fewest), int(most or fewest)),
        options.ways,
        options.alone,
        options.rounds,
        options.threads,
        options.openai,
        options.openai_model,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.engine", description="Measure the engine beside generate.")
    add, plan = parser.add_argument, Plan("builtin:smollm2")
    add(
        "--model",
        default=plan.model,
        help="a catalog's source, random-8b, paced-8b (a simulated card) or tiny (%(default)s)",
    )
    add("--device", default=plan.device, help="cpu, cuda or cuda:N (%(default)s)")
    add("--dtype", choices=("auto", *DTYPES), default=plan.dtype, help="auto is float32 on the CPU, else bfloat16")
    add("--jobs", type=int, nargs="+", default=plan.jobs, help="jobs at once (1 8 32 128)")
    add("--tokens", type=int, default=plan.tokens, help="new tokens of each job (%(default)s)")
    add("--prompt", default="20:60", help="tokens of the prompts, from the least to the most (%(default)s)")
    add("--ways", nargs="+", choices=WAYS, default=plan.ways, help="which ways (all)")
    add("--alone", type=int, help="one by one, measure so many jobs at most (all)")
    add("--rounds", type=int, default=plan.rounds, help="rounds (%(default)s)")
    add("--threads", type=int, default=plan.threads, help="torch's threads on the CPU (%(default)s)")
    add(
        "--openai", metavar="URL", help="an OpenAI-compatible server that serves the same model, as http://host:8000/v1"
    )
    add("--openai-model", metavar="NAME", help="what that server calls the model")
    add("--out", type=Path, help="write the report there, too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
