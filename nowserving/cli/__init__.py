"""The command line: everything a client asks, and everything on one machine."""

from __future__ import annotations

from typing import Annotated

import typer

from nowserving import __version__
from nowserving.cli import delivery, demo, job, keda, listen, queue, serve, submit, up, worker
from nowserving.cli.failure import Group

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"nowserving {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Serve generation models from a queue on GPUs."""


app.command()(demo.demo)
app.command()(up.up)
app.command()(serve.api)
app.command()(serve.worker)
app.command()(serve.deliver)
app.command()(submit.submit)
app.command()(job.jobs)
app.command()(job.job)
app.command()(job.cancel)
app.command()(job.retry)
app.command()(queue.queues)
app.command()(worker.workers)
app.command()(delivery.deliveries)
app.command()(delivery.redeliver)
app.command()(listen.listen)
app.add_typer(keda.app, name="keda")
