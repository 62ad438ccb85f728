"""How a webhook's receiver is found and connected to: its name looked up once, every address checked, and one of these
connected to, with no second look-up between.

httpcore's extension point (https://www.encode.io/httpcore/network-backends/) is used in one way of ours: where it says
`timeout`, seconds of silence, we give and mean a moment by the monotonic clock, so that no drip of bytes puts it off.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any

import httpcore

from nowserving.target import Policy, Resolver, Target

MOST_BYTES = 65_536
"""Of one answer, its headers and the interim ones counted, so much is read."""
MOST_ADDRESSES = 8
"""So many of a name's addresses are tried."""

Dial = Callable[[str, int, float], socket.socket]
"""Connect to an address and port within seconds. Raises OSError."""


class DialError(Exception):
    """There is no connection; the message says why, as the delivery's log has it."""


class AnswerTooLongError(Exception):
    """More than MOST_BYTES have come."""


def left_seconds(until: float) -> float:
    """How long it is till then. Raises TimeoutError if it is past."""
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def say(error: OSError) -> str:
    """An operating system's or TLS's error in a few words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    return (error.strerror or str(error) or type(error).__name__).lower()


def dial(address: str, port: int, seconds: float) -> socket.socket:
    """The usual Dial. An address is no name: nothing is looked up."""
    return socket.create_connection((address, port), seconds)


class Lookup:
    """Asks a resolver on threads of its own, since getaddrinfo cannot be told when to give up.

    Who asks for a name that is being asked for waits for the same answer: a name whose servers are silent takes one
    thread, not all.
    """

    def __init__(self, resolver: Resolver, threads: int) -> None:
        self._resolver = resolver
        self._free = threading.BoundedSemaphore(threads)
        self._lock = threading.Lock()
        self._asked: dict[tuple[str, int], Future[Sequence[str]]] = {}

    def find(self, host: str, port: int, until: float) -> Sequence[str]:
        """The host's addresses. Raises OSError, and TimeoutError if there is no answer by then."""
        key, left = (host, port), left_seconds(until)
        with self._lock:
            answer = self._asked.get(key)
            if first := answer is None:
                answer = self._asked[key] = Future()
        if first:
            self._begin(key, answer, left)
        return answer.result(left_seconds(until))

    def _begin(self, key: tuple[str, int], answer: Future[Sequence[str]], seconds: float) -> None:
        if not self._free.acquire(timeout=seconds):
            self._settle(key, answer, TimeoutError())
            return
        try:
            threading.Thread(target=self._ask, args=(key, answer), name="look-up", daemon=True).start()
        except RuntimeError as error:  # the system has no thread left
            self._free.release()
            self._settle(key, answer, OSError(str(error)))

    def _ask(self, key: tuple[str, int], answer: Future[Sequence[str]]) -> None:
        found: Sequence[str] | Exception
        try:
            found = self._resolver(*key)
        except Exception as error:
            found = error
        self._free.release()
        self._settle(key, answer, found)

    def _settle(self, key: tuple[str, int], answer: Future[Sequence[str]], found: Sequence[str] | Exception) -> None:
        with self._lock:  # before it is told: whoever asks from now on gets a newer answer
            del self._asked[key]
        if isinstance(found, Exception):
            answer.set_exception(found)
        else:
            answer.set_result(found)


class Stream(httpcore.NetworkStream):
    """A connection each of whose operations ends at the moment given, and that reads MOST_BYTES of an answer."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._read_bytes = 0

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """See httpcore. Raises AnswerTooLongError besides."""
        if self._read_bytes == MOST_BYTES:
            raise AnswerTooLongError
        try:
            self._socket.settimeout(left_seconds(timeout or 0))
            data = self._socket.recv(min(max_bytes, MOST_BYTES - self._read_bytes))
        except TimeoutError as error:
            raise httpcore.ReadTimeout from error
        except OSError as error:
            raise httpcore.ReadError from error
        self._read_bytes += len(data)
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """See httpcore."""
        self._read_bytes = 0
        left = memoryview(buffer)
        try:
            while left:
                self._socket.settimeout(left_seconds(timeout or 0))
                left = left[self._socket.send(left) :]
        except TimeoutError as error:
            raise httpcore.WriteTimeout from error
        except OSError as error:
            raise httpcore.WriteError from error

    def close(self) -> None:
        """See httpcore."""
        self._socket.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """See httpcore. Raises DialError."""
        try:
            self._socket.settimeout(left_seconds(timeout or 0))
            return Stream(ssl_context.wrap_socket(self._socket, server_hostname=server_hostname))
        except TimeoutError:
            self.close()
            raise DialError("tls: no answer in time") from None
        except OSError as error:
            self.close()
            raise DialError(f"tls: {say(error)}") from None

    def get_extra_info(self, info: str) -> Any:
        """See httpcore: while nothing is asked, something to read means that the connection is over."""
        if info != "is_readable":
            return None
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))


class Backend(httpcore.NetworkBackend):
    """The network as one connection to one target sees it."""

    def __init__(self, target: Target, policy: Policy, lookup: Lookup, dial: Dial) -> None:
        self._target, self._policy, self._lookup, self._dial = target, policy, lookup, dial

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> Stream:
        """See httpcore. Raises DialError, or WebhookUrlError if an address may not be reached."""
        until = timeout or 0
        addresses = self._policy.check_addresses(self._target, self._find(until))[:MOST_ADDRESSES]
        failure = "connect: the name has no address"
        for number, address in enumerate(addresses):
            try:
                connected = self._dial(str(address), port, left_seconds(until) / (len(addresses) - number))
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return Stream(connected)
            except TimeoutError:
                failure = "connect: no answer in time"
            except OSError as error:
                failure = f"connect: {say(error)}"
        raise DialError(failure)

    def _find(self, until: float) -> Sequence[str]:
        if self._target.address is not None:
            return [self._target.host]
        try:
            return self._lookup.find(self._target.host, self._target.port, until)
        except TimeoutError:
            raise DialError("dns: no answer in time") from None
        except (OSError, UnicodeError) as error:
            raise DialError(f"dns: {say(error) if isinstance(error, OSError) else error}") from None
