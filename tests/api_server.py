"""The API over real HTTP, served from a thread of the test process; all its answers are held to its document."""

from __future__ import annotations

import threading
import time
from typing import Any

import httpx
import uvicorn
from pydantic import SecretStr

from api.app import create_app
from nowserving.catalog import parse_catalog
from nowserving.cli.port import find_free_port
from nowserving.settings import Settings
from nowserving.target import Resolver
from tests.contract import check

MODEL = "noop"
CATALOG = {"models": {MODEL: {"engine": "noop", "slots": 2, "max_new_tokens": 512}}}


def know_nobody(host: str, port: int) -> list[str]:
    """A resolver that asks nobody."""
    raise OSError(f"there is no {host}")


class ApiServer:
    """One uvicorn with an app of its own; `http` is a client of it."""

    def __init__(self, redis_url: str, resolver: Resolver = know_nobody, **settings: Any) -> None:
        self.port = find_free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.url, timeout=10, trust_env=False, event_hooks={"response": [check]})
        read = Settings(redis_url=SecretStr(redis_url), **settings)
        self.app = create_app(read, parse_catalog(CATALOG, "test"), resolver)
        config = uvicorn.Config(self.app, port=self.port, log_level="warning", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def start(self) -> ApiServer:
        """Serve; returns when it does."""
        self._thread.start()
        until = time.monotonic() + 10
        while not self._server.started:
            assert self._thread.is_alive(), "the API did not start"
            assert time.monotonic() < until, "the API does not start"
            time.sleep(0.005)
        return self

    def stop(self) -> None:
        """Stop serving."""
        self.http.close()
        self._server.should_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive(), "the API does not stop"

    def submit(self, prompt: str = "hello", headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        """POST a job."""
        return self.http.post("/v1/jobs", json={"model": MODEL, "input": {"prompt": prompt}, **body}, headers=headers)

    def submit_patiently(self, timeout: float) -> httpx.Response:
        """POST a job with Prefer: wait, by a client that waits less long than it says."""
        body = {"model": MODEL, "input": {"prompt": "hello"}}
        return self.http.post("/v1/jobs", json=body, headers={"Prefer": "wait=9"}, timeout=timeout)

    def submit_id(self, **body: Any) -> str:
        """POST a job that is accepted; its id."""
        answer = self.submit(**body)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])
