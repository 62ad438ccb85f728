"""A receiver of webhooks in the test's process, built on the official library alone: it answers what the test says."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from standardwebhooks import Webhook

from nowserving.receiver import Receiver


@dataclass(frozen=True, slots=True)
class Letter:
    """One POST as it came; `nth` counts from 1. Headers' names are in lower case."""

    nth: int
    at: float
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def timestamp(self) -> int:
        return int(self.headers["webhook-timestamp"])

    def verify(self, secret: str) -> object:
        """The payload; raises WebhookVerificationError."""
        return Webhook(secret).verify(self.body, dict(self.headers))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """A sender that was killed is no error here."""


Answer = Callable[[Letter], int | tuple[int, Mapping[str, str]]]


class Mailbox:
    """Listens from its creation on; `letters` in the order they came. `answer` may wait: each has its own thread."""

    def __init__(self, answer: Answer = lambda letter: 204) -> None:
        self.letters: list[Letter] = []
        self.answer = answer
        self._lock = threading.Lock()
        self._go = threading.Event()
        self._server = _Server(("127.0.0.1", 0), self._make_handler())
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def receiver(self, **more: object) -> Receiver:
        """As a job's record names it."""
        host = f"127.0.0.1:{self._server.server_port}"
        return Receiver.model_validate({"url": f"http://{host}/hook", "host": host, "limit": 8, **more})

    @property
    def ids(self) -> list[str]:
        return [letter.id for letter in self.letters]

    def hold(self) -> threading.Event:
        """Have the first letter's answer wait till the event is set, or the test over."""

        def answer(letter: Letter) -> int:
            if letter.nth == 1:
                self._go.wait(60)
            return 204

        self.answer = answer
        return self._go

    def close(self) -> None:
        self._go.set()
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _note(self, path: str, headers: Mapping[str, str], body: bytes) -> Letter:
        with self._lock:
            letter = Letter(len(self.letters) + 1, time.time(), path, headers, body)
            self.letters.append(letter)
        return letter

    def _make_handler(box) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - self is the handler's
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if len(body) < int(self.headers["content-length"]):
                    self.close_connection = True  # half a letter: whoever sent it was killed meanwhile
                    return
                letter = box._note(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
                said = box.answer(letter)
                status, headers = said if isinstance(said, tuple) else (said, {})
                self.send_response(status)
                for name, value in {**headers, "content-length": "0"}.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
                """Tests look at `letters`."""

        return Handler
