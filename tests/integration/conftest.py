"""A sender, and receivers for it."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from nowserving.target import Policy
from tests.network import Network
from tests.raw_receiver import Deed, RawReceiver
from workers.send import Sender


@pytest.fixture
def receive(request: pytest.FixtureRequest) -> Callable[..., RawReceiver]:
    """`receive(deed, context=None)`: a receiver, stopped with the test."""

    def start(deed: Deed, context: ssl.SSLContext | None = None) -> RawReceiver:
        receiver = RawReceiver(deed, context)
        request.addfinalizer(receiver.close)
        return receiver

    return start


@pytest.fixture
def make_sender(request: pytest.FixtureRequest) -> Callable[..., Sender]:
    """`make_sender(network, allow=…, …)`: a sender on that network; hook.test is allowed by name."""

    def make(network: Network, *, allow: Sequence[str] = ("hook.test",), **given: Any) -> Sender:
        defaults: dict[str, Any] = {"connect_seconds": 2, "total_seconds": 5, "connections": 4}
        defaults |= {"resolver": network.resolve, "dial": network.dial}
        sender = Sender(Policy(allow, (443,)), **defaults | given)
        request.addfinalizer(sender.close)
        return sender

    return make
