"""One Kubernetes object as somebody wrote it, and how such are read from files, folders and stdin."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nowserving.keda.check.field import dig, items, mapping, shorten, text
from nowserving.keda.check.loader import UnreadableError, load_documents

MAX_BYTES = 4 * 1024 * 1024
"""In one file; what a whole overlay builds is some hundred KB."""
MAX_FILES = 1000
SUFFIXES = (".yaml", ".yml", ".json")
KUSTOMIZATIONS = ("kustomization.yaml", "kustomization.yml", "Kustomization")
STDIN = "-"


@dataclass(frozen=True)
class Manifest:
    """One object."""

    file: str
    body: dict[str, Any]
    twice: tuple[str, ...] = field(default=(), compare=False)

    @property
    def kind(self) -> str:
        """Its kind."""
        return text(self.body, "kind")

    @property
    def name(self) -> str:
        """Its name."""
        return text(self.body, "metadata", "name")

    @property
    def namespace(self) -> str:
        """Its namespace, or "" if that is whatever it is applied to."""
        return text(self.body, "metadata", "namespace")

    @property
    def spec(self) -> dict[str, Any]:
        """What it asks for."""
        return mapping(self.body, "spec")

    @property
    def group(self) -> str:
        """Its API's group, such as "apps"; "" for Kubernetes' own."""
        version = text(self.body, "apiVersion")
        return version.rpartition("/")[0]


def read_manifests(paths: Iterable[str]) -> list[Manifest]:
    """All objects in these files and folders; `-` is stdin. Raises UnreadableError."""
    found: list[Manifest] = []
    for path in paths:
        for name, content in _read(path):
            found += parse_manifests(content, name)
    if not found:
        raise UnreadableError("there is no Kubernetes object in what was given")
    return found


def parse_manifests(content: str, name: str) -> list[Manifest]:
    """The objects in a text of one or more documents; `name` names it in messages. Raises UnreadableError."""
    found: list[Manifest] = []
    try:
        for body, twice in load_documents(content):
            found += find_objects(body, name, tuple(twice))
    except UnreadableError as error:
        hint = "; it looks like a Helm template: check what `helm template` prints" if "{{" in content else ""
        raise UnreadableError(f"{name}: {error.message}{hint}") from None
    return found


def find_objects(body: object, name: str, twice: tuple[str, ...] = ()) -> Iterator[Manifest]:
    """The objects in one document: itself, or those it lists, or none."""
    kind = text(body, "kind")
    if not isinstance(body, dict) or not kind or not text(body, "apiVersion"):
        return
    if kind.endswith("List") and isinstance(dig(body, "items"), list):
        for item in items(body, "items"):
            yield from find_objects(item, name, twice)
    else:
        yield Manifest(name, body, twice)


def _read(path: str) -> Iterator[tuple[str, str]]:
    if path == STDIN:
        yield "stdin", _decode(sys.stdin.buffer.read(MAX_BYTES + 1), "stdin")
        return
    place = Path(path)
    try:
        for file in _files(place) if place.is_dir() else (place,):
            with file.open("rb") as stream:
                yield shorten(file, 300), _decode(stream.read(MAX_BYTES + 1), str(file))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no path"
        raise UnreadableError(f"{shorten(path, 200)} cannot be read: {reason}") from None


def _files(folder: Path) -> list[Path]:
    """The files of a folder. One that is a kustomization is refused: its files are not what is applied."""
    found = []
    for file in sorted(folder.rglob("*")):
        if any(part.startswith(".") for part in file.relative_to(folder).parts):
            continue
        if file.name in KUSTOMIZATIONS:
            built = shorten(file.parent, 200)
            raise UnreadableError(
                f"{built} is a kustomization, and what it builds is applied, not its files: "
                f"kubectl kustomize {built} | nowserving keda check -"
            )
        if file.suffix in SUFFIXES and file.is_file():
            found.append(file)
        if len(found) > MAX_FILES:
            raise UnreadableError(f"{shorten(folder)} has more than {MAX_FILES:,} files: name those that are applied")
    if not found:
        raise UnreadableError(f"{shorten(folder)} has no file that ends in {', '.join(SUFFIXES)}")
    return found


def _decode(content: bytes, name: str) -> str:
    if len(content) > MAX_BYTES:
        raise UnreadableError(f"{shorten(name)} has more than {MAX_BYTES // 1024 // 1024} MiB")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UnreadableError(f"{shorten(name)} is not UTF-8") from None
