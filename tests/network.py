"""A small Internet: names have the addresses that a test gives them, and each address leads to a port on loopback."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from typing import Any

from tests.raw_receiver import RawReceiver
from workers.send import Outcome, Sender

PUBLIC, OTHER, PRIVATE = "1.1.1.1", "1.0.0.1", "127.0.0.1"
URL = "http://hook.test/x?y=1"


class Network:
    """Its `resolve` and `dial` are a Sender's; both write down what they are asked.

    `names` has for each name its answers, one a look-up, the last for ever; `ports` for each address where it leads.
    What goes over its plain connections is counted: `received_bytes`, and `most_open`, how many there were at once;
    `last` is the newest.
    """

    def __init__(self, names: dict[str, list[Sequence[str]]], ports: dict[str, int]) -> None:
        self.names, self.ports = names, ports
        self.looked_up: list[str] = []
        self.dialed: list[str] = []
        self.received_bytes = self.open = self.most_open = 0
        self.last: socket.socket | None = None
        self.lock = threading.Lock()

    def resolve(self, host: str, port: int) -> Sequence[str]:
        """See nowserving.target.Resolver."""
        self.looked_up.append(host)
        answers = self.names.get(host)
        if answers is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def dial(self, address: str, port: int, seconds: float) -> socket.socket:
        """See workers.dial.Dial."""
        self.dialed.append(address)
        if address not in self.ports:
            raise OSError(113, "No route to host")
        with self.lock:
            self.open += 1
            self.most_open = max(self.open, self.most_open)
        self.last = _Counted(socket.create_connection(("127.0.0.1", self.ports[address]), seconds), self)
        return self.last


def lead(receiver: RawReceiver, *names: str) -> Network:
    """Where hook.test, or the names given, is that receiver's, at a public address."""
    return Network({name: [[PUBLIC]] for name in names or ("hook.test",)}, {PUBLIC: receiver.port})


def post(sender: Sender, url: str = URL, body: bytes = b"{}") -> Outcome:
    """Send it, with two headers."""
    outcome = sender.post(url, body, {"webhook-id": "dlv_1", "user-agent": "nowserving"})
    assert (outcome.status is None) != (outcome.error is None)
    return outcome


class _Counted(socket.socket):
    def __init__(self, connected: socket.socket, network: Network) -> None:
        super().__init__(fileno=connected.detach())
        self._network, self._over = network, False

    def recv(self, *arguments: Any) -> bytes:
        data = super().recv(*arguments)
        with self._network.lock:
            self._network.received_bytes += len(data)
        return data

    def close(self) -> None:
        super().close()
        with self._network.lock:
            self._network.open -= not self._over
            self._over = True
