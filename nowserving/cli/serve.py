"""`api`, `worker` and `deliver`: become the ecosystem's own command."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from nowserving.catalog import load_catalog
from nowserving.cli import command
from nowserving.cli.port import check_port
from nowserving.settings import Settings, load_settings


def api(
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="NOWSERVING_HOST")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.", show_default="NOWSERVING_PORT")] = None,
) -> None:
    """Run the API: uvicorn api.app:app."""
    given = {"host": host, "port": port}
    settings = load_settings(**{name: value for name, value in given.items() if value is not None})
    load_catalog(settings.models_file)
    root = command.find_root("api")
    command.require("uvicorn", "api")
    check_port(settings.host, settings.port)
    _become(command.api_command(settings.host, settings.port), settings, root)


def worker(model: Annotated[str, typer.Argument(help="A model of the catalog.", show_default=False)]) -> None:
    """Run a worker for one model: celery -A workers.app worker -Q nowserving:queue:MODEL."""
    settings = load_settings()
    name = load_catalog(settings.models_file)[model].name
    root = command.find_root("workers")
    command.require("celery", "worker")
    _become(command.worker_command(name), settings, root)


def deliver() -> None:
    """Run a deliverer, which sends webhooks: celery -A workers.app worker -Q nowserving:queue:@webhooks."""
    settings = load_settings()
    load_catalog(settings.models_file)
    root = command.find_root("workers")
    command.require("celery", "worker")
    _become(command.deliver_command(), settings, root)


def _become(run: list[str], settings: Settings, root: Path) -> None:
    env = command.environment(settings, root)
    os.chdir(root)
    sys.stdout.flush()
    os.execvpe(run[0], run, env)
