import pytest

from api.chat_answer import chat_status_of, describe_error, explain_end
from api.problem import STATUSES, ProblemError
from nowserving.job import Status

LONG = "context_length_exceeded"


@pytest.mark.parametrize(
    ("problem", "status", "kind", "code"),
    [
        (ProblemError("invalid_json", "x"), 400, "invalid_request_error", "invalid_json"),
        (ProblemError("invalid_input", "x"), 400, "invalid_request_error", "invalid_input"),
        (ProblemError("unknown_model", "x"), 404, "invalid_request_error", "model_not_found"),
        (ProblemError("queue_full", "x"), 429, "rate_limit_error", "queue_full"),
        (ProblemError("redis_unavailable", "x"), 503, "server_error", "redis_unavailable"),
        (explain_end(Status.EXPIRED, None), 503, "server_error", "expired"),
        (explain_end(Status.CANCELED, None), 409, "invalid_request_error", "canceled"),
        (explain_end(Status.FAILED, {"code": "too_large", "message": "x"}), 400, "invalid_request_error", LONG),
        (explain_end(Status.FAILED, {"code": "timeout", "message": "x"}), 504, "server_error", "timeout"),
        (explain_end(Status.FAILED, {"code": "worker_lost", "message": "x"}), 500, "server_error", "worker_lost"),
    ],
)
def test_an_error_has_the_status_by_which_openais_clients_know_it(
    problem: ProblemError, status: int, kind: str, code: str
) -> None:
    error = describe_error(problem)["error"]
    assert (chat_status_of(problem), error["type"], error["code"]) == (status, kind, code)


def test_no_error_is_unprocessable() -> None:
    assert all(chat_status_of(ProblemError(code, "x")) != 422 for code in STATUSES)


def test_all_wrong_fields_are_named_and_the_first_one_is_the_param() -> None:
    errors = [{"field": "max_tokens", "message": "too many"}, {"field": "n", "message": "not served"}]
    error = describe_error(ProblemError("invalid_input", "max_tokens: too many", errors))["error"]
    assert (error["param"], error["message"]) == ("max_tokens", "max_tokens: too many; n: not served")


@pytest.mark.parametrize(("code", "field"), [("unknown_model", "model"), ("too_large", "messages"), ("timeout", None)])
def test_a_problem_that_names_no_field_may_be_about_one(code: str, field: str | None) -> None:
    error = describe_error(ProblemError(code, "x"))["error"]
    assert (error["param"], error["message"]) == (field, "x")


@pytest.mark.parametrize(
    ("status", "error", "retryable"),
    [
        (Status.FAILED, {"code": "engine_error", "message": "x", "retryable": True}, True),
        (Status.FAILED, {"code": "timeout", "message": "x", "retryable": False}, False),
        (Status.FAILED, None, False),
        (Status.EXPIRED, None, True),
        (Status.CANCELED, None, False),
    ],
)
def test_an_end_says_whether_the_same_may_do_better(
    status: Status, error: dict[str, object] | None, retryable: bool
) -> None:
    assert explain_end(status, error).retryable is retryable
