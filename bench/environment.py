"""Virtual environments of the peers, made when first needed, under .bench/ in the checkout."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.errors import BenchError
from bench.process import ROOT

WORK = ROOT / ".bench"


def work_folder() -> Path:
    """The folder .bench/, which git ignores by a file of its own."""
    WORK.mkdir(exist_ok=True)
    (WORK / ".gitignore").write_text("*\n")
    return WORK


def requirements_of(peer: str) -> Path:
    """The peer's pinned packages."""
    return ROOT / "bench" / "peers" / peer / "requirements.txt"


def python_of(peer: str) -> Path:
    """The peer's Python, its packages installed. A change of the pins makes a new environment."""
    requirements = requirements_of(peer)
    digest = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = work_folder() / f"venv-{peer}-{digest}"
    python = folder / "bin" / "python"
    complete = folder / "complete"
    if not complete.exists():
        print(f"installing {requirements.relative_to(ROOT)} (once) …", flush=True)
        _run([sys.executable, "-m", "venv", "--clear", str(folder)])
        _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(requirements)])
        complete.touch()
    return python


def differing_versions(peer: str) -> list[str]:
    """Packages the peer pins at another version than this environment has; there should be none."""
    different = []
    for line in requirements_of(peer).read_text().splitlines():
        name, pinned = line.split("#")[0].strip().split("==") if "==" in line else ("", "")
        try:
            here = version(name.split("[")[0]) if name else pinned
        except PackageNotFoundError:
            continue
        if here != pinned:
            different.append(f"{name} {pinned} (here {here})")
    return different


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}")
