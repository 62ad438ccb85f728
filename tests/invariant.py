"""What must be true of all jobs at every instant, asked of Redis in one atomic script."""

from __future__ import annotations

import threading
from contextlib import suppress

import redis

from nowserving import keys, verb
from nowserving.event import is_terminal
from nowserving.store import Store

PLACES = """
local wrong = {}
for i = 2, #ARGV do
  local id = ARGV[i]
  local job = redis.call('HMGET', JOB .. id, 'status', 'model', 'claim', 'worker')
  local status, model = job[1], job[2]
  local queued = redis.call('ZSCORE', QUEUE .. model, id) and 1 or 0
  local delayed = redis.call('ZSCORE', DELAYED .. model, id) and 1 or 0
  local leased = redis.call('ZSCORE', RUNNING .. model, id) and 1 or 0
  local held = (job[3] and redis.call('HGET', HELD .. job[4], job[3]) == id) and 1 or 0
  local waits, runs = status == 'queued' and 1 or 0, status == 'running' and 1 or 0
  if queued + delayed ~= waits or leased ~= runs or held ~= runs then
    wrong[#wrong + 1] = id .. ' is ' .. tostring(status) .. ': queued ' .. queued .. ', delayed ' .. delayed
      .. ', leased ' .. leased .. ', held ' .. held
  end
end
return wrong
"""


class Observer:
    """Asks again and again, in a thread of its own, whether each job stands in exactly one place.

    `ids` may grow meanwhile; a Redis that is away is asked again later.
    """

    def __init__(self, store: Store, ids: list[str], pause_seconds: float = 0.005) -> None:
        self.looks = 0
        self.wrong: list[str] = []
        self._store, self._ids, self._pause_seconds = store, ids, pause_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Observer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(10)
        self._store.close()

    def _run(self) -> None:
        script = self._store.client.register_script(keys.lua_constants() + PLACES)
        while not self._stopping.is_set():
            with suppress(redis.RedisError, OSError):
                self.wrong += script(args=("", *self._ids))
                self.looks += 1
            self._stopping.wait(self._pause_seconds)


def story(store: Store, job_id: str) -> tuple[int, str, int]:
    """A job's stream: its tokens (each index must come once and in order), their text, its terminal events."""
    tokens, text, terminal, after = 0, "", 0, "0"
    while events := store.run(verb.read_events({job_id: after}))[job_id]:
        for event in events:
            terminal += is_terminal(event.type)
            if event.type == "token":
                assert event.data["index"] == tokens, f"{job_id}: index {event.data['index']} after {tokens} tokens"
                tokens += len(event.data["ids"])
                text += event.data["text"]
        after = events[-1].id
    return tokens, text, terminal
