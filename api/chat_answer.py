"""What POST /v1/chat/completions answers, as types, and how a job becomes it. Pure.

Shapes: https://platform.openai.com/docs/api-reference/chat/object and …/chat/streaming.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from api.problem import MAX_ERRORS, ProblemError, status_of
from nowserving.job import Job, Status

_STATUSES = {"unknown_model": 404, "too_large": 400, "timeout": 504, "canceled": 409, "expired": 503, "stopping": 503}
"""Where OpenAI's status is another than elsewhere here, and what only a chat can be."""
_CODES = {"unknown_model": "model_not_found", "too_large": "context_length_exceeded"}
"""Where OpenAI has a code of its own for ours."""
_FIELDS = {"unknown_model": "model", "too_large": "messages"}
"""What a problem is about that names no field."""

ErrorType = Literal["invalid_request_error", "rate_limit_error", "server_error"]


class AssistantMessage(TypedDict):
    """What the model says."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(TypedDict):
    """The one text."""

    index: Literal[0]
    message: AssistantMessage
    finish_reason: Literal["stop", "length"]
    logprobs: None


class TokenUsage(TypedDict):
    """What was counted, exactly."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(TypedDict):
    """A job that has succeeded, as OpenAI describes one."""

    id: Annotated[str, Field(description="`chatcmpl-` and the job's id without `job_`.")]
    object: Literal["chat.completion"]
    created: Annotated[int, Field(description="Unix seconds.")]
    model: str
    choices: list[ChatChoice]
    usage: TokenUsage


class ChatError(TypedDict):
    """What was wrong, and what is allowed."""

    message: str
    type: ErrorType
    param: str | None
    code: Annotated[str, Field(description="Stable; match on this.")]


class ErrorBody(TypedDict):
    """An error as OpenAI's clients read it."""

    error: ChatError


class _Chunk(TypedDict):
    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: NotRequired[TokenUsage | None]


class Chunks:
    """Builds the chunks of a stream; with `usage` the last one has the token counts."""

    def __init__(self, job: Job, usage: bool) -> None:
        self._job, self._usage = job, usage

    def first(self) -> _Chunk:
        """Before any text."""
        return self._chunk({"role": "assistant", "content": "", "refusal": None})

    def text(self, text: str) -> _Chunk:
        """The next text."""
        return self._chunk({"content": text})

    def last(self, output: Mapping[str, Any]) -> list[_Chunk]:
        """After all text."""
        end = self._chunk({}, output["finish_reason"])
        if not self._usage:
            return [end]
        return [end, {**self._chunk({}), "choices": [], "usage": _usage(output)}]

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> _Chunk:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        chunk: _Chunk = {
            "id": _chat_id(self._job),
            "object": "chat.completion.chunk",
            "created": int(self._job.created_at),
            "model": self._job.model,
            "choices": [choice],
        }
        return {**chunk, "usage": None} if self._usage else chunk


def describe_completion(job: Job) -> ChatCompletion:
    """A job that has succeeded."""
    output = job.output
    assert output is not None
    message: AssistantMessage = {"role": "assistant", "content": output["text"], "refusal": None}
    return {
        "id": _chat_id(job),
        "object": "chat.completion",
        "created": int(job.created_at),
        "model": job.model,
        "choices": [{"index": 0, "message": message, "finish_reason": output["finish_reason"], "logprobs": None}],
        "usage": _usage(output),
    }


def explain_end(status: Status, error: Mapping[str, Any] | None) -> ProblemError:
    """Why there is no whole text of a job that ended with this status, and whether to send it again."""
    match status:
        case Status.EXPIRED:
            return ProblemError("expired", "the job did not start within its start_within_seconds", retryable=True)
        case Status.CANCELED:
            return ProblemError("canceled", "the job was canceled", retryable=False)
        case _:
            told = error or {}
            message = str(told.get("message", "the job failed"))
            return ProblemError(str(told.get("code", "failed")), message, retryable=bool(told.get("retryable")))


def chat_status_of(problem: ProblemError) -> int:
    """Its HTTP status. OpenAI's is 400 where it is 422 elsewhere here."""
    status = _STATUSES.get(problem.code) or status_of(problem)
    return 400 if status == 422 else status


def describe_error(problem: ProblemError) -> ErrorBody:
    """An error as OpenAI's clients read it."""
    status = chat_status_of(problem)
    kind: ErrorType = "invalid_request_error"
    if status == 429:
        kind = "rate_limit_error"
    elif status >= 500:
        kind = "server_error"
    field = problem.errors[0]["field"] if problem.errors else _FIELDS.get(problem.code)
    message = "; ".join(f"{error['field']}: {error['message']}" for error in problem.errors[:MAX_ERRORS])
    code = _CODES.get(problem.code, problem.code)
    return {"error": {"message": message or problem.detail, "type": kind, "param": field, "code": code}}


def _chat_id(job: Job) -> str:
    return f"chatcmpl-{job.id.removeprefix('job_')}"


def _usage(output: Mapping[str, Any]) -> TokenUsage:
    prompt, completion = output["usage"]["prompt_tokens"], output["usage"]["completion_tokens"]
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
