"""A job's event stream as a client reads it, on a thread of its own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import httpx
from httpx_sse import EventSource, ServerSentEvent

from tests.api_server import ApiServer


class Reader:
    """Reads until the stream ends, or until told to hang up."""

    def __init__(self, api: ApiServer, job_id: str, after: str | None = None) -> None:
        self.events: list[ServerSentEvent] = []
        self.status = 0
        self._headers = {"Last-Event-ID": after} if after else {}
        self._client = httpx.Client(base_url=api.url, timeout=20, trust_env=False)
        self._path = f"/v1/jobs/{job_id}/events"
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up()

    def _read(self) -> None:
        with suppress(httpx.HTTPError), self._client.stream("GET", self._path, headers=self._headers) as answer:
            self._socket = answer.extensions["network_stream"].get_extra_info("socket")
            self.status = answer.status_code
            for event in EventSource(answer).iter_sse():
                # httpx-sse makes an empty event of a comment that follows an event with an id.
                if event.data:
                    self.events.append(event)

    def join(self, seconds: float = 5.0) -> None:
        """Wait for the stream's end."""
        self._thread.join(seconds)
        assert not self._thread.is_alive(), f"the stream goes on after {self.kinds}"

    def hang_up(self) -> None:
        """End the connection."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._thread.join(5)
        self._client.close()

    @property
    def kinds(self) -> list[str]:
        """The types of the events so far."""
        return [event.event for event in self.events]

    @property
    def text(self) -> str:
        """The tokens' text so far."""
        return "".join(str(data["text"]) for kind, data in self.read if kind == "token")

    @property
    def read(self) -> list[tuple[str, Mapping[str, Any]]]:
        """The events so far: type and data."""
        return [(event.event, event.json()) for event in self.events]

    @property
    def ids(self) -> list[str]:
        """The ids of the events that have one."""
        return [event.id for event in self.events if event.id]
