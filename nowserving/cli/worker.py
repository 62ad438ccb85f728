"""`workers`: what each live worker does, how far it has loaded, and why it takes nothing."""

from __future__ import annotations

import json as jsonlib

import typer

from nowserving.cli.option import URL, Json, Url, connect
from nowserving.cli.table import draw_workers, print_table


def workers(json: Json = False, url: Url = URL) -> None:
    """Show the live workers."""
    with connect(url) as client:
        found = client.workers()
    if json:
        typer.echo(jsonlib.dumps(found, ensure_ascii=False))
    else:
        print_table(draw_workers(found))
