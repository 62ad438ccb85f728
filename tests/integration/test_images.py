"""The images' commands, run without a container: with the image's files, its packages alone, and its variables."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from nowserving import verb
from nowserving.cli.port import find_free_port
from nowserving.delivery import WEBHOOKS
from nowserving.settings import Settings
from nowserving.store import Store, connect
from tests.conftest import Eventually
from tests.images.container import Container
from tests.images.dockerfile import ROOT
from workers.engines.builtin import model_folder

SECRET = "whsec_" + "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"
Make = Callable[..., Container]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def container(name: str, **places: Path) -> Container:
        return Container(name, tmp_path, **places)

    return container


def ready(store: Store, model: str) -> bool:
    return [worker["state"] for worker in store.run(verb.workers([model]))] == ["ready"]


def test_the_apis_command_serves(make: Make, redis_url: str, eventually: Eventually) -> None:
    container, port = make("api"), find_free_port()
    before = container.files()
    env = {"NOWSERVING_REDIS_URL": redis_url, "NOWSERVING_MODELS_FILE": str(ROOT / "deploy/models.toml")}
    assert not container.check(port)
    with container.run(container.image.command(), port, env) as process:
        eventually(lambda: container.check(port), 20)
        assert httpx.get(f"http://127.0.0.1:{port}/health").json()["redis"] == "ok"
        assert httpx.get(f"http://127.0.0.1:{port}/v1/models").json()["data"][0]["id"] == "smollm2"
        process.send(signal.SIGTERM)
        # It ends by the signal itself, which a container's first process has to be told by its number.
        assert process.wait(10) in (0, -signal.SIGTERM)
        assert "Application shutdown complete" in process.output()
    assert container.files() == before


def test_the_deliverers_command_waits_for_webhooks(make: Make, redis_url: str, eventually: Eventually) -> None:
    container, port = make("deliverer"), find_free_port()
    before = container.files()
    env = {"NOWSERVING_REDIS_URL": redis_url, "NOWSERVING_WEBHOOK_SECRET": SECRET}
    store = Store(connect(redis_url))
    with container.run(container.image.command(), port, env) as process:
        eventually(lambda: ready(store, WEBHOOKS), 20)
        assert container.check(port)
        process.send(signal.SIGTERM)
        assert process.wait(10) == 0, process.output()
    store.close()
    assert container.files() == before


def test_the_workers_command_loads_the_model_of_its_image(make: Make, redis_url: str, eventually: Eventually) -> None:
    """It is converted already, in a place that is only read: nothing of it comes into the cache, an empty mount."""
    here = model_folder("builtin:smollm2", Settings().cache_dir)
    container, port = make("worker", **{"/opt/nowserving": here.parent.parent}), find_free_port()
    before = container.files()
    env = {"NOWSERVING_REDIS_URL": redis_url, "NOWSERVING_MODELS_FILE": str(ROOT / "deploy/models.toml")}
    store = Store(connect(redis_url))
    with container.run(container.image.command(), port, env) as process:
        eventually(lambda: container.check(port), 20)
        eventually(lambda: ready(store, "smollm2"), 60)
        process.send(signal.SIGTERM)
        assert process.wait(20) == 0, process.output()
    store.close()
    assert container.files() == before
    assert not (container.places["/cache"] / "nowserving").exists()
