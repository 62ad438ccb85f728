"""Answers of the API as tables and lines for a person."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from nowserving.client import Delivery, Job
from nowserving.delivery import DeliveryStatus
from nowserving.job import Status

STATUS_STYLES = {
    Status.QUEUED: "yellow",
    Status.RUNNING: "cyan",
    Status.SUCCEEDED: "green",
    Status.FAILED: "red",
    Status.CANCELED: "dim",
    Status.EXPIRED: "magenta",
}

DELIVERY_STYLES = {
    DeliveryStatus.PENDING: "yellow",
    DeliveryStatus.SENDING: "cyan",
    DeliveryStatus.DELIVERED: "green",
    DeliveryStatus.DEAD: "red",
    DeliveryStatus.STOPPED: "dim",
}

WIDE = 110
"""Columns that all fields of a list of jobs need; on narrower screens some are left out."""


def draw_jobs(jobs: Iterable[Job], width: int = WIDE) -> Table:
    """Jobs, one a line, for a screen of that width; an error is told in full, over several lines if need be."""
    table = _table(("job", "model", "status", *(("created", "tokens") if width >= WIDE else ()), "text"))
    for job in jobs:
        usage = (job.output or {}).get("usage") or {}
        said = shorten(job.text, 48)
        if job.error:
            said = " ".join(f"{job.error.get('code')}: {job.error.get('message')}".split())
        more = (job.created_at.partition(".")[0], str(usage.get("completion_tokens", ""))) if width >= WIDE else ()
        table.add_row(job.id, job.model, style_status(job.status), *more, Text(said))
    return table


def draw_job(job: Job) -> Table:
    """One job, one field a line."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    table.add_row("job", job.id)
    table.add_row("model", job.model)
    table.add_row("status", style_status(job.status))
    if job.retry_of:
        table.add_row("retry of", job.retry_of)
    if job.status is Status.QUEUED and job.queue:
        table.add_row("waits", explain_wait(job.queue))
    for name in ("created_at", "started_at", "finished_at"):
        if getattr(job, name):
            table.add_row(name.removesuffix("_at"), getattr(job, name))
    if took := run_seconds(job):
        table.add_row("ran", f"{took:.1f} s")
    if job.attempt > 1:
        table.add_row("attempt", str(job.attempt))
    if job.output:
        usage = job.output.get("usage") or {}
        counts = f"{usage.get('prompt_tokens', '?')} in, {usage.get('completion_tokens', '?')} out"
        table.add_row("tokens", f"{counts} ({job.output.get('finish_reason', '?')})")
        table.add_row("text", Text(job.text))
    if job.error:
        table.add_row("error", Text(f"{job.error.get('code')}: {job.error.get('message')}", style="red"))
    return table


def draw_deliveries(deliveries: Iterable[Delivery], width: int = WIDE) -> Table:
    """Webhook deliveries, one a line; where they go is left out on a narrow screen."""
    table = _table(
        ("delivery", "status", "attempts", "text", *(("url",) if width >= WIDE else ())), right=("attempts",)
    )
    for delivery in deliveries:
        said = [explain_attempt(delivery.attempts[-1])] if delivery.attempts else []
        if delivery.next_attempt_at:
            said.append(f"again at {delivery.next_attempt_at.partition('.')[0]}Z")
        elif delivery.reason == "no_deliverer":
            said.append("no deliverer runs: nowserving deliver")
        status = Text(delivery.status.value, style=DELIVERY_STYLES[delivery.status])
        where = (Text(delivery.url),) if width >= WIDE else ()
        table.add_row(delivery.id, status, str(delivery.attempt_count), Text(tame(", ".join(said))), *where)
    return table


