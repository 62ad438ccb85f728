"""A TCP proxy on loopback: it loses replies after the server has acted, makes them late, or leads elsewhere."""

from __future__ import annotations

import random
import socket
import threading
import time
from contextlib import suppress


class CuttingProxy:
    """Forwards to 127.0.0.1:port; with probability `rate` a reply is dropped, and its connection with it.

    `target` is where new connections lead: as with a name whose address has changed, those that are open stay.
    """

    def __init__(self, port: int, seed: int) -> None:
        self.rate = 0.0
        self.cuts = 0
        self.target = port
        self.delay_seconds = 0.0
        """How late each reply is."""
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """Redis's address through the proxy."""
        return f"redis://127.0.0.1:{self.port}/0"

    def close(self) -> None:
        """Stop, and close every connection."""
        self._listener.close()
        with self._lock:
            for end in self._open:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                client.close()
                continue
            with self._lock:
                self._open |= {client, server}
            for source, sink, replies in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pump, args=(source, sink, replies), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, replies: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if replies and self._random.random() < self.rate:
                    with self._lock:
                        self.cuts += 1
                    break
                if replies and self.delay_seconds:
                    time.sleep(self.delay_seconds)
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        with suppress(OSError):
            source.close()
        with self._lock:
            self._open.discard(source)
