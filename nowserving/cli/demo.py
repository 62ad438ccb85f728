"""`demo`: real jobs through everything, watched live; a worker killed amid them, a webhook; and nothing left behind."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from nowserving.catalog import load_catalog
from nowserving.cli import crowd, takeover
from nowserving.cli.callback import HOST, Callback
from nowserving.cli.example import make_curl
from nowserving.cli.failure import INTERRUPTED, JobFailedError
from nowserving.cli.interrupt import Interrupt, Interrupted
from nowserving.cli.stack import Stack
from nowserving.cli.stage import Stage
from nowserving.cli.table import explain_start
from nowserving.cli.tally import Tally, count_ends, find_wrong, tally
from nowserving.cli.watch import Watched
from nowserving.client import Client
from nowserving.errors import NowservingError
from nowserving.job import Status
from nowserving.settings import Settings, load_settings

MODEL = "smollm2"
MODELS = f'[models.{MODEL}]\nengine = "transformers"\nsource = "builtin:smollm2"\nslots = 4\ndtype = "float32"\n'
"""Fewer slots than jobs: two of them are seen to wait."""
KILLED = 1
"""Which of the chats is run once more: one with a long answer."""
LEASE_SECONDS = 2.0
"""Shorter than the default: who watches does not want to wait for a dead worker's lease to lapse."""


def demo(
    max_new_tokens: Annotated[int, typer.Option(min=16, help="Tokens a job makes at most.")] = 56,
    limit_seconds: Annotated[float, typer.Option(min=1, help="Give up after so long.")] = 300,
) -> None:
    """Start everything, run six chats on a small model at once, kill a worker amid a seventh, stop everything.

    One of the chats has a webhook, which is sent to this process.
    """
    console = Console(highlight=False)
    lines: deque[str] = deque(maxlen=30)

    def write(name: str, line: str) -> None:
        lines.append(f"{name} | {line}")

    deadline = time.monotonic() + limit_seconds
    folder = TemporaryDirectory(prefix="nowserving-", ignore_cleanup_errors=True)
    with folder, Interrupt() as interrupt, Callback() as callback:
        settings = make_settings(Path(folder.name), callback.secret)
        try:
            with Stack(settings, load_catalog(settings.models_file), write, interrupt) as stack:
                counted, wrong = play(Stage(console, stack, interrupt, deadline), callback, max_new_tokens)
            console.print("All stopped. To keep it running: [bold]make up[/bold], and in another shell:")
            console.print(Text(make_curl(f"http://127.0.0.1:{load_settings().port}", MODEL)), soft_wrap=True)
            console.print(f"\n[bold]{counted}[/bold]")
            if wrong:
                raise JobFailedError("; ".join(wrong))
        except Interrupted:
            raise typer.Exit(INTERRUPTED) from None
        except NowservingError:
            for line in lines:
                typer.echo(line, err=True)
            raise


def make_settings(folder: Path, webhook_secret: str) -> Settings:
    """Settings that leave no trace: everything in `folder`, on any free port, and nobody else called back."""
    models_file = folder / "models.toml"
    models_file.write_text(MODELS)
    return load_settings(
        host="127.0.0.1",
        port=0,
        data_dir=folder / "redis",
        models_file=models_file,
        lease_seconds=LEASE_SECONDS,
        drain_seconds=1,
        webhook_secret=webhook_secret,
        webhook_allow=HOST,
        receivers_file=None,
    )


def play(stage: Stage, callback: Callback, max_new_tokens: int) -> tuple[Tally, list[str]]:
    """Bring the stack up, play both halves and tell of the webhook; what was counted, and what is wrong.

    Raises PartError or Interrupted.
    """
    console, stack = stage.console, stage.stack
    began_at = time.monotonic()
    with stage.busy("Starting Redis, the API and a worker; the worker loads its model …"):
        stack.start(stage.deadline, embedded=True)
    ready_at = time.monotonic()
    with Client(stack.url, retry_seconds=10) as client:
        start = "".join(f" ({explain_start(worker)})" for worker in client.workers() if explain_start(worker))
        console.print(f"Ready in {ready_at - began_at:.1f} s{start}.")
        console.print("Six chats at once, for a model with 4 slots:")
        jobs = crowd.run(stage, client, MODEL, max_new_tokens, callback.url)
        wrong: list[str] = []
        well = all(watched.status is Status.SUCCEEDED for watched in jobs)
        if well:
            # It loads while one reads.
            stack.add_worker(MODEL)
        crowd.print_texts(stage, jobs)
        print_rate(console, jobs, ready_at)
        if well:
            console.print("\nNow the second chat once more, and its worker is killed with -9 in mid-sentence.")
            with stage.busy("Another worker of the same model is starting …"):
                stack.wait_till_ready(stage.deadline)
            chat, wrong = takeover.run(stage, client, jobs[KILLED], MODEL, max_new_tokens)
            jobs.append(chat)
        wrong += callback.run(stage, jobs[0].job_id)
    ends = count_ends(stack.redis_url, [watched.job_id for watched in jobs])
    return tally(jobs, ends), find_wrong(jobs, ends) + wrong


def print_rate(console: Console, jobs: list[Watched], began_at: float) -> None:
    """Print how fast the jobs were together."""
    took_seconds = max(watched.last_at for watched in jobs) - began_at
    tokens = sum(watched.tokens for watched in jobs)
    console.print(f"{tokens} tokens in {took_seconds:.1f} s: {tokens / max(took_seconds, 0.001):.1f} tokens/s overall.")
