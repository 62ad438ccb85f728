"""Options and arguments that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from nowserving.client import DEFAULT_URL, Client

Url = Annotated[str, typer.Option("--url", envvar="NOWSERVING_URL", help="Where the API is.")]
Json = Annotated[bool, typer.Option("--json", help="Print the API's JSON.")]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="A job's id.", show_default=False)]
DeliveryId = Annotated[str, typer.Argument(metavar="DELIVERY", help="A delivery's id.", show_default=False)]

URL = DEFAULT_URL
RETRY_SECONDS = 5.0
"""Somebody sits before the screen: say soon that nobody answers."""


def connect(url: str) -> Client:
    """A client for one command."""
    return Client(url, retry_seconds=RETRY_SECONDS)
