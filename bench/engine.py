"""`python -m bench.engine`: an engine worth its device? The same chats by every way, side by side in one run.

The ways are transformers' `generate` one by one and as a static batch, the engine bare, and the engine through the
whole stack. Each number of jobs is answered by all ways in turn, in rounds that change their order; the jobs of one
number are all submitted at once.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from bench import model as models
from bench.bandwidth import Floor, measure_bandwidth, weights_bytes
from bench.chat import Chat, make_chats
from bench.engine_table import Prompts, Round, floor_table, ways_table
from bench.errors import BenchError
from bench.machine import Watch, describe_device, describe_machine
from bench.run import Run
from bench.ways import BareEngine, Generate, StaticBatch, Way
from bench.whole import WholeStack
from nowserving.job import MESSAGE_TOKENS, TEMPLATE_TOKENS
from workers.engines.transformers import TransformersEngine

WARM_UP_TOKENS = 4
PROMPT_BYTES_A_TOKEN = 8
"""The gate counts a prompt by its bytes, before any tokenizer has seen it; so many suffice for the words used here."""
WAYS = ("alone", "static", "engine", "stack")


def main() -> int:
    """Run, print the tables, and write them where told."""
    options = _parse(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # ends the parts as Ctrl-C does
    try:
        report = run(options)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(report)
    if options.out:
        options.out.write_text(report + "\n")
    return 0


def run(options: argparse.Namespace) -> str:
    """Measure; the report in Markdown. Raises BenchError."""
    torch.set_num_threads(options.threads)
    with ExitStack() as parts:
        model, tokenizer = models.make(options.model, options.device, options.dtype)
        bandwidths = [measure_bandwidth(options.device)]
        plain = models.twin(model)
        slots = max(options.jobs)
        tokens = TEMPLATE_TOKENS + MESSAGE_TOKENS + options.prompt[1] * PROMPT_BYTES_A_TOKEN + options.tokens
        budget_bytes = models.cache_bytes(model, slots * tokens)
        engine = TransformersEngine.of(
            model, tokenizer, slots=slots, budget_bytes=budget_bytes, threads=options.threads
        )
        parts.callback(engine.close)
        engine.start()
        ways: dict[str, Way] = {
            "alone": Generate(plain, tokenizer, options.alone),
            "static": StaticBatch(plain, tokenizer),
            "engine": BareEngine(engine),
        }
        stacks: list[WholeStack] = []
        if "stack" in options.ways:
            stacks = [parts.enter_context(WholeStack(_entry(options, slots, budget_bytes)))]
            ways["stack"] = stacks[0]
        chats = [
            {
                jobs: make_chats(engine, jobs, options.prompt, options.tokens, f"{number}/{jobs}")
                for jobs in options.jobs
            }
            for number in range(options.rounds)
        ]
        chosen = [ways[name] for name in WAYS if name in options.ways]
        _warm_up(chosen, chats[0])
        watch = Watch(stacks)
        rounds, others_cores = [], []
        for number, asked in enumerate(chats):
            rounds.append({jobs: _answer(chosen, asked[jobs], options.tokens, number) for jobs in options.jobs})
            others_cores.append(watch.others_cores())
            bandwidths.append(measure_bandwidth(options.device))
        prompts = {jobs: [len(chat.prompt_ids) for chat in asked] for jobs, asked in chats[0].items()}
        floor = Floor(max(bandwidths), weights_bytes(plain), engine.cost)
        return _report(options, rounds, prompts, floor, others_cores)


def _entry(options: argparse.Namespace, slots: int, budget_bytes: int) -> str:
    """The model in the worker's catalog."""
    return f"""\
engine = "bench.model:engine"
source = "{options.model}@{budget_bytes}"
slots = {slots}
memory_fraction = 1.0
device = "{options.device}"
dtype = "{options.dtype}"
threads = {options.threads}
"""


def _warm_up(ways: Sequence[Way], chats: dict[int, Sequence[Chat]]) -> None:
    """What a process or a device does once for each size of a batch is done before the clock runs."""
    for jobs, asked in chats.items():
        for way in ways:
            some = asked[:1] if isinstance(way, Generate) else asked
            print(f"warming up: {way.name}, {jobs} jobs", file=sys.stderr, flush=True)
            way.answer(some, WARM_UP_TOKENS)


def _answer(ways: Sequence[Way], chats: Sequence[Chat], new_tokens: int, number: int) -> dict[str, Run]:
    """One number of jobs by all ways, beginning with another in each round."""
    first = number % len(ways)
    runs = {}
    for way in (*ways[first:], *ways[:first]):
        runs[way.name] = way.answer(chats, new_tokens)
        rate = runs[way.name].tokens_per_second
        print(f"round {number + 1}: {way.name}, {len(chats)} jobs: {rate:.1f} tokens/s", file=sys.stderr, flush=True)
    return runs


def _report(
    options: argparse.Namespace,
    rounds: Sequence[Round],
    prompts: Prompts,
    floor: Floor,
    others_cores: Sequence[float],
) -> str:
    fewest = min(min(lengths) for lengths in prompts.values())
    most = max(max(lengths) for lengths in prompts.values())
    command = " ".join(["python -m bench.engine", *sys.argv[1:]])
    return f"""\
`{command}`

{ways_table(rounds, prompts, options.tokens, floor)}

Medians of {len(rounds)} rounds, in brackets the least and the most ratio; prompts of {fewest} to {most} tokens,
{options.tokens} new tokens each, greedy, {options.model} in {_dtype(options)}.

What decoding must read, at {floor.bytes_per_second / 1e9:.1f} GB/s (the best of several tries before and after each round):

{floor_table(prompts, options.tokens, floor)}

{describe_device(options.device, options.threads)}
{describe_machine(others_cores)}"""


def _dtype(options: argparse.Namespace) -> str:
    if options.dtype != "auto":
        return str(options.dtype)
    return "float32" if options.device == "cpu" else "bfloat16"


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.engine", description="Measure the engine beside generate.")
    parser.add_argument("--model", default="builtin:smollm2", help="a catalog's source, random-8b or tiny")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (cpu)")
    parser.add_argument(
        "--dtype", choices=("auto", *models.DTYPES), default="auto", help="float32 on cpu, else bfloat16"
    )
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 8, 32, 128], help="jobs at once (1 8 32 128)")
    parser.add_argument("--tokens", type=int, default=64, help="new tokens of each job (64)")
    parser.add_argument("--prompt", type=_range, default=(20, 60), help="tokens of the prompts (20:60)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="which ways (all)")
    parser.add_argument("--alone", type=int, help="one by one, measure so many jobs at most (all)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (3)")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads on the CPU (1)")
    parser.add_argument("--out", type=Path, help="write the report there, too")
    options = parser.parse_args(words)
    if min(*options.jobs, options.tokens, options.rounds, options.threads, options.alone or 1) < 1:
        parser.error("jobs, tokens, rounds, threads and alone are 1 or more")
    return options


def _range(text: str) -> tuple[int, int]:
    fewest, _, most = text.partition(":")
    return int(fewest), int(most or fewest)


if __name__ == "__main__":
    sys.exit(main())
