"""`jobs`, `job`, `cancel` and `retry`: look at what was submitted, and do something about it."""

from __future__ import annotations

import json as jsonlib
from typing import Annotated

import typer

from nowserving.cli.failure import JobFailedError
from nowserving.cli.option import URL, JobId, Json, Url, connect
from nowserving.cli.table import draw_job, draw_jobs, print_table, screen_width
from nowserving.client import Job
from nowserving.job import Status


def jobs(
    status: Annotated[Status | None, typer.Option(help="Only jobs of this status.")] = None,
    model: Annotated[str | None, typer.Option(help="Only jobs for this model.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="Go on where an earlier list ended.")] = None,
    json: Json = False,
    url: Url = URL,
) -> None:
    """List jobs, newest first."""
    with connect(url) as client:
        page = client.jobs(status.value if status else None, model, cursor, limit)
    if json:
        typer.echo(jsonlib.dumps([job.raw for job in page.jobs], ensure_ascii=False))
        return
    print_table(draw_jobs(page.jobs, screen_width()))
    if page.next_cursor:
        typer.echo(f"more: --cursor {page.next_cursor}", err=True)


def job(
    job_id: JobId,
    wait_seconds: Annotated[float | None, typer.Option("--wait", min=0, help="Seconds to wait for its end.")] = None,
    json: Json = False,
    url: Url = URL,
) -> None:
    """Look at one job. With --wait the exit code says whether it succeeded."""
    with connect(url) as client:
        found = client.get(job_id) if wait_seconds is None else client.wait(job_id, wait_seconds)
    show(found, json)
    if wait_seconds is not None:
        judge(found)


def cancel(job_id: JobId, json: Json = False, url: Url = URL) -> None:
    """Cancel a job; done twice is done once."""
    with connect(url) as client:
        found = client.cancel(job_id)
    if json:
        show(found, json)
    else:
        typer.echo(f"{found.id} {found.status}")


def retry(job_id: JobId, json: Json = False, url: Url = URL) -> None:
    """Run a job that failed, expired or was canceled anew; prints the new job's id."""
    with connect(url) as client:
        made = client.retry(job_id)
    show(made, json) if json else typer.echo(made.id)


def show(found: Job, json: bool) -> None:
    """Print a job on stdout."""
    if json:
        typer.echo(jsonlib.dumps(found.raw, ensure_ascii=False))
    else:
        print_table(draw_job(found))


def judge(found: Job) -> None:
    """Raise JobFailedError unless the job succeeded."""
    if found.status is Status.SUCCEEDED:
        return
    error = found.error or {}
    why = f": {error.get('code')}: {error.get('message')}" if error else ""
    raise JobFailedError(f"{found.id} {found.status}{why}")
