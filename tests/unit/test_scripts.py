"""A script is sent with what it uses of what all share, and no more."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from nowserving import keys
from nowserving.script import SCRIPTS, SHARED, source

DEFINED = re.compile(r"^(?:local )?function ([\w.]+)|^local (?!function )(\w+(?:, \w+)*)", re.MULTILINE)


def text_of(name: str) -> str:
    return (files("nowserving") / "lua" / f"{name}.lua").read_text("utf-8")


@pytest.mark.parametrize("name", SHARED)
def test_what_is_shared_is_definitions_alone(name: str) -> None:
    """Anything else would go with the definition before it, where no script might use that."""
    begun = [line for line in text_of(name).splitlines() if line and not line.startswith((" ", "--"))]
    assert [line for line in begun if not re.match(r"(local |function |end$|\}$)", line)] == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_all_that_a_script_names_stands_before_it(script: str) -> None:
    shared = "".join(map(text_of, SHARED))
    names = {name for found in DEFINED.findall(shared) for name in re.findall(r"\w+", "".join(found))}
    whole = source(script).removeprefix(keys.lua_constants())
    assert whole.endswith(text_of(script))
    defined = {name for found in DEFINED.findall(whole) for name in re.findall(r"\w+", "".join(found))}
    assert names & set(re.findall(r"\w+", whole)) <= defined
    assert "function redis.call(" in whole


def test_what_a_script_does_not_use_is_left_out() -> None:
    assert "local function report(" in source("finish")
    assert "local function report(" not in source("append")
    assert len(source("append")) < len(source("finish")) / 2
