"""A receiver of webhooks that verifies by the official library: for trying out, and an example of how to be one."""

from __future__ import annotations

import json
import socket
import socketserver
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from nowserving.signature import find_fault

MOST_BYTES = 65_536
"""Of a body that is read."""
CONNECTION_SECONDS = 10.0
"""How long one may take from its first byte to the answer."""
MOST_IDS = 10_000
"""Deliveries that are remembered, to know them again."""


@dataclass(frozen=True, slots=True)
class Received:
    """One delivery. `fault` is why it is not genuine, or ""; `again`: a genuine one of this id came before."""

    at: datetime
    id: str
    payload: Mapping[str, Any]
    fault: str
    again: bool
    status: int

    @property
    def type(self) -> str:
        """The event, as it says itself."""
        return str(self.payload.get("type") or "?")

    @property
    def data(self) -> Mapping[str, Any]:
        """What the event is about: the job."""
        return _object(self.payload.get("data"))

    @property
    def text(self) -> str:
        """What the job made, or why it failed."""
        error = _object(self.data.get("error"))
        text = _object(self.data.get("output")).get("text")
        return f"{error.get('code')}: {error.get('message')}" if error else str(text or "")


class Receiver(ThreadingHTTPServer):
    """Answers 204 to what is genuine, but 500 to the first `fail` of these, and 400 to all else. `show` is called with
    each, one at a time and before it is answered; when it raises OSError, `unheard` is set.

    Raises OSError if it cannot listen there. Serve it as socketserver has it.
    """

    daemon_threads = True
    request_queue_size = 128
    allow_reuse_port = False  # some Pythons would share the port with whoever listens there already

    def __init__(
        self, host: str, port: int, secrets: Sequence[str], show: Callable[[Received], None], fail: int = 0
    ) -> None:
        self.unheard = threading.Event()
        self._secrets, self._show, self._to_fail = secrets, show, fail
        self._lock = threading.Lock()
        self._known: dict[str, None] = {}
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """Listen, without HTTPServer's look for the host's full name: that may take long."""
        socketserver.TCPServer.server_bind(self)
        self.server_port = int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """Who hangs up is no news."""

    def receive(self, headers: Mapping[str, str], body: bytes) -> Received:
        """Judge a delivery and show it."""
        fault = find_fault(self._secrets, headers, body)
        payload: object = None
        with suppress(ValueError, RecursionError):
            payload = json.loads(body)
        delivery_id = headers.get("webhook-id", "")
        with self._lock:
            again = not fault and delivery_id in self._known
            status = HTTPStatus.BAD_REQUEST if fault else HTTPStatus.NO_CONTENT
            if not fault:
                self._known[delivery_id] = None
                if len(self._known) > MOST_IDS:
                    del self._known[next(iter(self._known))]
                if self._to_fail:
                    self._to_fail -= 1
                    status = HTTPStatus.INTERNAL_SERVER_ERROR
            received = Received(datetime.now().astimezone(), delivery_id, _object(payload), fault, again, status)
            try:
                self._show(received)
            except OSError:
                self.unheard.set()
        return received


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def setup(self) -> None:
        super().setup()
        self._clock = threading.Timer(CONNECTION_SECONDS, self._cut)
        self._clock.daemon = True
        self._clock.start()

    def finish(self) -> None:
        self._clock.cancel()
        super().finish()

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()):
            return self._answer(HTTPStatus.LENGTH_REQUIRED, "there is no Content-Length")
        if len(length) > 9 or int(length) > MOST_BYTES:
            return self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is over {MOST_BYTES} bytes")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            return None
        received = self.server.receive({name.lower(): value for name, value in self.headers.items()}, body)
        on_purpose = "failed on purpose" if received.status == HTTPStatus.INTERNAL_SERVER_ERROR else ""
        return self._answer(received.status, received.fault or on_purpose)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """What is worth a line is shown."""

    def _answer(self, status: int, sentence: str = "") -> None:
        data = f"{sentence}\n".encode() if sentence else b""
        self.send_response(status)
        if data:
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _cut(self) -> None:
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
