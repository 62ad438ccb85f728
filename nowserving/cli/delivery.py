"""`deliveries` and `redeliver`: what became of the webhooks, and once more the ones that came to nothing."""

from __future__ import annotations

import json as jsonlib
from typing import Annotated

import typer

from nowserving.cli.option import URL, DeliveryId, Json, Url, connect
from nowserving.cli.table import draw_attempts, draw_deliveries, print_table, screen_width
from nowserving.delivery import DeliveryStatus


def deliveries(
    job: Annotated[str | None, typer.Option(metavar="JOB", help="Those of one job, with each attempt.")] = None,
    status: Annotated[DeliveryStatus | None, typer.Option(help="Only deliveries of this status.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most; of one job all are shown.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="Go on where an earlier list ended.")] = None,
    json: Json = False,
    url: Url = URL,
) -> None:
    """List webhook deliveries, newest first."""
    with connect(url) as client:
        page = client.deliveries(job, status.value if status else None, cursor, limit)
    if json:
        typer.echo(jsonlib.dumps([delivery.raw for delivery in page.deliveries], ensure_ascii=False))
        return
    print_table(draw_deliveries(page.deliveries, screen_width()))
    for delivery in page.deliveries if job else ():
        typer.echo(f"\n{delivery.id} to {delivery.url}")
        print_table(draw_attempts(delivery))
    if page.next_cursor:
        typer.echo(f"more: --cursor {page.next_cursor}", err=True)


def redeliver(delivery_id: DeliveryId, json: Json = False, url: Url = URL) -> None:
    """Send a webhook once more, under the same id."""
    with connect(url) as client:
        found = client.redeliver(delivery_id)
    typer.echo(jsonlib.dumps(found.raw, ensure_ascii=False) if json else f"{found.id} {found.status}")
