"""A receiver of bare sockets on loopback, with TLS or without: it does to each connection what the test says."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress

Deed = Callable[[socket.socket], object]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class RawReceiver:
    """Each connection has a thread for `deed`, and is closed after it; `connections` counts them."""

    def __init__(self, deed: Deed, context: ssl.SSLContext | None = None) -> None:
        self._deed, self._context = deed, context
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self._sockets: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Stop, and close every connection."""
        self._listener.close()
        with self._lock:
            for connection in self._sockets:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._sockets.add(connection)
                self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError):
            if self._context:
                with self._lock:
                    self._sockets.discard(connection)
                connection = self._context.wrap_socket(connection, server_side=True)
                with self._lock:
                    self._sockets.add(connection)
            self._deed(connection)
        with self._lock:
            self._sockets.discard(connection)
        connection.close()


def read_request(connection: socket.socket) -> tuple[str, bytes]:
    """The next one's head and body. Raises ConnectionError if there is none."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _more(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(
        next(line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
    )
    while len(body) < length:
        body += _more(connection)
    return head.decode(), body


def answer(text: bytes = OK, times: int = 1) -> Deed:
    """Read a request and answer it with these bytes, so many times."""

    def deed(connection: socket.socket) -> None:
        for _ in range(times):
            read_request(connection)
            connection.sendall(text)

    return deed


def _more(connection: socket.socket) -> bytes:
    data = connection.recv(65_536)
    if not data:
        raise ConnectionResetError
    return data
