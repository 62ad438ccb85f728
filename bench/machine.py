"""The machine a run is made on, and how much of it went to others meanwhile: a table means little without."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import psutil

from bench import redis_server
from bench.cpu import Cpu
from bench.stack import Stack

QUIET_CORES = 0.1
"""What others may take before the figures are no longer to be trusted."""


class Watch:
    """Cores taken by others than the stacks and this process, from now on; what the host takes (steal) counts too."""

    def __init__(self, stacks: Sequence[Stack]) -> None:
        self._stacks = stacks
        self._began = time.monotonic()
        self._others_seconds = self._count()

    def others_cores(self) -> float:
        """Their mean since the beginning; ask while the stacks still run."""
        seconds = self._count() - self._others_seconds
        return max(0.0, seconds / (time.monotonic() - self._began))

    def _count(self) -> float:
        everybody = psutil.cpu_times()
        busy = everybody.user + everybody.nice + everybody.system + float(getattr(everybody, "steal", 0.0))
        return busy - time.process_time() - sum(Cpu.of(stack).total for stack in self._stacks)


def describe_machine(others_cores: Sequence[float]) -> str:
    """Say what it is, what is installed, and how busy others kept it in each round."""
    others = ", ".join(f"{cores:.2f}" for cores in others_cores)
    caution = ": too much, run it again on a quiet machine" if max(others_cores) > QUIET_CORES else ""
    return f"{describe_hardware()}; of these, others took {others} meanwhile{caution}\n{describe_versions()}"


def describe_hardware() -> str:
    """Its cores, processor and system."""
    return f"{os.cpu_count()} cores ({_processor()}), {platform.system()} {platform.machine()}"


def describe_versions() -> str:
    """What runs on it."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("celery", "kombu", "redis", "fastapi", "uvicorn"))
    return f"Python {platform.python_version()}, {redis_server.version()}, {packages}"


def describe_device(device: str, threads: int) -> str:
    """What the model runs on, and by what."""
    import torch  # here: most benches need none

    name = (
        f"CPU, {threads} torch thread{'s' * (threads > 1)}" if device == "cpu" else torch.cuda.get_device_name(device)
    )
    return f"{name}; torch {torch.__version__}, transformers {version('transformers')}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
