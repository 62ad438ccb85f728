"""What a server can, found out once it is up, and how a job is said to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from nowserving.errors import EngineError, InvalidInputError, NowservingError
from nowserving.job import Input, Message, Parameters
from workers.engines.openai_chunk import DONE, Chunk, parse_chunk, refusal

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
JSON = {"content-type": "application/json"}
TOKEN_IDS = "return_token_ids"

_USAGE = {"stream_options": {"include_usage": True}}
_EACH = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
LADDER: tuple[Mapping[str, Any], ...] = ({**_EACH, TOKEN_IDS: True}, _EACH, _USAGE, {})
"""What we should like beyond the standard, from the most to nothing: strict servers refuse what they do not know."""
OFF: Mapping[str, Any] = {
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "stop_token_ids": [],
    "ignore_eos": False,
}
"""Parameters that OpenAI's protocol lacks, with the value that changes nothing: vLLM's and SGLang's names for them."""
LATER = (429, 502, 503, 504)
"""Answers of a server, or a gateway before it, that is not ready yet."""
_TRIAL = Parameters(max_new_tokens=1)
_HELLO = Message(role="user", content="Hi")


class NotReadyError(EngineError):
    """The server is there and cannot serve yet."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """`chat`, `completions`: whether it has that endpoint; `continues`: whether it goes on with a last message of the
    assistant's; `extras`: fields sent with each stream. `refused` are the server's words on what it has not.
    """

    model: str
    chat: bool = False
    completions: bool = False
    continues: bool = False
    extras: Mapping[str, Any] = field(default_factory=dict)
    refused: str = ""

    def resumes(self, job_input: Input) -> bool:
        """Whether it can go on after a text made before."""
        return self.completions if job_input.prompt is not None else self.chat and self.continues

    def check(self, job_input: Input) -> None:
        """Raise InvalidInputError if it takes no such input."""
        if job_input.prompt is not None and not self.completions:
            raise InvalidInputError(f"the server takes no bare prompt, only messages: {self.refused}")
        if job_input.prompt is None and not self.chat:
            raise InvalidInputError(f"the server takes no messages, only a bare prompt: {self.refused}")

    def request(
        self, job_input: Input, parameters: Parameters, made_text: str = "", *, max_tokens: int, stream: bool = True
    ) -> tuple[str, dict[str, Any]]:
        """Path and body of one request; with `made_text` it is to go on after that."""
        body: dict[str, Any] = {"model": self.model, "max_tokens": max_tokens, "temperature": parameters.temperature}
        body["top_p"] = parameters.top_p
        if parameters.temperature > 0 and parameters.seed is not None:
            body["seed"] = parameters.seed
        if parameters.stop:
            body["stop"] = list(parameters.stop)
        for name, off in OFF.items():
            if (value := getattr(parameters, name, off)) != off:
                body[name] = value
        if stream:
            body |= {"stream": True, **self.extras}
        if job_input.prompt is not None:
            return COMPLETIONS, {**body, "prompt": job_input.prompt + made_text}
        messages = [message.model_dump() for message in job_input.messages or []]
        if made_text:
            messages.append({"role": "assistant", "content": made_text})
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        return CHAT, {**body, "messages": messages}


async def find_dialect(client: httpx.AsyncClient, model: str | None) -> Dialect:
    """Generate a token in each way there is, which also makes a server load what it loads lazily.

    Raises EngineError with the server's words if no way works, NotReadyError if that may pass, httpx.HTTPError if it is
    not there.
    """
    dialect = Dialect(model or await _only_model(client))
    chat, refused = await _climb(client, dialect, Input(messages=[_HELLO]), LADDER)
    rungs = LADDER if chat is None else LADDER[LADDER.index(chat) :]
    completions, also_refused = await _climb(client, dialect, Input(prompt="Hi"), rungs)
    words = next((error.message for error in (refused, also_refused) if error), "")
    if chat is None and completions is None:
        raise EngineError(f"the server fails to generate: {words}")
    extras = completions if completions is not None else chat
    found = Dialect(dialect.model, chat is not None, completions is not None, extras=extras or {}, refused=words)
    return replace(found, continues=found.chat and await _continues(client, found))


async def send(client: httpx.AsyncClient, path: str, body: Mapping[str, Any]) -> httpx.Response:
    """POST as JSON in ASCII: half a surrogate pair in a prompt is for the server to refuse, not for us to fail on."""
    return await client.post(path, content=json.dumps(body), headers=JSON)


async def prompt_tokens(
    client: httpx.AsyncClient, dialect: Dialect, job_input: Input, made_text: str = ""
) -> int | None:
    """Count a prompt with the server's own tokenizer, at the price of one token; None if it does not say."""
    path, body = dialect.request(job_input, _TRIAL, made_text, max_tokens=1, stream=False)
    answer = await send(client, path, body)
    if answer.status_code != httpx.codes.OK:
        raise refusal(answer.status_code, answer.text)
    usage = parse_chunk(answer.text).usage
    return usage.prompt_tokens if usage else None


async def _climb(
    client: httpx.AsyncClient, dialect: Dialect, job_input: Input, rungs: tuple[Mapping[str, Any], ...]
) -> tuple[Mapping[str, Any] | None, NowservingError | None]:
    """The first extras with which the server takes such an input; else None and its words. Raises EngineError."""
    refused: NowservingError | None = None
    for extras in rungs:
        path, body = dialect.request(job_input, _TRIAL, max_tokens=1)
        answer = await send(client, path, {**body, **extras})
        if answer.status_code == httpx.codes.OK:
            _check_stream(answer.text)
            return extras, None
        refused = refusal(answer.status_code, answer.text)
        if answer.status_code in LATER:
            raise NotReadyError(refused.message)
        if answer.status_code in (401, 403):
            raise refused
        if answer.status_code in (404, 405) or answer.status_code >= 500:
            break
    return None, refused


def _check_stream(text: str) -> list[Chunk]:
    """The chunks of a short stream. Raises EngineError if it is none."""
    lines = [line.removeprefix("data:").strip() for line in text.splitlines() if line.startswith("data:")]
    chunks = [parse_chunk(line) for line in lines if line != DONE]
    if not chunks:
        raise EngineError(f"the server does not stream: {text[:200]!r}")
    return chunks


async def _continues(client: httpx.AsyncClient, dialect: Dialect) -> bool:
    """Whether a last message of the assistant's is gone on with: then it costs its one token and no end of a turn."""
    hello = Input(messages=[_HELLO])
    try:
        alone = await prompt_tokens(client, dialect, hello)
        with_one_more = await prompt_tokens(client, dialect, hello, "x")
    except NowservingError:
        return False
    return alone is not None and with_one_more is not None and with_one_more - alone == 1


async def _only_model(client: httpx.AsyncClient) -> str:
    """The name of the one model that it serves. Raises EngineError if there are several, or it does not say."""
    answer = await client.get("/v1/models")
    try:
        names = [str(model["id"]) for model in answer.json()["data"]] if answer.is_success else []
    except (ValueError, KeyError, TypeError):
        names = []
    if len(names) != 1:
        said = f"it has {len(names)}" if answer.is_success else f"GET /v1/models answers {answer.status_code}"
        raise EngineError(f"which model of the server is meant? Name it by served_model ({said})")
    return names[0]
