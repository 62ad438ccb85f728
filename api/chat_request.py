"""The body of POST /v1/chat/completions, and the job that it asks for.

Fields: https://platform.openai.com/docs/api-reference/chat/create. One that would change the text and is not served may
only have the value that changes nothing; one that has no bearing on the text is accepted and ignored. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import CoreSchema
from pydantic_core.core_schema import no_info_plain_validator_function

from api.body import explain
from api.problem import field_problem
from nowserving.job import (
    Input,
    Lane,
    Message,
    Metadata,
    ModelName,
    Parameters,
    Retention,
    StartWithin,
    Submission,
    Timeout,
)
from nowserving.parameters import STRICT, NewTokens, Stops, Temperature
from nowserving.receiver import Webhook

START_WITHIN_SECONDS = 540.0
"""OpenAI's clients wait 600 s by default (DEFAULT_TIMEOUT in openai/_constants.py), for the text too."""

_LIMIT_NAMES = ("max_tokens", "max_completion_tokens", "max_new_tokens")

Ignored = Annotated[Any, Field(description="Accepted and ignored.")]


class Only:
    """A field that is not served: it may only have one of these values, which say so."""

    def __init__(self, *values: object) -> None:
        self._values = values

    def __get_pydantic_core_schema__(self, _: Any, __: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, _: CoreSchema, __: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"enum": [*self._values, None], "description": "Not served."}

    def _check(self, value: object) -> object:
        # To Python True is 1, and 0.0 is 0, which in JSON only the latter are.
        if not any(value == only and isinstance(value, bool) is isinstance(only, bool) for only in self._values):
            allowed = " or ".join(map(json.dumps, self._values))
            raise ValueError(f"not served; it may only be {allowed}" if allowed else "not served; leave it out")
        return value


def _join(content: object) -> object:
    if not isinstance(content, list):
        return content
    parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
    texts = [text for part in parts if isinstance(text := part.get("text"), str)]
    if not texts or len(texts) < len(content):
        raise ValueError('only text is served: a string, or parts of {"type": "text", "text": "…"}')
    return "".join(texts)


Text = Annotated[str, BeforeValidator(_join, json_schema_input_type=str | list[dict[str, Any]])]


class _Lenient(BaseModel):
    """A null is a field left out."""

    model_config = STRICT

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        return {name: value for name, value in data.items() if value is not None} if isinstance(data, dict) else data


class ChatMessage(_Lenient):
    """One message; `developer` is `system` by its newer name."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text
    name: Ignored = None
    refusal: Ignored = None
    annotations: Ignored = None
    tool_calls: Annotated[Any, Only([])] = []

    def to_message(self) -> Message:
        """As jobs have it."""
        return Message(role="system" if self.role == "developer" else self.role, content=self.content)


class StreamOptions(_Lenient):
    """What a stream has beside the text."""

    include_usage: bool = False
    include_obfuscation: Ignored = None


class ChatRequest(_Lenient, Parameters):
    """OpenAI's fields, and beside them all that jobs have (`extra_body` in OpenAI's own client)."""

    model: ModelName
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1000)]
    max_completion_tokens: Annotated[NewTokens | None, Field(description="max_new_tokens, as OpenAI has it.")] = None
    max_tokens: Annotated[NewTokens | None, Field(description="The same by its older name.")] = None
    temperature: Temperature = 1.0
    stop: Annotated[
        Stops,
        BeforeValidator(lambda stop: [stop] if isinstance(stop, str) else stop, json_schema_input_type=str | list[str]),
    ] = []
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()

    lane: Annotated[Lane, Field(strict=False)] = Lane.NORMAL
    start_within_seconds: StartWithin = START_WITHIN_SECONDS
    timeout_seconds: Timeout = 600
    retain_seconds: Retention = 86400
    metadata: Metadata = {}
    webhook: Webhook | None = None

    n: Annotated[Any, Only(1)] = 1
    frequency_penalty: Annotated[Any, Only(0)] = 0
    presence_penalty: Annotated[Any, Only(0)] = 0
    logprobs: Annotated[Any, Only(False)] = False
    top_logprobs: Annotated[Any, Only(0)] = 0
    logit_bias: Annotated[Any, Only({})] = {}
    tools: Annotated[Any, Only([])] = []
    tool_choice: Annotated[Any, Only("none", "auto")] = "none"
    functions: Annotated[Any, Only([])] = []
    modalities: Annotated[Any, Only(["text"])] = ["text"]
    response_format: Annotated[Any, Only({"type": "text"})] = {"type": "text"}

    reasoning_effort: Annotated[Any, Only("none")] = "none"
    verbosity: Annotated[Any, Only("medium")] = "medium"
    prediction: Annotated[Any, Only()] = None
    audio: Annotated[Any, Only()] = None
    web_search_options: Annotated[Any, Only()] = None

    parallel_tool_calls: Ignored = None
    prompt_cache_key: Ignored = None
    safety_identifier: Ignored = None
    service_tier: Ignored = None
    store: Ignored = None
    user: Ignored = None

    @property
    def limit_name(self) -> str:
        """How the client spells max_new_tokens, if it names it."""
        return next((name for name in _LIMIT_NAMES if name in self.model_fields_set), _LIMIT_NAMES[0])

    def to_submission(self) -> Submission:
        """The job. Raises ProblemError."""
        given = {getattr(self, name) for name in _LIMIT_NAMES if name in self.model_fields_set}
        if len(given) > 1:
            raise field_problem("invalid_input", self.limit_name, "named twice: give max_completion_tokens alone")
        parameters = {name: getattr(self, name) for name in Parameters.model_fields if name not in _LIMIT_NAMES}
        if given:
            parameters["max_new_tokens"] = given.pop()
        return Submission(
            model=self.model,
            input=Input(messages=[message.to_message() for message in self.messages]),
            parameters=Parameters(**parameters),
            lane=self.lane,
            start_within_seconds=self.start_within_seconds,
            timeout_seconds=self.timeout_seconds,
            retain_seconds=self.retain_seconds,
            metadata=self.metadata,
            webhook=self.webhook,
        )


_MODELS: Mapping[str, type[BaseModel]] = {
    "": ChatRequest,
    "messages": ChatMessage,
    "stream_options": StreamOptions,
    "webhook": Webhook,
}


def parse_chat(body: bytes) -> ChatRequest:
    """Read and check a body. Raises ProblemError."""
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        raise explain(error, _MODELS) from None