def draw_attempts(delivery: Delivery) -> Table:
    """A delivery's attempts, one a line."""
    table = _table(("at", "seconds", "text"), right=("seconds",))
    for attempt in delivery.attempts:
        said = tame(f"{explain_attempt(attempt)} {shorten(str(attempt.get('answer') or ''), 60)}")
        took = f"{float(attempt.get('latency_seconds') or 0):.3f}"
        table.add_row(str(attempt.get("at")), took, Text(said))
    return table


def explain_attempt(attempt: Mapping[str, Any]) -> str:
    """What came of one attempt to deliver."""
    status = attempt.get("status")
    return f"HTTP {status}" if status is not None else str(attempt.get("error") or "no answer")


def draw_queues(queues: Iterable[Mapping[str, Any]]) -> Table:
    """Queues, one a line."""
    columns = ("model", "depth", "running", "workers", "delayed", "blocked", "dead", "oldest")
    table = _table(columns, right=columns[1:])
    for queue in queues:
        oldest = queue.get("oldest_wait_seconds")
        cells = [str(queue.get(name, "")) for name in columns[1:-1]]
        table.add_row(str(queue["model"]), *cells, "" if oldest is None else f"{oldest:.0f} s")
    return table


def draw_workers(workers: Iterable[Mapping[str, Any]]) -> Table:
    """Workers, one a line."""
    table = _table(("model", "worker", "state", "running", "slots", "takes jobs"), right=("running", "slots"))
    for worker in workers:
        gate = worker.get("gate") or {}
        takes = "yes" if gate.get("open") else f"no: {gate.get('reason') or '?'}"
        table.add_row(
            Text(str(worker.get("model", ""))),
            Text(str(worker.get("name", ""))),
            Text(str(worker.get("detail") or worker.get("state", ""))),
            *(str(worker.get(name, "")) for name in ("running", "slots")),
            takes,
        )
    return table


def explain_start(worker: Mapping[str, Any]) -> str:
    """What a worker's start took, such as "import 2.1 s, load 3.0 s"; "" if it does not say."""
    seconds = worker.get("start_seconds") or {}
    return ", ".join(f"{phase} {float(took):.1f} s" for phase, took in seconds.items())


def explain_wait(queue: Mapping[str, Any]) -> str:
    """Why and how long a queued job waits, in words."""
    parts = []
    if (before := queue.get("position")) is not None:
        parts.append(f"{before} before it" if before else "next")
    behind = queue.get("reason") == "behind" and parts
    if not behind and (reason := queue.get("explanation") or queue.get("reason")):
        parts.append(str(reason))
    if (estimate := queue.get("estimated_wait_seconds")) is not None:
        parts.append(f"about {estimate:.0f} s")
    return ", ".join(parts)


def explain_progress(said: Mapping[str, Any]) -> str:
    """How much of its prompt a running job has read, in words."""
    return f"reading the prompt: {said.get('done')} of {said.get('total')} tokens"


def style_status(status: Status) -> Text:
    """The status in its colour."""
    return Text(status.value, style=STATUS_STYLES[status])


def shorten(text: str, length: int) -> str:
    """One line of at most `length` characters."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"


def tame(text: str) -> str:
    """What strangers sent, so that no character of it moves the cursor or colours the screen."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def run_seconds(job: Job) -> float | None:
    """How long the job ran, by the API's clock."""
    if not job.started_at or not job.finished_at:
        return None
    return (datetime.fromisoformat(job.finished_at) - datetime.fromisoformat(job.started_at)).total_seconds()


def screen_width() -> int:
    """Columns of stdout; more than enough if that is a file or another program."""
    console = Console()
    return console.width if console.is_terminal else 1000


def print_table(table: Table) -> None:
    """Print on stdout; not cut to any width if that is no screen."""
    Console(highlight=False, width=screen_width()).print(table)


def _table(columns: Sequence[str], right: Sequence[str] = ("tokens",)) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        justify: JustifyMethod = "right" if name in right else "left"
        least = {"job": 30, "delivery": 40}.get(name)
        table.add_column(name, justify=justify, no_wrap=name != "text", min_width=least)
    return table
