"""What tests of chat completions share: OpenAI's own client, one that leaves, and what became of the jobs."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import openai
import redis
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from api.front import Front
from nowserving import verb
from nowserving.job import Job, Status
from tests.api_process import ApiProcess
from tests.api_server import MODEL, ApiServer
from tests.contract import check
from tests.fake_worker import FakeWorker

Eventually = Callable[..., None]
HELLO: Any = [{"role": "user", "content": "hello"}]


def client_of(api: ApiServer | ApiProcess, **options: Any) -> openai.OpenAI:
    http = openai.DefaultHttpxClient(trust_env=False, event_hooks={"response": [check]})
    return openai.OpenAI(
        base_url=f"{api.url}/v1", api_key="-", http_client=http, **{"max_retries": 0, "timeout": 15, **options}
    )


def ask(client: openai.OpenAI, **fields: Any) -> ChatCompletion:
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, **fields)
    assert isinstance(answer, ChatCompletion)
    return answer


def read(client: openai.OpenAI, **fields: Any) -> list[ChatCompletionChunk]:
    return list(client.chat.completions.create(model=MODEL, messages=HELLO, stream=True, **fields))


def text_of(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def begin(worker: FakeWorker, eventually: Eventually) -> str:
    """Take the job that is about to come."""
    eventually(lambda: queued(worker))
    return worker.begin()


def queued(worker: FakeWorker) -> list[Job]:
    return worker.store.run(verb.list_jobs(before=None, limit=9, status="queued", model=MODEL))[0]


def status(worker: FakeWorker, job_id: str) -> Status:
    return worker.store.run(verb.look(job_id)).job.status


def count(worker: FakeWorker) -> int:
    return len(worker.store.run(verb.list_jobs(before=None, limit=9, status="", model=MODEL))[0])


def answers(worker: FakeWorker) -> bool:
    """Whether Redis does."""
    with suppress(redis.RedisError):
        return bool(worker.store.client.ping())
    return False


def waiters(api: ApiServer) -> int:
    front: Front = api.app.state.front
    return front.hub.waiters


class Leaver:
    """A client that asks, and leaves without an answer."""

    def __init__(self, api: ApiServer, stream: bool, key: str = "") -> None:
        body = json.dumps({"model": MODEL, "messages": HELLO, "stream": stream})
        headers = ["Host: api", "Content-Type: application/json", f"Content-Length: {len(body)}"]
        if key:
            headers.append(f"Idempotency-Key: {key}")
        self._socket = socket.create_connection(("127.0.0.1", api.port))
        self._socket.sendall("\r\n".join(["POST /v1/chat/completions HTTP/1.1", *headers, "", body]).encode())

    def leave(self) -> None:
        """Close the connection."""
        self._socket.close()
