"""The engine that docs/engines.md shows, in real Celery workers on a real Redis."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from nowserving import verb
from nowserving.job import Status
from nowserving.store import Store
from tests.invariant import story
from tests.worker_process import MODEL, WorkerProcess, enqueue, look, statuses, workers

Eventually = Callable[..., None]
Start = Callable[..., WorkerProcess]

LONG = {"max_new_tokens": 100_000, "seed": 3}


@pytest.fixture
def start(redis_url: str, tmp_path: Path, request: pytest.FixtureRequest) -> Start:
    def begin(catalog: str, **settings: object) -> WorkerProcess:
        process = WorkerProcess(redis_url, tmp_path, catalog, **{"lease_seconds": 60, **settings})
        request.addfinalizer(lambda: process.__exit__(None, None, None))
        return process.start()

    return begin


@pytest.fixture
def markov(tmp_path: Path) -> str:
    book = tmp_path / "book"
    book.write_text("the cat saw the dog and the dog saw the cat and " * 20)
    return f'[models.{MODEL}]\nengine = "docs.examples.markov:Markov"\nslots = 8\nsource = "{book}"\n'


def test_the_documented_engine_streams_and_is_canceled(
    live: Store, start: Start, eventually: Eventually, markov: str
) -> None:
    start(markov)
    calm = enqueue(live, "the cat", parameters=LONG)
    eventually(lambda: look(live, calm).status is Status.SUCCEEDED, 60)
    expected = story(live, calm)
    output = look(live, calm).output
    assert output is not None
    assert output["usage"] == {"prompt_tokens": 2, "completion_tokens": 100_000}
    assert expected == (100_000, output["text"], 1)
    assert set(output["text"].split()) == {"the", "cat", "saw", "dog", "and"}

    endless = enqueue(live, "the dog", parameters={"max_new_tokens": 900_000})
    eventually(lambda: look(live, endless).generated > 100, 10)
    live.run(verb.cancel(endless))
    eventually(lambda: workers(live)[0]["running"] == 0)
    assert look(live, endless).generated < 900_000


def test_the_documented_engines_jobs_go_on_elsewhere(
    live: Store, start: Start, eventually: Eventually, markov: str
) -> None:
    first = start(markov, drain_seconds=0)
    moved = enqueue(live, "the cat", parameters=LONG)
    eventually(lambda: look(live, moved).generated > 100, 30)
    first.send(signal.SIGTERM)
    assert first.wait(10) == 0
    assert look(live, moved).status is Status.QUEUED
    start(markov)
    same = enqueue(live, "the cat", parameters=LONG)
    eventually(lambda: statuses(live, [moved, same]) == {"succeeded": 2}, 60)
    assert look(live, moved).takes == 2
    assert story(live, moved) == story(live, same)
