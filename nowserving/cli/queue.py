"""`queues`: how many jobs wait for which model."""

from __future__ import annotations

import json as jsonlib

import typer

from nowserving.cli.option import URL, Json, Url, connect
from nowserving.cli.table import draw_queues, print_table


def queues(json: Json = False, url: Url = URL) -> None:
    """Show each model's queue."""
    with connect(url) as client:
        found = client.queues()
    if json:
        typer.echo(jsonlib.dumps(found, ensure_ascii=False))
    else:
        print_table(draw_queues(found))
