from __future__ import annotations

import string

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nowserving.keda.template import Value, fill

PRINTABLE = st.text(string.printable[:95], max_size=40)


@given(st.one_of(PRINTABLE, st.integers(), st.dictionaries(PRINTABLE.filter(bool), PRINTABLE, max_size=3)))
def test_a_value_is_read_as_it_was_written(value: Value) -> None:
    text = fill("# ${value}\na: {b: ${value}, c: 1}\nd:\n  - ${value}\n  - e: ${value}\n", {"value": value})
    assert yaml.safe_load(text) == {"a": {"b": value, "c": 1}, "d": [value, {"e": value}]}


@pytest.mark.parametrize("value", ["a\nb", "a\x00", "\u2028", "é"])
def test_what_a_line_cannot_hold_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="not printable ASCII"):
        fill("a: ${a}\n", {"a": value})


def test_lines_stand_where_their_condition_holds() -> None:
    template = "#if a\na: 1\n  #if b\nb: 1\n  #end\n#end\n# a comment\nc: 1\n"
    assert fill(template, {"a": 1, "b": {}}) == "a: 1\n# a comment\nc: 1\n"
    assert fill(template, {"a": "", "b": "x"}) == "# a comment\nc: 1\n"
    with pytest.raises(KeyError):
        fill("#if nobody\n#end\n", {})
    with pytest.raises(KeyError):
        fill("a: ${nobody}\n", {})
