"""A sender, and receivers for it; OpenAI's client."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import openai
import pytest

from nowserving.target import Policy
from tests.api_server import ApiServer
from tests.chats import client_of
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


@pytest.fixture
def chats(api: ApiServer) -> Iterator[openai.OpenAI]:
    with client_of(api) as client:
        yield client


@pytest.fixture
def aside() -> Iterator[Callable[..., Future[Any]]]:
    """Calls something in a thread of its own."""
    with ThreadPoolExecutor() as pool:
        yield pool.submit
