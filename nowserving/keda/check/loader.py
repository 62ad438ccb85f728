"""YAML as Kubernetes reads it, of bounded size: plain values only, no times, no aliases that grow without end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from nowserving.errors import NowservingError

MAX_NODES = 500_000
"""Values in one document, each alias counted as often as it is used."""
MAX_DEPTH = 100


class UnreadableError(NowservingError):
    """What should be checked cannot be read."""

    code = "unreadable_manifest"


class _Loader(yaml.SafeLoader):
    """Safe, and like Kubernetes': a date is a string, a key given twice is noticed."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  # PyYAML's own shape

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.depth = 0
        self.twice: list[str] = []

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise UnreadableError(f"it is nested deeper than {MAX_DEPTH}")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
            if name in seen:
                self.twice.append(str(key.value))
            if name is not None and key.tag != "tag:yaml.org,2002:merge":
                seen.add(name)
        return super().construct_mapping(node, deep)


_TAG = "tag:yaml.org,2002:"
for _name, _pattern, _first in (
    ("bool", r"(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)\Z", "yYnNtTfFoO"),
    ("null", r"(?:~|null|Null|NULL|)\Z", "~nN"),
    ("int", r"[-+]?(?:0|[1-9][0-9]{0,18})\Z", "-+0123456789"),
    ("float", r"[-+]?(?:[0-9]{1,40}\.[0-9]{0,40}|\.[0-9]{1,40})(?:[eE][-+][0-9]{1,3})?\Z", "-+0123456789."),
    ("merge", r"<<\Z", "<"),
):
    for _letter in (*_first, *(("",) if _name == "null" else ())):
        _Loader.yaml_implicit_resolvers.setdefault(_letter, []).append((_TAG + _name, re.compile(_pattern)))


def load_documents(text: str) -> Iterator[tuple[Any, list[str]]]:
    """The documents of a text, each with the keys that are given twice in it. Raises UnreadableError."""
    loader = None
    try:
        loader = _Loader(text)
        while loader.check_node():
            node = loader.get_node()
            if node is not None:
                _weigh(node, {}, set())
                loader.twice = []
                yield loader.construct_document(node), loader.twice
    except UnreadableError:
        raise
    except yaml.MarkedYAMLError as error:
        where = f" at line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UnreadableError(f"it is not YAML{where}: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise UnreadableError(f"it is not YAML: {' '.join(str(error).split())[:200]}") from None
    finally:
        if loader is not None:
            loader.dispose()


def _weigh(node: Any, known: dict[int, int], above: set[int]) -> int:
    """How many values a node stands for, each alias counted as often as it is used. Raises UnreadableError.

    This bounds merge keys too, which copy what they name.
    """
    if isinstance(node, yaml.ScalarNode):
        return 1
    mark = id(node)
    if mark in above:
        raise UnreadableError("an alias in it stands within what it names")
    if mark not in known:
        above.add(mark)
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[mark] = 1 + sum(_weigh(part, known, above) for part in parts)
        above.discard(mark)
        if known[mark] > MAX_NODES:
            raise UnreadableError(f"it stands for more than {MAX_NODES:,} values")
    return known[mark]
