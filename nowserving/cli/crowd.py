"""The demo's first half: six chats at once on one worker, shown as they run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from rich.live import Live
from rich.padding import Padding
from rich.text import Text

from nowserving.cli.stack import TICK_SECONDS
from nowserving.cli.stage import Stage
from nowserving.cli.watch import Watched, ask_why, describe, draw, follow, submit
from nowserving.client import Client
from nowserving.job import Status

PROMPTS = (
    "What is the capital of France?",
    "Why is the sky blue?",
    "Write one sentence about the sea.",
    "Name three fruits and their colours.",
    "What is a queue, in simple words?",
    "Give me a tip for a good night's sleep.",
)
ASK_SECONDS = 0.5


def run(stage: Stage, client: Client, model: str, max_new_tokens: int, webhook: str) -> list[Watched]:
    """Submit the chats and show them until all have ended; the URL `webhook` is called at the end of the first.

    Raises PartError or Interrupted.
    """
    jobs = [Watched(number, prompt) for number, prompt in enumerate(PROMPTS, 1)]
    for watched in jobs:
        submit(client, watched, model, max_new_tokens, webhook if watched.number == 1 else None)
    for watched in jobs:
        follow(stage.stack.url, watched)
    watch(stage, client, jobs)
    return jobs


def watch(stage: Stage, client: Client, jobs: Sequence[Watched]) -> None:
    """Show the jobs until all have ended: a table that changes, or lines where there is no terminal."""
    if stage.console.is_terminal:
        with Live(draw(jobs), console=stage.console, auto_refresh=False) as live:
            loop(stage, client, jobs, lambda: live.update(draw(jobs), refresh=True))
        return
    printed: dict[int, str] = {}

    def print_changes() -> None:
        for line in changes(printed, jobs):
            stage.console.print(Text(line), soft_wrap=True)

    loop(stage, client, jobs, print_changes)


def loop(stage: Stage, client: Client, jobs: Sequence[Watched], show: Callable[[], None]) -> None:
    """Look after the stack and show the jobs until they have ended."""
    ask_at = 0.0
    while not all(watched.ended for watched in jobs):
        if time.monotonic() >= ask_at:
            ask_why(client, jobs)
            ask_at = time.monotonic() + ASK_SECONDS
        show()
        stage.tick(TICK_SECONDS)
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


def print_texts(stage: Stage, jobs: Iterable[Watched]) -> None:
    """Print what was asked and what was answered."""
    for watched in jobs:
        stage.console.print(Text(f"\n{watched.number}. {watched.prompt}", style="bold"))
        stage.console.print(Padding(Text(watched.text.strip() or watched.error), (0, 0, 0, 3)))
    stage.console.print()
