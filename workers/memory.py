"""How much memory the device has and how much of it is used: what a gate's decision begins with.

A reading takes well under a millisecond, so that it can precede every take. torch is imported only for CUDA.
"""

from __future__ import annotations

import importlib
import re
import resource
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, cast

from nowserving.errors import EngineError, SettingsError

MEMINFO = Path("/proc/meminfo")
STATM = Path("/proc/self/statm")
CGROUP_OF_PROCESS = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Memory:
    """One reading of a device. `free_bytes` is what this process could still take: not always total less used.

    `own_bytes` are those of `used_bytes` that this process holds; None where that is not known.
    """

    used_bytes: int
    free_bytes: int
    total_bytes: int
    own_bytes: int | None = None

    def room_bytes(self, share_bytes: int, limit_bytes: int | None, step_bytes: int) -> int:
        """What this process may still take: of its share, which others' use leaves as it is, and of what is free.

        So several workers share a device by their fractions. With `limit_bytes` what all use together counts instead.
        A step's own `step_bytes` stay free.
        """
        own = self.used_bytes if self.own_bytes is None else self.own_bytes
        left = share_bytes - own if limit_bytes is None else limit_bytes - self.used_bytes
        return min(left, self.free_bytes - step_bytes)


class MemoryProbe(Protocol):
    """Reads the memory of one device."""

    def read(self) -> Memory:
        """Read it now. Raises EngineError if it cannot be read."""


class CudaProbe:
    """A CUDA device, by the driver and torch's allocator."""

    def __init__(self, device: str = "cuda") -> None:
        import torch

        if not torch.cuda.is_available():
            raise EngineError("no CUDA device is available: use the memory probe host")
        self._cuda = torch.cuda
        self._device = torch.device(device)

    def read(self) -> Memory:
        """What torch's allocator holds but has not given out is free to this process and counts as such."""
        try:
            driver_free, total = self._cuda.mem_get_info(self._device)
            own = self._cuda.memory_allocated(self._device)
            idle = self._cuda.memory_reserved(self._device) - own
        except RuntimeError as error:
            raise EngineError(f"the CUDA device's memory cannot be read: {error}") from None
        free = driver_free + idle
        return Memory(total - free, free, total, own)


class HostProbe:
    """The memory of this process's cgroup (v2 or v1) where it has a limit below the host's, else the host's.

    Page cache that the kernel would drop first (`inactive_file`) counts as free.
    """

    def __init__(
        self, meminfo: Path = MEMINFO, cgroup_of_process: Path = CGROUP_OF_PROCESS, cgroups: Path = CGROUPS
    ) -> None:
        self._meminfo = meminfo
        self._limits = [
            limit
            for limit in _cgroup_limits(cgroup_of_process, cgroups)
            if limit.total_bytes < self._host().total_bytes
        ]

    def read(self) -> Memory:
        """The smallest of the host and the cgroups that hold this process."""
        readings = [self._host(), *(limit.read() for limit in self._limits)]
        smallest = min(readings, key=lambda memory: memory.total_bytes)
        _, resident, file_backed, *_ = map(int, STATM.read_text().split())
        return replace(smallest, own_bytes=(resident - file_backed) * resource.getpagesize())

    def _host(self) -> Memory:
        text = self._meminfo.read_text()
        total, free = _field(text, "MemTotal:") * 1024, _field(text, "MemAvailable:") * 1024
        return Memory(total - free, free, total)


@dataclass(frozen=True, slots=True)
class _Cgroup:
    usage: Path
    stat: Path
    inactive_field: str
    total_bytes: int

    def read(self) -> Memory:
        used = max(0, int(self.usage.read_text()) - _field(self.stat.read_text(), self.inactive_field))
        return Memory(used, max(0, self.total_bytes - used), self.total_bytes)


def _cgroup_limits(cgroup_of_process: Path, cgroups: Path) -> list[_Cgroup]:
    """Every cgroup with a memory limit from the process's own up to the root; inside a container mostly the root."""
    if not cgroup_of_process.is_file():
        return []
    found: dict[Path, _Cgroup] = {}
    for line in cgroup_of_process.read_text().splitlines():
        hierarchy, controllers, name = line.split(":", 2)
        if hierarchy == "0":
            root, files = cgroups, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root, files = cgroups / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        folder = root / name.lstrip("/")
        for here in (folder, *folder.parents):
            limit, usage, stat = here / files[0], here / files[1], here / "memory.stat"
            if limit.is_file() and usage.is_file() and stat.is_file() and (text := limit.read_text().strip()) != "max":
                found[here] = _Cgroup(usage, stat, files[2], int(text))
            if here == root:
                break
    return list(found.values())


def _field(text: str, name: str) -> int:
    """The number on the line that begins with this word; 0 without such a line. A whole file is not parsed for it."""
    match = re.search(rf"^{name}\s+(\d+)", text, re.MULTILINE)
    return int(match[1]) if match else 0


class FileProbe:
    """A file with two integers, used and total bytes, for tests and demonstrations. No file: nothing is used."""

    TOTAL_BYTES = 1 << 30

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last = Memory(0, self.TOTAL_BYTES, self.TOTAL_BYTES)

    def read(self) -> Memory:
        """What the file says; while it is being rewritten (empty, or half a line), what it said before."""
        try:
            words = self._path.read_text().split()
        except FileNotFoundError:
            return Memory(0, self._last.total_bytes, self._last.total_bytes)
        if len(words) == 2 and all(word.isdigit() for word in words):
            used, total = int(words[0]), int(words[1])
            self._last = Memory(used, max(0, total - used), total)
        return self._last


class AutoProbe:
    """The CUDA device on which this process holds most, as soon as it holds any; the host until then.

    It looks for torch among the modules already imported: a worker whose engine needs no torch never imports it.
    """

    def __init__(self) -> None:
        self._host = HostProbe()
        self._cuda: CudaProbe | None = None

    def read(self) -> Memory:
        """See CudaProbe and HostProbe."""
        torch = sys.modules.get("torch")
        if self._cuda is None and torch is not None and torch.cuda.is_initialized():
            held = [torch.cuda.memory_allocated(index) for index in range(torch.cuda.device_count())]
            if any(held):
                self._cuda = CudaProbe(f"cuda:{held.index(max(held))}")
        return self._cuda.read() if self._cuda else self._host.read()


def make_probe(spec: str) -> MemoryProbe:
    """Make a probe from "auto", "cuda", "cuda:1", "host", "file:PATH" or "package.module:Class" (called with nothing).

    Raises SettingsError.
    """
    if spec == "auto":
        return AutoProbe()
    if spec == "host":
        return HostProbe()
    if spec == "cuda" or spec.startswith("cuda:"):
        return CudaProbe(spec)
    if spec.startswith("file:"):
        return FileProbe(Path(spec.removeprefix("file:")))
    module_name, _, class_name = spec.partition(":")
    if not class_name:
        raise SettingsError(
            f"memory probe {spec!r} is not known: use auto, cuda, host, file:PATH or package.module:Class"
        )
    try:
        made = getattr(importlib.import_module(module_name), class_name)()
    except (ImportError, AttributeError) as error:
        raise SettingsError(f"memory probe {spec!r} cannot be made: {error}") from None
    return cast(MemoryProbe, made)
