import pytest

from api.chat_answer import describe_refusal, explain_end
from api.problem import STATUSES, ProblemError, field_problem


@pytest.mark.parametrize(
    ("problem", "status", "kind", "code"),
    [
        (ProblemError("invalid_json", "x"), 400, "invalid_request_error", "invalid_json"),
        (ProblemError("invalid_input", "x"), 400, "invalid_request_error", "invalid_input"),
        (ProblemError("unknown_model", "x"), 404, "invalid_request_error", "model_not_found"),
        (ProblemError("queue_full", "x"), 429, "rate_limit_error", "queue_full"),
        (ProblemError("redis_unavailable", "x"), 503, "server_error", "redis_unavailable"),
        (explain_end("expired", None), 503, "server_error", "expired"),
        (explain_end("canceled", None), 409, "invalid_request_error", "canceled"),
        (explain_end("failed", {"code": "too_large", "message": "x"}), 400, "invalid_request_error", None),
        (explain_end("failed", {"code": "timeout", "message": "x"}), 504, "server_error", "timeout"),
        (explain_end("failed", {"code": "worker_lost", "message": "x"}), 500, "server_error", "worker_lost"),
    ],
)
def test_an_error_has_the_status_by_which_openais_clients_know_it(
    problem: ProblemError, status: int, kind: str, code: str | None
) -> None:
    answered, body = describe_refusal(problem)
    error = body["error"]
    assert (answered, error["type"], error["code"]) == (status, kind, code or "context_length_exceeded")


def test_no_error_is_unprocessable() -> None:
    assert all(describe_refusal(ProblemError(code, "x"))[0] != 422 for code in STATUSES)


def test_the_field_is_named_as_the_client_named_it() -> None:
    refused = field_problem("invalid_input", "parameters.max_new_tokens", "9 is too many")
    error = describe_refusal(refused)[1]["error"]
    assert (error["param"], error["message"]) == ("max_completion_tokens", "max_completion_tokens: 9 is too many")


@pytest.mark.parametrize(
    ("status", "error", "retryable"),
    [
        ("failed", {"code": "engine_error", "message": "x", "retryable": True}, True),
        ("failed", {"code": "timeout", "message": "x", "retryable": False}, False),
        ("expired", None, True),
        ("canceled", None, False),
    ],
)
def test_an_end_says_whether_the_same_may_do_better(
    status: str, error: dict[str, object] | None, retryable: bool
) -> None:
    assert explain_end(status, error).retryable is retryable
