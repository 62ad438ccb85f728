"""The command lines behind `api`, `worker`, `deliver` and `up`, and where their code is. Nothing is started here."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import nowserving
from nowserving import keys
from nowserving.cli.failure import StartError
from nowserving.delivery import WEBHOOKS
from nowserving.settings import Settings

GRACE_SECONDS = 5
"""How long the API lets open streams go on after it was told to stop."""


def find_root(*packages: str, places: Iterable[Path] | None = None) -> Path:
    """The folder that holds these packages of the checkout or image. Raises StartError."""
    if places is None:
        named = [Path(place) for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
        places = [Path(nowserving.__file__).parent.parent, *named, Path.cwd()]
    for place in places:
        if all((place / package / "app.py").is_file() for package in packages):
            return place.resolve()
    missing = " and ".join(f"{package}/" for package in packages)
    raise StartError(
        f"there is no {missing} here: the installed package is the client alone; run this in a checkout of nowserving,"
        " or use its images"
    )


def require(module: str, extra: str) -> None:
    """Check that a module is installed, without importing it. Raises StartError naming the extra it comes with."""
    if find_spec(module) is None:
        raise StartError(f"{module} is not installed: pip install 'nowserving[{extra}]', or make install in a checkout")


def api_command(host: str, port: int) -> list[str]:
    """The API: uvicorn's own command."""
    listen = ["--host", host, "--port", str(port), "--timeout-graceful-shutdown", str(GRACE_SECONDS)]
    return [sys.executable, "-m", "uvicorn", "api.app:app", *listen, "--no-access-log"]


def worker_command(model: str, name: str = "") -> list[str]:
    """A worker: Celery's own command. The pid makes its name unlike that of another worker on this host; of several
    workers of one model that this process starts, each needs another `name`.
    """
    return _celery_command(model, name or model)


def deliver_command() -> list[str]:
    """A deliverer: the same command for the queue of webhooks."""
    return _celery_command(WEBHOOKS, "deliver")


def _celery_command(model: str, name: str) -> list[str]:
    options = ["-Q", keys.queue(model), "-n", f"{name}-{os.getpid()}@%h", "--loglevel", "INFO"]
    # Workers need not know of each other: without this a start is a second faster.
    options += ["--without-gossip", "--without-mingle"]
    return [sys.executable, "-m", "celery", "--quiet", "-A", "workers.app", "worker", *options]


def redis_command(binary: Path, port: int, data_dir: Path) -> list[str]:
    """Redis on this machine alone, with every write on disk before it is answered."""
    listen = ["--bind", "127.0.0.1", "--port", str(port), "--daemonize", "no", "--loglevel", "warning"]
    durable = ["--appendonly", "yes", "--appendfsync", "always", "--save", "", "--dir", str(data_dir)]
    return [str(binary), *listen, *durable, "--maxmemory-policy", "noeviction"]


def environment(settings: Settings, root: Path) -> dict[str, str]:
    """What a child inherits: our own environment, and the settings that options may have changed.

    Paths are made absolute, since children run in `root`.
    """
    env = dict(os.environ)
    env["PYTHONPATH"] = os.pathsep.join([str(root), *filter(None, [env.get("PYTHONPATH")])])
    env["PYTHONUNBUFFERED"] = "1"
    env.pop("NOWSERVING_REDIS_PASSWORD", None)  # it stands in the URL, if it belongs to it
    env["NOWSERVING_REDIS_URL"] = settings.redis_url.get_secret_value()
    env["NOWSERVING_HOST"] = settings.host
    env["NOWSERVING_PORT"] = str(settings.port)
    env["NOWSERVING_LEASE_SECONDS"] = str(settings.lease_seconds)
    env["NOWSERVING_DRAIN_SECONDS"] = str(settings.drain_seconds)
    env["NOWSERVING_WEBHOOK_ALLOW"] = ",".join(settings.webhook_allow)
    env["NOWSERVING_WEBHOOK_SECRET"] = ",".join(secret.get_secret_value() for secret in settings.webhook_secret)
    for name in ("data_dir", "cache_dir", "models_file", "receivers_file"):
        path: Path | None = getattr(settings, name)
        env.pop(f"NOWSERVING_{name.upper()}", None)
        if path is not None:
            env[f"NOWSERVING_{name.upper()}"] = str(path.expanduser().absolute())
    return env
