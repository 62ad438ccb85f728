"""How a command fails: one line on stderr and an exit code, never a traceback for what is not a bug."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from nowserving.errors import CatalogError, NowservingError, SettingsError, UnknownModelError

FAILED = 1
"""The job failed, the API refused or a part of `up` broke down."""
USAGE = 2
"""Wrong arguments or settings, or something that must be there is not."""
INTERRUPTED = 130


class StartError(NowservingError):
    """Something that has to be there before anything is started is not."""

    code = "cannot_start"


class PartError(NowservingError):
    """A part of `up` ended by itself, and the rest cannot go on."""

    code = "part_ended"


class JobFailedError(NowservingError):
    """The job that was waited for did not succeed."""

    code = "job_failed"


def exit_code(error: NowservingError) -> int:
    """The exit code an error stands for."""
    return USAGE if isinstance(error, (StartError, SettingsError, CatalogError, UnknownModelError)) else FAILED


class Group(TyperGroup):
    """The commands; what they raise of ours becomes one line."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except NowservingError as error:
            typer.echo(f"nowserving: {' '.join(error.message.split())}", err=True)
            raise typer.Exit(exit_code(error)) from None
