"""A worker's own port: probes that ask nobody, and what Prometheus scrapes. It never runs anything, nor asks Redis."""

from __future__ import annotations

import json
import logging
import socket
import socketserver
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from typing import Any

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from nowserving.errors import SettingsError

log = logging.getLogger(__name__)

HOST = "0.0.0.0"
MOST_CONNECTIONS = 16
"""Of more than so many the oldest is closed: whoever holds connections open keeps no probe out."""
IDLE_SECONDS = 5.0
"""How long a connection may say nothing."""
SCRAPE_SECONDS = 2.0
"""How long a scrape waits for another: a driver that hangs keeps one thread, not one for each scrape."""

Why = Callable[[], str]
"""Why something is not so; "" if it is."""


class Port:
    """Answers on a thread of its own, from its making on till it is closed. Raises SettingsError if it cannot."""

    def __init__(self, port: int, unready: Why, dead: Why, write: Callable[[], bytes]) -> None:
        self._unready, self._dead, self._write = unready, dead, write
        self._scraping = threading.Lock()
        try:
            self._server = _Server((HOST, port), self._handler())
        except OSError as error:
            raise SettingsError(f"NOWSERVING_WORKER_PORT={port} cannot be listened on: {error.strerror}") from None
        self.number: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="port", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Listen no longer."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """Status, content type and body for a path."""
        if path == "/health/ready":
            return _tell(self._unready())
        if path == "/health/live":
            return _tell(self._dead())
        if path != "/metrics":
            return 404, "application/json", b'{"status": "unknown path"}\n'
        if not self._scraping.acquire(timeout=SCRAPE_SECONDS):
            return _tell("another scrape is under way")
        try:
            return 200, CONTENT_TYPE_PLAIN_0_0_4, self._write()
        finally:
            self._scraping.release()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        port = self

        class Handler(BaseHTTPRequestHandler):
            timeout = IDLE_SECONDS
            server_version, sys_version = "nowserving", ""

            def do_GET(self) -> None:
                status, kind, body = port.answer(self.path.partition("?")[0])
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *said: Any) -> None:
                log.debug(*said)

        return Handler


def _tell(why: str) -> tuple[int, str, bytes]:
    said = {"status": "unavailable", "reason": why} if why else {"status": "ok"}
    return 503 if why else 200, "application/json", f"{json.dumps(said)}\n".encode()


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Not http.server's own, which looks its host's name up as it starts."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = MOST_CONNECTIONS

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._lock = threading.Lock()
        self._open: dict[Any, None] = {}
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Called on the port's thread for each connection."""
        oldest: socket.socket | None = None
        with self._lock:
            if len(self._open) >= MOST_CONNECTIONS:
                oldest = next(iter(self._open))
                del self._open[oldest]
            self._open[request] = None
        if oldest:
            with suppress(OSError):
                oldest.shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def close_request(self, request: Any) -> None:
        """Called once for each connection."""
        with self._lock:
            self._open.pop(request, None)
        super().close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever has hung up is no news."""
        error = sys.exception()
        log.log(logging.DEBUG if isinstance(error, OSError) else logging.ERROR, "no answer", exc_info=error)
