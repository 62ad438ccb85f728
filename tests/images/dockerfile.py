"""A Dockerfile as a builder reads it, as far as ours go: stages, and what the image of one of them is made of."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILES = {
    "api": (ROOT / "api/Dockerfile", ""),
    "worker": (ROOT / "workers/Dockerfile", "worker"),
    "deliverer": (ROOT / "workers/Dockerfile", "deliverer"),
}
"""Each image, by the name of what it runs: its file, and its stage; "": the last."""


@dataclass
class Stage:
    """From one FROM to the next."""

    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)


class Image:
    """The image that a stage becomes."""

    def __init__(self, name: str) -> None:
        path, target = DOCKERFILES[name]
        self.name = name
        self._stages = read(path)
        self._target = target or [*self._stages][-1]

    def steps(self, *kinds: str) -> list[str]:
        """What its instructions of these kinds say, those of the stages it is from among them, in order."""
        return [text for kind, text in self._walk(self._target) if kind in kinds]

    def only(self, kind: str) -> str:
        """The last word of an instruction that replaces those before."""
        return self.steps(kind)[-1]

    def environment(self) -> dict[str, str]:
        """All ENV."""
        found: dict[str, str] = {}
        for text in self.steps("ENV"):
            found |= dict(word.split("=", 1) for word in shlex.split(text))
        return found

    def labels(self) -> dict[str, str]:
        """All LABEL, without their common beginning."""
        words = [word for text in self.steps("LABEL") for word in shlex.split(text)]
        pairs = (word.partition("=") for word in words)
        return {name.removeprefix("org.opencontainers.image."): value for name, _, value in pairs}

    def command(self) -> list[str]:
        """CMD, in the form that needs no shell."""
        return [str(word) for word in json.loads(self.only("CMD"))]

    def check(self) -> list[str]:
        """HEALTHCHECK's command, in the form that needs no shell."""
        return [str(word) for word in json.loads(self.only("HEALTHCHECK").partition("CMD")[2])]

    def copies(self) -> list[tuple[str, str]]:
        """What comes from the context, and where it goes."""
        pairs = [text.split() for text in self.steps("COPY") if not text.startswith("--from")]
        assert all(len(pair) == 2 for pair in pairs)
        return [(source, target) for source, target in pairs]

    def extras(self) -> list[str]:
        """Of pyproject.toml those that its packages are from."""
        sources = [re.findall(r"--from=(\S+) /opt/venv", text) for text in self.steps("COPY")]
        (stage,) = [name for names in sources for name in names]
        runs = " ".join(text for kind, text in self._walk(stage) if kind == "RUN")
        return re.findall(r"--extra (\S+)", runs)

    def runs(self) -> list[str]:
        """All RUN of all stages of its file."""
        return [text for stage in self._stages.values() for kind, text in stage.steps if kind == "RUN"]

    def bases(self) -> set[str]:
        """The images of others that its file's stages are from."""
        return {stage.base for stage in self._stages.values()} - set(self._stages)

    def _walk(self, stage: str) -> Iterator[tuple[str, str]]:
        if stage in self._stages:
            yield from self._walk(self._stages[stage].base)
            yield from self._stages[stage].steps


def read(path: Path) -> dict[str, Stage]:
    """The stages by name, or by number where they have none. ARG before the first is filled in where FROM names it."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    stages: dict[str, Stage] = {}
    defaults: dict[str, str] = {}
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        kind, _, text = line.partition(" ")
        if kind == "FROM":
            base, _, name = text.partition(" AS ")
            for argument, default in defaults.items():
                base = base.replace(f"${{{argument}}}", default)
            current = stages[name or str(len(stages))] = Stage(base)
        elif kind == "ARG" and not stages:
            defaults |= dict([text.split("=", 1)])
        elif kind:
            current.steps.append((kind, text.strip()))
    return stages
