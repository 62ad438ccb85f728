"""How many bytes a job takes in Redis: queued, running and finished, before and after its stream is collapsed."""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path

from bench.environment import work_folder
from bench.errors import BenchError
from bench.redis_server import RedisServer, version
from nowserving import verb
from nowserving.job import Status, Submission, fields_of, new_job_id
from nowserving.store import Store, connect

JOBS = 200
NEW_TOKENS = 500
PROMPT_BYTES = 300
TOKENS_AN_EVENT = 2
"""A worker with few jobs writes a job's tokens every 50 ms: 40 tokens a second make two an event."""
COLLAPSED_AFTER_SECONDS = 31.0
MODEL = "memory"
WORKER = "bench"
WORDS = "the of and a to in is you that it he was for on are as with his they I at be this have from or one had by word"


def measure(store: Store) -> dict[str, float]:
    """Bytes a job: `queued`, `running` (its last token just streamed), `finished`, `collapsed`.

    They are what Redis's used_memory grows by over 200 jobs, its indexes included. The Redis must be empty, and is
    empty again afterwards. Raises BenchError.
    """
    if store.client.dbsize():
        raise BenchError("memory is measured in an empty Redis, and this one is not")
    chance = random.Random(1)
    # The scripts are loaded, and the clients' buffers are there, before the first figure is taken.
    _run_through(store, jobs=2, chance=chance)
    store.client.flushdb()
    found = _run_through(store, JOBS, chance)
    store.client.flushdb()
    return found


def _run_through(store: Store, jobs: int, chance: random.Random) -> dict[str, float]:
    empty = _used_bytes(store)
    found: dict[str, float] = {}

    def note(state: str) -> None:
        found[state] = (_used_bytes(store) - empty) / jobs

    for _ in range(jobs):
        _enqueue(store, chance)
    note("queued")
    claims = [f"{number:032x}" for number in range(jobs)]
    taken = verb.take(MODEL, WORKER, claims, lease_seconds=60, headroom=10**6, capacity=10**6, max_takes=9)
    running = store.run(taken)
    if not isinstance(running, tuple) or len(running) != jobs:
        raise BenchError(f"{jobs} jobs were queued, and not all of them could be taken")
    texts = [_generate(store, job.job_id, job.claim, chance) for job in running]
    note("running")
    for job, text in zip(running, texts, strict=True):
        _finish(store, job.job_id, job.claim, text)
    note("finished")
    _collapse(store, jobs)
    note("collapsed")
    return found


def _used_bytes(store: Store) -> int:
    return int(store.client.info("memory")["used_memory"])


def _words(chance: random.Random, count: int) -> str:
    return "".join(f" {word}" for word in chance.choices(WORDS.split(), k=count))


def _enqueue(store: Store, chance: random.Random) -> None:
    prompt = _words(chance, PROMPT_BYTES)[:PROMPT_BYTES]
    body = {"model": MODEL, "input": {"prompt": prompt}, "parameters": {"max_new_tokens": NEW_TOKENS}}
    fields = fields_of(Submission.model_validate(body), seed=1)
    store.run(verb.enqueue(new_job_id(), MODEL, fields, max_depth=10 * JOBS))


def _generate(store: Store, job_id: str, claim: str, chance: random.Random) -> str:
    written = store.run(verb.begin(job_id, claim, PROMPT_BYTES // 4))
    texts = []
    for index in range(0, NEW_TOKENS, TOKENS_AN_EVENT):
        texts.append(_words(chance, TOKENS_AN_EVENT))
        ids = [chance.randrange(49_152) for _ in range(TOKENS_AN_EVENT)]
        written = written and store.run(verb.append(job_id, claim, index, ids, texts[-1]))
    if not written:
        raise BenchError(f"{job_id} was taken from its worker while it was measured")
    return "".join(texts)


def _finish(store: Store, job_id: str, claim: str, text: str) -> None:
    usage = {"prompt_tokens": PROMPT_BYTES // 4, "completion_tokens": NEW_TOKENS}
    output = {"text": text, "finish_reason": "length", "usage": usage}
    if not store.run(verb.finish(job_id, claim, Status.SUCCEEDED, output)):
        raise BenchError(f"{job_id} was taken from its worker while it was measured")


def _collapse(store: Store, jobs: int) -> None:
    """Let the ticks come that collapse their streams, with a clock that is ahead."""
    later = Store(store.client, now=repr(time.time() + COLLAPSED_AFTER_SECONDS))
    for _ in range(jobs):
        later.run(verb.reap("bench", [], period_seconds=0, max_attempts=1, reap_until=0))


def measure_alone() -> dict[str, float]:
    """`measure` on a Redis server of its own, which need not keep anything."""
    with tempfile.TemporaryDirectory(dir=work_folder()) as folder:
        server = RedisServer(Path(folder))
        server.start(["--save", ""])
        store = Store(connect(server.url))
        try:
            return measure(store)
        finally:
            store.close()
            server.stop()


def main() -> None:
    """Print the figures."""
    found = measure_alone()
    print(f"{version()}, bytes a job of {NEW_TOKENS} new tokens, {JOBS} jobs:")
    print(f"queued    {found['queued']:>8,.0f}")
    print(f"running   {found['running']:>8,.0f}")
    print(f"finished  {found['finished']:>8,.0f}, collapsed {found['collapsed']:,.0f}")


if __name__ == "__main__":
    main()
