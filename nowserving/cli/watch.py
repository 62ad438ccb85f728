"""The demo's jobs as one sees them: a thread follows each job's stream, and a table shows them all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from nowserving.cli.table import explain_progress, explain_wait, shorten, style_status
from nowserving.client import Client, JobEvent
from nowserving.errors import NowservingError
from nowserving.job import Status

Note = Callable[[JobEvent, float], None]
"""Takes in an event and when it came (monotonic seconds)."""


@dataclass(slots=True)
class Watched:
    """One job on the screen. One thread alone writes, but for `wait`; who reads it may see it a moment old.

    `tokens` is also the next token's index; `repeated` and `missing` count those that came twice or not. `end_seen`: a
    terminal event came; `ended`: nothing more will.
    """

    number: int
    prompt: str
    job_id: str = ""
    status: Status = Status.QUEUED
    wait: str = "on its way"
    tokens: int = 0
    text: str = ""
    output: str | None = None
    error: str = ""
    repeated: int = 0
    missing: int = 0
    first_at: float = 0.0
    first_tokens: int = 0
    last_at: float = 0.0
    end_seen: bool = False
    ended: bool = False

    def note(self, event: JobEvent, now: float) -> None:
        """Take in one event of the job's stream."""
        if event.type == "token":
            count = len(event.data.get("ids", ())) or 1
            index = int(event.data.get("index", self.tokens))
            self.repeated += min(count, max(0, self.tokens - index))
            self.missing += max(0, index - self.tokens)
            self.tokens = max(self.tokens, index + count)
            if not self.first_at:
                self.first_at, self.first_tokens = now, self.tokens
            self.last_at = now
            self.text += event.text
        elif event.type == "restarted":
            self.tokens, self.text, self.first_at, self.last_at = 0, "", 0.0, 0.0
        elif event.type in (Status.QUEUED, "started"):
            self.status = Status.RUNNING if event.type == "started" else Status.QUEUED
            self.wait = _why(event.data)
        elif event.type == "progress":
            self.wait = explain_progress(event.data)
        elif event.terminal:
            self.status, self.end_seen = Status(event.type), True
            self.output = (event.data.get("output") or {}).get("text")
            error = event.data.get("error") or {}
            self.error = f"{error.get('code')}: {error.get('message')}" if error else ""

    @property
    def tokens_per_second(self) -> float | None:
        """Its rate after the first tokens; None before there is one."""
        elapsed_seconds = self.last_at - self.first_at
        return (self.tokens - self.first_tokens) / elapsed_seconds if elapsed_seconds > 0 else None


def submit(client: Client, watched: Watched, model: str, max_new_tokens: int, webhook: str | None = None) -> None:
    """Put the job into the queue: they stand there in the order of these calls. `webhook`: a URL to call at its end."""
    chat = [{"role": "user", "content": watched.prompt}]
    job = client.submit(model, messages=chat, temperature=0, max_new_tokens=max_new_tokens, webhook=webhook)
    watched.wait = _why(job.queue)
    watched.job_id = job.id


def follow(url: str, watched: Watched, note: Note | None = None) -> None:
    """Follow a submitted job to its end, on a thread of its own, which passes each event to `note`, or notes it."""
    note = note or watched.note

    def run() -> None:
        try:
            with Client(url, retry_seconds=10) as client:
                for event in client.stream(watched.job_id):
                    note(event, time.monotonic())
        except NowservingError as error:
            watched.status, watched.error = Status.FAILED, error.message
        finally:
            watched.ended = True

    threading.Thread(target=run, name=f"job {watched.number}", daemon=True).start()


def ask_why(client: Client, jobs: Iterable[Watched]) -> None:
    """Find out what the queued ones wait for."""
    for watched in jobs:
        if watched.status is Status.QUEUED and watched.job_id:
            with suppress(NowservingError):
                watched.wait = _why(client.get(watched.job_id).queue)


def _why(queue: Mapping[str, Any] | None) -> str:
    """Why a job waits; of one that is about to start there is nothing to say."""
    return explain_wait(queue) if queue and queue.get("reason") != "starting" else ""


def draw(jobs: Sequence[Watched]) -> Table:
    """All jobs, one a line."""
    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    for name in ("#", "prompt", "status"):
        table.add_column(name, no_wrap=True)
    for name in ("tokens", "tokens/s"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("text, or why it waits", ratio=1, no_wrap=True, overflow="ellipsis")
    for watched in jobs:
        said = Text(watched.error, style="red") if watched.error else Text(shorten(watched.text, 200))
        if watched.status is Status.QUEUED or (watched.status is Status.RUNNING and not watched.text):
            said = Text(watched.wait, style="dim")
        table.add_row(
            str(watched.number),
            Text(shorten(watched.prompt, 34)),
            style_status(watched.status),
            str(watched.tokens or ""),
            format_rate(watched.tokens_per_second),
            said,
        )
    return table


def describe(watched: Watched) -> str:
    """One job in one line, without its text."""
    line = f"{watched.number} {watched.status}"
    if watched.status is Status.QUEUED:
        return f"{line}: {watched.wait}"
    if not watched.ended:
        return line
    rate = format_rate(watched.tokens_per_second)
    return f"{line}: {watched.error}" if watched.error else f"{line}: {watched.tokens} tokens, {rate} tokens/s"


def format_rate(tokens_per_second: float | None) -> str:
    """A rate with one decimal, or nothing."""
    return "" if tokens_per_second is None else f"{tokens_per_second:.1f}"
