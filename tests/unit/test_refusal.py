"""Refusals as the servers word them and as redis-py hands them on: its parser is asked, not imitated."""

from __future__ import annotations

import pytest
import redis
from redis._parsers.base import BaseParser

from nowserving.errors import NowservingError, StoreFullError, StoreUnavailableError
from nowserving.refusal import DEMOTED, code_of, explain

OLD = "ERR Error running script (call to f_1): @user_script:9: @user_script: 9: -{} (Redis 6)"
NEW = "{} script: 1, on @user_script:9. (Redis 7)"
PLAIN = "{}"


def parse(text: str) -> Exception:
    error: Exception = BaseParser.parse_error(text)  # type: ignore[no-untyped-call]
    return error


@pytest.mark.parametrize("form", [OLD, NEW, PLAIN])
@pytest.mark.parametrize(
    ("said", "ours"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", StoreFullError),
        ("READONLY You can't write against a read only replica.", StoreUnavailableError),
        ("MASTERDOWN Link with MASTER is down", StoreUnavailableError),
        ("UNBLOCKED force unblock from blocking operation", StoreUnavailableError),
        ("NOREPLICAS Not enough good replicas to write.", StoreUnavailableError),
        ("MISCONF Redis is configured to save RDB snapshots", StoreUnavailableError),
        ("BUSY Redis is busy running a script.", StoreUnavailableError),
        ("LOADING Redis is loading the dataset in memory", StoreUnavailableError),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", NowservingError),
    ],
)
def test_each_refusal_is_known_by_its_code(form: str, said: str, ours: type[NowservingError]) -> None:
    error = parse(form.format(said))
    assert type(explain(error)) is ours
    if isinstance(error, redis.ResponseError):
        assert code_of(error) == said.split()[0]


def test_a_word_in_a_text_is_no_code() -> None:
    error = parse("ERR user_script:1: the job said READONLY, OOM and -BUSY")
    assert code_of(error) not in DEMOTED
    assert type(explain(error)) is NowservingError
