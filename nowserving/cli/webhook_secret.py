"""The secret that `up` signs webhooks with where none is set: made once, and kept beside the data."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from pydantic import SecretStr

from nowserving.cli.failure import StartError
from nowserving.secret import check_secret, new_secret
from nowserving.settings import Settings

SECRET_FILE = "webhook_secret"
"""In the data folder."""


def with_secret(settings: Settings) -> tuple[Settings, Path | None]:
    """Settings with a secret, and the file that holds it; no file where the settings name one.

    Raises StartError if the file cannot be made, read, or used.
    """
    if settings.webhook_secret:
        return settings, None
    path = secret_path(settings)
    try:
        if not path.exists():
            _make(path)
        secrets = tuple(map(SecretStr, read_secrets(path)))
    except OSError as error:
        raise StartError(f"the webhook secret {path} cannot be used: {error.strerror}") from None
    return settings.model_copy(update={"webhook_secret": secrets}), path


def secret_path(settings: Settings) -> Path:
    """Where the file is, if there is one."""
    return settings.data_dir.expanduser().absolute() / SECRET_FILE


def read_secrets(path: Path) -> list[str]:
    """What the file holds: one secret, or two while it is changed. Raises OSError or StartError."""
    try:
        words = path.read_text("utf-8").replace(",", " ").split()
        if not 1 <= len(words) <= 2:
            raise ValueError("it holds one secret, or two while it is changed")
        return [check_secret(word) for word in words]
    except ValueError as error:
        raise StartError(f"{path}: {error}; mend it, or remove it to have another made") from None


def _make(path: Path) -> None:
    """Whole or not at all, and only once, whoever else does so now: all are to sign with the same."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    number, name = tempfile.mkstemp(dir=path.parent, prefix=f"{SECRET_FILE}-")  # mode 0600
    try:
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(new_secret() + "\n")
        with suppress(FileExistsError):
            os.link(name, path)
    finally:
        os.unlink(name)
