"""`demo`: six real jobs through everything, watched live, and nothing left behind."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.padding import Padding
from rich.text import Text

from nowserving.catalog import load_catalog
from nowserving.cli.example import make_curl
from nowserving.cli.failure import INTERRUPTED, JobFailedError, PartError
from nowserving.cli.interrupt import Interrupt, Interrupted
from nowserving.cli.stack import TICK_SECONDS, Stack
from nowserving.cli.watch import Watched, ask_why, describe, draw, follow, submit
from nowserving.client import Client
from nowserving.errors import NowservingError
from nowserving.job import Status
from nowserving.settings import Settings, load_settings

MODEL = "smollm2"
MODELS = f'[models.{MODEL}]\nengine = "transformers"\nsource = "builtin:smollm2"\nslots = 4\n'
"""Fewer slots than jobs: two of them are seen to wait."""
PROMPTS = (
    "What is the capital of France?",
    "Why is the sky blue?",
    "Write one sentence about the sea.",
    "Name three fruits and their colours.",
    "What is a queue, in simple words?",
    "Give me a tip for a good night's sleep.",
)
ASK_SECONDS = 0.5


def demo(
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens a job makes at most.")] = 56,
    limit_seconds: Annotated[float, typer.Option(min=1, help="Give up after so long.")] = 300,
) -> None:
    """Start everything, run six chats on a small model at once, show them live, stop everything."""
    console = Console(highlight=False)
    lines: deque[str] = deque(maxlen=30)

    def write(name: str, line: str) -> None:
        lines.append(f"{name} | {line}")

    deadline = time.monotonic() + limit_seconds
    with TemporaryDirectory(prefix="nowserving-", ignore_cleanup_errors=True) as folder, Interrupt() as interrupt:
        settings = make_settings(Path(folder))
        try:
            with Stack(settings, load_catalog(settings.models_file), write, interrupt) as stack:
                run(console, stack, interrupt, max_new_tokens, deadline)
        except Interrupted:
            raise typer.Exit(INTERRUPTED) from None
        except NowservingError:
            for line in lines:
                typer.echo(line, err=True)
            raise
    console.print("All stopped. To keep it running: [bold]make up[/bold], and in another shell:")
    console.print(Text(make_curl("http://127.0.0.1:8000", MODEL)), soft_wrap=True)


def make_settings(folder: Path) -> Settings:
    """Settings that leave no trace: everything in `folder`, on any free port."""
    models_file = folder / "models.toml"
    models_file.write_text(MODELS)
    return load_settings(host="127.0.0.1", port=0, data_dir=folder / "redis", models_file=models_file, drain_seconds=1)


def run(console: Console, stack: Stack, interrupt: Interrupt, max_new_tokens: int, deadline: float) -> None:
    """Bring the stack up, run the jobs, print what came of them. Raises JobFailedError, PartError, Interrupted."""
    began_at = time.monotonic()
    starting = "Starting Redis, the API and a worker; the worker loads its model …"
    with console.status(starting) if console.is_terminal else nullcontext():
        if not console.is_terminal:
            console.print(starting)
        stack.start(deadline - time.monotonic(), embedded=True)
    ready_at = time.monotonic()
    console.print(f"Ready in {ready_at - began_at:.1f} s. Six chats at once, for a model with 4 slots:")
    jobs = [Watched(number, prompt) for number, prompt in enumerate(PROMPTS, 1)]
    with Client(stack.url, retry_seconds=10) as client:
        for watched in jobs:
            submit(client, watched, MODEL, max_new_tokens)
        for watched in jobs:
            follow(stack.url, watched)
        watch(console, stack, interrupt, client, jobs, deadline)
    took_seconds = max(watched.last_at for watched in jobs) - ready_at
    print_texts(console, jobs)
    tokens = sum(watched.tokens for watched in jobs)
    console.print(f"{tokens} tokens in {took_seconds:.1f} s: {tokens / max(took_seconds, 0.001):.1f} tokens/s overall.")
    failed = [watched for watched in jobs if watched.status is not Status.SUCCEEDED]
    if failed:
        raise JobFailedError("; ".join(describe(watched) for watched in failed))


def watch(
    console: Console, stack: Stack, interrupt: Interrupt, client: Client, jobs: Sequence[Watched], deadline: float
) -> None:
    """Show the jobs until all have ended: a table that changes, or lines where there is no terminal."""
    if console.is_terminal:
        with Live(draw(jobs), console=console, auto_refresh=False) as live:
            loop(stack, interrupt, client, jobs, deadline, lambda: live.update(draw(jobs), refresh=True))
        return
    printed: dict[int, str] = {}

    def print_changes() -> None:
        for line in changes(printed, jobs):
            console.print(Text(line), soft_wrap=True)

    loop(stack, interrupt, client, jobs, deadline, print_changes)


def loop(
    stack: Stack,
    interrupt: Interrupt,
    client: Client,
    jobs: Sequence[Watched],
    deadline: float,
    show: Callable[[], None],
) -> None:
    """Look after the stack and show the jobs until they have ended."""
    ask_at = 0.0
    while not all(watched.ended for watched in jobs):
        stack.check()
        if time.monotonic() >= ask_at:
            ask_why(client, jobs)
            ask_at = time.monotonic() + ASK_SECONDS
        show()
        if time.monotonic() > deadline:
            raise PartError("the jobs did not end in time")
        interrupt.pause(TICK_SECONDS)
    show()


def changes(printed: dict[int, str], jobs: Iterable[Watched]) -> list[str]:
    """Lines for those submitted jobs whose status, or reason to wait, is new; `printed` remembers."""
    lines = []
    for watched in jobs:
        line = describe(watched)
        if (not watched.ended and not watched.job_id) or (watched.status is Status.QUEUED and not watched.wait):
            continue
        if printed.get(watched.number) != line:
            printed[watched.number] = line
            lines.append(line)
    return lines


def print_texts(console: Console, jobs: Iterable[Watched]) -> None:
    """Print what was asked and what was answered."""
    for watched in jobs:
        console.print(Text(f"\n{watched.number}. {watched.prompt}", style="bold"))
        console.print(Padding(Text(watched.text.strip() or watched.error), (0, 0, 0, 3)))
    console.print()
