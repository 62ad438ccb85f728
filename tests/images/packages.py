"""Which packages an extra of pyproject.toml brings, by what the installed ones say of themselves."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from importlib.metadata import distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.images.dockerfile import ROOT


def closure(extras: Iterable[str]) -> set[str]:
    """The names of all packages that the project needs with these extras, here and now; not its own."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    todo = [Requirement(f"nowserving[{','.join(extras)}]")]
    seen: set[str] = set()
    found: set[str] = set()
    while todo:
        requirement = todo.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        name = canonicalize_name(requirement.name)
        if name == "nowserving":
            lists = [
                project["dependencies"],
                *(project["optional-dependencies"][extra] for extra in requirement.extras),
            ]
            needed = [line for lines in lists for line in lines]
        else:
            found.add(name)
            needed = distribution(name).requires or []
        todo += [
            asked
            for asked in map(Requirement, needed)
            if not asked.marker or any(asked.marker.evaluate({"extra": extra}) for extra in ("", *requirement.extras))
        ]
    return found


def locked() -> dict[str, str]:
    """Each package of requirements.lock, and its version."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return {match[1]: match[2] for line in lines if (match := re.match(r"([\w.-]+)==(\S+)", line))}
