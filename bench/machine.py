"""The machine a run is made on, and how much of it went to others meanwhile: a table means little without."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

import psutil

from bench import redis_server


class Machine:
    """Looked at from the start of a run."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._others = _others_seconds()

    def __str__(self) -> str:
        """Say what it is, what is installed, and how busy others kept it; ask when all stacks are ended."""
        others = max(0.0, _others_seconds() - self._others) / (time.monotonic() - self._began)
        packages = ", ".join(f"{name} {version(name)}" for name in ("celery", "kombu", "redis", "fastapi", "uvicorn"))
        return (
            f"{os.cpu_count()} cores ({_processor()}), {platform.system()} {platform.machine()}; "
            f"other processes took {others:.2f} of a core meanwhile\n"
            f"Python {platform.python_version()}, {redis_server.version()}, {packages}"
        )


def _others_seconds() -> float:
    """CPU seconds of all processes, and those the host took, without ours and our ended children's."""
    everybody = psutil.cpu_times()
    ours = os.times()
    mine = ours.user + ours.system + ours.children_user + ours.children_system
    return everybody.user + everybody.nice + everybody.system + float(getattr(everybody, "steal", 0.0)) - mine


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
