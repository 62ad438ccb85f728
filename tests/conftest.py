"""What all tests share: Redis, real and fake, and waiting for something to become true."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import fakeredis
import pytest

from nowserving.store import Store, connect
from tests.api_server import ApiServer
from tests.fake_worker import FakeWorker
from tests.mailbox import Mailbox
from tests.redis_server import RedisServer

Eventually = Callable[..., None]


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One real Redis for the whole run: do not stop it."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The address of a real, empty Redis."""
    redis_server.flush()
    return redis_server.url


@pytest.fixture
def live(redis_url: str) -> Iterator[Store]:
    """A store on a real, empty Redis, which processes may use beside it."""
    store = Store(connect(redis_url))
    yield store
    store.close()


@pytest.fixture
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A real Redis for this test alone, which may stop, kill and start it."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def quiet_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A real Redis that no API or worker ticks on: there a test's clock is the only one."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["fakeredis", "redis"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """A store on an empty Redis, a fake and a real one."""
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("quiet_server")
        server.flush()
        client = connect(server.url)
    else:
        client = fakeredis.FakeRedis(decode_responses=True, encoding_errors="replace")
    yield Store(client)
    client.close()


@pytest.fixture
def start_api(request: pytest.FixtureRequest) -> Callable[..., ApiServer]:
    """`start_api(redis_url, **settings)`: an API process's app over real HTTP, stopped with the test."""

    def start(redis_url: str, **settings: Any) -> ApiServer:
        server = ApiServer(redis_url, **settings)
        request.addfinalizer(server.stop)
        return server.start()

    return start


@pytest.fixture(scope="session")
def shared_api(redis_server: RedisServer) -> Iterator[ApiServer]:
    """One API for the whole run."""
    server = ApiServer(redis_server.url).start()
    yield server
    server.stop()


@pytest.fixture
def api(shared_api: ApiServer, redis_url: str) -> ApiServer:
    """The API on an empty Redis; what it remembers of the workers may be of the test before."""
    assert redis_url
    return shared_api


@pytest.fixture
def worker(redis_url: str) -> Iterator[FakeWorker]:
    """A worker that does what the test tells it, on the same Redis."""
    fake = FakeWorker(redis_url)
    yield fake
    fake.close()


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    """A receiver of webhooks in this process."""
    with Mailbox() as box:
        yield box


@pytest.fixture
def eventually() -> Eventually:
    """`eventually(predicate, seconds)`: wait until it is true; an AssertionError in it counts as not yet."""

    def wait(predicate: Callable[[], object], seconds: float = 15.0) -> None:
        until = time.monotonic() + seconds
        while True:
            try:
                if predicate():
                    return
                failure = None
            except AssertionError as error:
                failure = error
            if time.monotonic() > until:
                raise AssertionError(f"not true within {seconds:g} s") from failure
            time.sleep(0.01)

    return wait
