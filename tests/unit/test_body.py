import hashlib
from typing import Any

import pytest

from api.body import fingerprint
from nowserving.job import Submission

OLD = (
    '{"input":{"messages":null,"prompt":"hello"},"lane":"normal","metadata":{},"model":"m","parameters":'
    '{"max_new_tokens":9,"seed":null,"stop":[],"temperature":0.5,"top_k":0,"top_p":1.0},'
    '"retain_seconds":86400.0,"start_within_seconds":null,"timeout_seconds":600.0}'
)
"""What the first version took the fingerprint of."""


def fingerprint_of(**parameters: Any) -> str:
    body = {"model": "m", "input": {"prompt": "hello"}}
    return fingerprint(Submission.model_validate(body | {"parameters": {"max_new_tokens": 9, **parameters}}))


@pytest.mark.parametrize("unused", [{}, {"min_p": 0.0, "stop_token_ids": []}, {"ignore_eos": False}])
def test_the_same_body_has_the_fingerprint_that_the_previous_version_gives_it(unused: dict[str, Any]) -> None:
    assert fingerprint_of(temperature=0.5, **unused) == hashlib.sha256(OLD.encode()).hexdigest()


def test_each_parameter_that_is_used_makes_another_body() -> None:
    used: list[dict[str, Any]] = [
        {},
        {"min_p": 0.1},
        {"repetition_penalty": 1.1},
        {"stop_token_ids": [1]},
        {"stop_token_ids": [2]},
        {"ignore_eos": True},
    ]
    assert len({fingerprint_of(**parameters) for parameters in used}) == len(used)
