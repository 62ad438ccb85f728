"""`listen`: receive webhooks on this machine, verify and print them."""

from __future__ import annotations

import json as jsonlib
import os
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from nowserving.cli.failure import StartError
from nowserving.cli.interrupt import Interrupt, Interrupted
from nowserving.cli.port import make_url
from nowserving.cli.receiver import Received, Receiver
from nowserving.cli.table import shorten, tame
from nowserving.cli.webhook_secret import read_secrets, secret_path
from nowserving.secret import check_secret
from nowserving.settings import load_settings

TICK_SECONDS = 0.2
TEXT_LENGTH = 60


def listen(
    port: Annotated[int, typer.Argument(min=0, max=65535, help="Port; 0: any free one.", show_default=False)],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    secret: Annotated[
        list[str] | None,
        typer.Option(
            metavar="whsec_…",
            help="What deliveries are signed with; repeatable.",
            show_default="NOWSERVING_WEBHOOK_SECRET, or that of `nowserving up`",
        ),
    ] = None,
    fail: Annotated[int, typer.Option(min=0, help="Answer 500 to the first N, to see them come again.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each.")] = False,
) -> None:
    """Receive webhooks, verify their signatures and print them, until Ctrl-C."""
    secrets, whence = find_secrets(secret or [])
    with Interrupt() as interrupt:
        try:
            receiver = Receiver(host, port, secrets, print_json if json else print_line, fail)
        except OSError as error:
            raise StartError(f"cannot listen on {host}:{port}: {error.strerror}; name another port") from None
        with receiver:
            url = make_url(host, receiver.server_port)
            typer.echo(f"listening on {url}, verifying with {whence}; Ctrl-C stops it", err=True)
            threading.Thread(target=receiver.serve_forever, args=(TICK_SECONDS,), daemon=True).start()
            try:
                while not receiver.unheard.is_set():
                    interrupt.pause(TICK_SECONDS)
                # Nobody reads on: what Python still holds for stdout goes nowhere.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            except Interrupted:
                pass
            finally:
                receiver.shutdown()


def find_secrets(given: list[str]) -> tuple[list[str], str]:
    """The secrets to verify with, and where they are from. Raises StartError or SettingsError."""
    if given:
        try:
            return [check_secret(secret) for secret in given], "--secret"
        except ValueError as error:
            raise StartError(f"--secret: {error}") from None
    settings = load_settings()
    if settings.webhook_secret:
        return [secret.get_secret_value() for secret in settings.webhook_secret], "NOWSERVING_WEBHOOK_SECRET"
    path = secret_path(settings)
    shown = str(path).replace(str(Path.home()), "~", 1)
    try:
        return read_secrets(path), shown
    except FileNotFoundError:
        raise StartError(
            "there is no secret to verify with: give --secret, set NOWSERVING_WEBHOOK_SECRET, or start"
            f" `nowserving up`, which writes {shown}"
        ) from None
    except OSError as error:
        raise StartError(f"{path} cannot be read: {error.strerror}") from None


def print_line(received: Received) -> None:
    """Print a delivery for a person. Who sent it may not be who it says: nothing of it moves the cursor."""
    verdict = f"refused: {received.fault}" if received.fault else "verified"
    if received.again:
        verdict += ", again"
    if received.status >= 500:
        verdict += f", answered {received.status}"
    job = str(received.data.get("id") or "?")
    words = [received.type, job, received.id or "?"]
    line = "  ".join([f"{received.at:%H:%M:%S}", *(shorten(word, TEXT_LENGTH) for word in words), verdict])
    if received.text:
        line += f"  {shorten(received.text, TEXT_LENGTH)}"
    typer.echo(tame(line))


def print_json(received: Received) -> None:
    """Print a delivery for a program."""
    said = {
        "at": received.at.isoformat(timespec="milliseconds"),
        "webhook_id": received.id,
        "verified": not received.fault,
        "fault": received.fault or None,
        "again": received.again,
        "status": received.status,
        "payload": received.payload,
    }
    typer.echo(jsonlib.dumps(said))
