"""`keda render`: the catalog as manifests for Kubernetes and KEDA. `keda check` is in check.py."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from nowserving.catalog import load_catalog
from nowserving.cli.check import check
from nowserving.cli.failure import StartError
from nowserving.keda.render import NAMESPACE, render
from nowserving.settings import load_settings

app = typer.Typer(no_args_is_help=True, help="Manifests for Kubernetes with KEDA.")
app.command()(check)


def _match(pattern: str, what: str, value: str) -> str:
    if value and not re.fullmatch(pattern, value):
        raise typer.BadParameter(f"{value!r} is no {what}")
    return value


def _check_namespace(value: str) -> str:
    return _match(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", "name of a namespace", value)


def _check_address(value: str) -> str:
    return _match(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?:[0-9]{1,5}", "host:port", value)


@app.callback()
def main() -> None:
    """Manifests for Kubernetes with KEDA."""


@app.command(name="render")
def render_(
    models: Annotated[Path | None, typer.Option(help="models.toml.", show_default="NOWSERVING_MODELS_FILE")] = None,
    namespace: Annotated[str, typer.Option(callback=_check_namespace, help="Where they are applied.")] = NAMESPACE,
    redis: Annotated[
        str,
        typer.Option(
            callback=_check_address,
            help="host:port of Redis, as KEDA reaches it.",
            show_default="the Service nowserving-redis of that namespace",
        ),
    ] = "",
    out: Annotated[Path, typer.Option(help="The file to write; - is stdout.")] = Path("-"),
) -> None:
    """Write each model's workers and how they are scaled, from models.toml, as YAML with its reasons."""
    settings = load_settings()
    text = render(load_catalog(models or settings.models_file), settings, namespace, redis)
    if out == Path("-"):
        sys.stdout.write(text)
        return
    try:
        out.write_text(text)
    except OSError as error:
        raise StartError(f"{out} cannot be written: {error.strerror}") from None
