"""`up`: Redis, the API, a worker for each model and the deliverer on this machine, until Ctrl-C."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from nowserving.catalog import Catalog, load_catalog
from nowserving.cli.example import make_curl
from nowserving.cli.interrupt import Interrupt, Interrupted
from nowserving.cli.log import Log
from nowserving.cli.stack import TICK_SECONDS, Stack
from nowserving.settings import Settings, load_settings


def up(
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="NOWSERVING_HOST")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port of the API, 0: any free one.", show_default="NOWSERVING_PORT")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the data.", show_default="NOWSERVING_DATA_DIR")
    ] = None,
    models_file: Annotated[
        Path | None, typer.Option(help="models.toml.", show_default="NOWSERVING_MODELS_FILE")
    ] = None,
) -> None:
    """Run everything on this machine: Redis, the API, workers, the deliverer. Ctrl-C stops it; twice: at once."""
    given = {"host": host, "port": port, "data_dir": data_dir, "models_file": models_file}
    settings = load_settings(**{name: value for name, value in given.items() if value is not None})
    serve(settings, load_catalog(settings.models_file))


def serve(settings: Settings, catalog: Catalog) -> None:
    """Run the parts until a signal comes."""
    log = Log(Console(highlight=False), ["redis", "api", *catalog, "deliver"])
    try:
        with Interrupt() as interrupt, Stack(settings, catalog, log.write, interrupt) as stack:
            try:
                stack.start()
                log.say(f"nowserving is up at {stack.url} (Ctrl-C stops it). Try:")
                log.say(make_curl(stack.url, next(iter(catalog))))
                if stack.secret_file:
                    log.say(f"Webhooks are signed with the secret in {stack.secret_file}")
                while True:
                    interrupt.pause(TICK_SECONDS)
                    stack.check()
            except Interrupted:
                drain = f"running jobs have {settings.drain_seconds:g} s to finish"
                log.say(f"stopping: {drain}; Ctrl-C again hands them back at once")
                raise
    except Interrupted:
        log.say("stopped")
