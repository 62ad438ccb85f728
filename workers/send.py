"""One webhook's HTTP POST: to whom the policy lets it go, with an end in time and in bytes, and an outcome in any case.

It stands on httpcore, which httpx sends with: by itself this follows no redirect, asks no proxy of the environment,
keeps no cookie and decompresses nothing.
"""

from __future__ import annotations

import re
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime

import httpcore
import httpx

from nowserving.errors import WebhookUrlError
from nowserving.target import Policy, Resolver, parse_target, resolve
from workers.dial import MOST_BYTES, AnswerTooLongError, Backend, Dial, DialError, Lookup, dial, left_seconds, say

KEPT_SECONDS = 4.0
"""How long an idle connection is kept: shorter than what most servers keep one."""
LOOKUPS_A_CONNECTION = 4
"""The most look-ups under way for each: one that is given up goes on for as long as the system's resolver likes."""
ANSWER_BYTES = 1000
"""So much of an answer is shown."""
ERROR_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one POST: either a status or an error. An answer that broke off after its status has the status."""

    status: int | None
    seconds: float
    error: str | None
    answer: str = ""
    """Its body's first ANSWER_BYTES, printable."""
    retry_after_seconds: float | None = None
    """What the answer asks for, if it does; from 0 to any number."""


class Sender:
    """Sends from any number of threads, over at most `connections` sockets, idle ones counted.

    A name is looked up once at most for a POST, and not at all where a connection is still open, to an address that was
    checked. Certificates are checked against certifi's authorities, or SSL_CERT_FILE's; or as `ssl_context` says.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        connect_seconds: float,
        total_seconds: float,
        connections: int,
        resolver: Resolver = resolve,
        dial: Dial = dial,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._policy, self._dial = policy, dial
        self._connect_seconds, self._total_seconds = connect_seconds, total_seconds
        self._lookup = Lookup(resolver, LOOKUPS_A_CONNECTION * connections)
        self._pool = _Pool(connections)
        self._ssl_context = ssl_context or httpx.create_ssl_context()

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Outcome:
        """Send it. Raises nothing that a receiver, a resolver or the network could cause."""
        begun = time.monotonic()
        try:
            return self._post(url, body, headers, begun)
        except WebhookUrlError as error:
            said = f"refused: {error}"
        except DialError as error:
            said = str(error)
        except (TimeoutError, httpcore.TimeoutException):
            said = f"timeout: no answer within {self._total_seconds:g} s"
        except AnswerTooLongError:
            said = f"answer: its headers are longer than {MOST_BYTES:,} bytes"
        except httpcore.NetworkError as error:
            said = f"answer: {say(error.__cause__) if isinstance(error.__cause__, OSError) else error}"
        except httpcore.ProtocolError as error:
            said = f"{'request' if isinstance(error, httpcore.LocalProtocolError) else 'answer'}: {error}"
        return Outcome(None, time.monotonic() - begun, printable(said)[:ERROR_CHARACTERS])

    def close(self) -> None:
        """Close the idle connections; those in use close as they become idle."""
        self._pool.close()

    def _post(self, url: str, body: bytes, headers: Mapping[str, str], begun: float) -> Outcome:
        target = parse_target(url)
        self._policy.check(target)
        sent = httpx.URL(target.url)
        until = begun + self._total_seconds
        request = httpcore.Request(
            b"POST",
            httpcore.URL(scheme=sent.raw_scheme, host=sent.raw_host, port=sent.port, target=sent.raw_path),
            headers=[
                *headers.items(),
                ("host", sent.netloc.decode()),
                ("accept", "*/*"),
                ("accept-encoding", "identity"),
                ("content-length", str(len(body))),
            ],
            content=body,
            extensions={"timeout": {"read": until, "write": until}},
        )
        connection = self._pool.take(request.url.origin, until)
        try:
            if connection is not None:
                # The receiver may have closed it just now, and the event's id makes a second POST harmless.
                with suppress(httpcore.NetworkError, httpcore.RemoteProtocolError):
                    return _exchange(connection, request, begun)
            request.extensions["timeout"]["connect"] = min(time.monotonic() + self._connect_seconds, until)
            connection = httpcore.HTTPConnection(
                request.url.origin,
                ssl_context=self._ssl_context,
                keepalive_expiry=KEPT_SECONDS,
                network_backend=Backend(target, self._policy, self._lookup, self._dial),
            )
            return _exchange(connection, request, begun)
        finally:
            self._pool.give(connection)


class _Pool:
    """The connections: those in use and those kept are never more than `most` together."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._free = threading.BoundedSemaphore(most)
        self._lock = threading.Lock()
        self._kept: list[httpcore.HTTPConnection] = []
        self._used = 0
        self._closed = False

    def take(self, origin: httpcore.Origin, until: float) -> httpcore.HTTPConnection | None:
        """Wait till one may be used: a kept one to there, or None: room for a new one. Raises TimeoutError."""
        if not self._free.acquire(timeout=left_seconds(until)):
            raise TimeoutError
        with self._lock:
            for connection in [kept for kept in self._kept if kept.has_expired()]:
                self._drop(connection)
            self._used += 1
            for connection in reversed(self._kept):
                if connection.can_handle_request(origin):
                    self._kept.remove(connection)
                    return connection
            if self._used + len(self._kept) > self._most:
                self._drop(self._kept[0])
            return None

    def give(self, connection: httpcore.HTTPConnection | None) -> None:
        """End the use of one, and keep it if it can be used again."""
        with self._lock:
            self._used -= 1
            if connection is not None and connection.is_available() and not self._closed:
                self._kept.append(connection)
            elif connection is not None:
                connection.close()
        self._free.release()

    def close(self) -> None:
        """Keep none any more."""
        with self._lock:
            self._closed = True
            while self._kept:
                self._drop(self._kept[0])

    def _drop(self, connection: httpcore.HTTPConnection) -> None:
        self._kept.remove(connection)
        connection.close()


def _exchange(connection: httpcore.HTTPConnection, request: httpcore.Request, begun: float) -> Outcome:
    """Send and read the answer, whose status counts even if the rest never comes."""
    response = connection.handle_request(request)
    answer = bytearray()
    try:
        with suppress(AnswerTooLongError, httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError):
            for part in response.iter_stream():
                answer += part
    finally:
        response.close()
    waits = (value.decode("latin-1") for name, value in response.headers if name.lower() == b"retry-after")
    return Outcome(
        response.status,
        time.monotonic() - begun,
        None,
        printable(answer[:ANSWER_BYTES].decode(errors="replace"))[:ANSWER_BYTES],
        read_retry_after(next(waits, ""), time.time()),
    )


def read_retry_after(value: str, now: float) -> float | None:
    """Seconds from now (Unix seconds) that the header asks for; None if it says nothing that can be read.

    https://www.rfc-editor.org/rfc/rfc9110#field.retry-after
    """
    if re.fullmatch("[0-9]{1,10}", value):
        return float(value)
    try:
        date = parsedate_to_datetime(value)
        return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def printable(text: str) -> str:
    """With escapes for what would do something to a terminal or break a line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
