"""What an image's command finds, made without a container: its files, its packages and no others, its variables."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterable, Mapping
from importlib.metadata import distribution
from pathlib import Path

from tests.child_process import ChildProcess
from tests.images.dockerfile import ROOT, Image
from tests.images.packages import closure

SCRIPT = "#!{python}\nimport sys\nfrom {module} import {name}\nsys.exit({name}())\n"


class Container:
    """The image's tree in a folder. Paths in its variables lead there, but for places that are given."""

    def __init__(self, name: str, folder: Path, **places: Path) -> None:
        self.image = Image(name)
        self.folder = folder
        self.places = {"/app": folder / "app", "/opt/venv": folder / "venv", "/cache": folder / "cache", **places}
        self.places.setdefault("/tmp", folder / "tmp")
        for source, target in self.image.copies():
            shutil.copytree(ROOT / source, folder / "app" / target, ignore=_ignored)
        _make_packages(folder / "venv", closure(self.image.extras()))
        for place in ("/cache", "/tmp"):
            self.places[place].mkdir()

    def environment(self) -> dict[str, str]:
        """The image's variables."""
        return {name: self._here(value) for name, value in self.image.environment().items()}

    def run(self, command: Iterable[str], port: int, env: Mapping[str, str]) -> ChildProcess:
        """A command of the image's, not yet started; it listens on `port` of this machine in place of its own."""
        words = [{"8000": str(port), "0.0.0.0": "127.0.0.1"}.get(word, word) for word in command]
        inherited = {name: "" for name in os.environ if name.startswith("NOWSERVING_")}
        assert not inherited, inherited
        given = {"NOWSERVING_WORKER_PORT": str(port), "OMP_NUM_THREADS": "1", **env}
        process = ChildProcess(words, self.environment() | given, self.folder / "log")
        process.root = self.places["/app"]
        return process

    def check(self, port: int) -> bool:
        """Whether HEALTHCHECK finds it healthy, on this port in place of its own."""
        python, option, text = self.image.check()
        own = self.image.only("EXPOSE")
        assert text.count(own) == 1
        program = [str(self.folder / "venv/bin" / python), option, text.replace(own, str(port))]
        return subprocess.run(program, capture_output=True, timeout=20).returncode == 0

    def files(self) -> set[Path]:
        """All that a read-only root would hold."""
        return {file for place in ("app", "venv") for file in (self.folder / place).rglob("*")}

    def _here(self, value: str) -> str:
        return os.pathsep.join(self._lead(part) for part in value.replace("$PATH", os.defpath).split(os.pathsep))

    def _lead(self, path: str) -> str:
        for image, place in self.places.items():
            if path == image or path.startswith(f"{image}/"):
                return str(place) + path.removeprefix(image)
        return path


def _ignored(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if name in ("__pycache__", "Dockerfile")}


def _make_packages(folder: Path, names: Iterable[str]) -> None:
    """A virtual environment of these installed packages, linked."""
    venv.EnvBuilder(symlinks=True).create(folder)
    site = folder / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    for name in names:
        found = distribution(name)
        for part in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            if not (site / part).exists():
                (site / part).symlink_to(Path(str(found.locate_file(part))))
        for script in found.entry_points.select(group="console_scripts"):
            module, _, function = script.value.partition(":")
            program = folder / "bin" / script.name
            program.write_text(SCRIPT.format(python=folder / "bin/python", module=module, name=function.split(" ")[0]))
            program.chmod(0o755)
