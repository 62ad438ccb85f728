"""All that Redis holds, read in one atomic step: what the invariants and the moves are judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nowserving import keys
from nowserving.store import Store

DUMP = """
local dump = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  local kind, value = redis.call('TYPE', key).ok, ''
  if kind == 'hash' then value = redis.call('HGETALL', key) end
  if kind == 'zset' then value = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') end
  if kind == 'stream' then value = redis.call('XRANGE', key, '-', '+') end
  if kind == 'string' then value = redis.call('GET', key) end
  dump[#dump + 1] = {key, kind, redis.call('TTL', key) == -1 and 0 or 1, value}
end
return dump
"""
Entry = dict[str, str]


@dataclass(frozen=True)
class Dump:
    """Every key by its type; equal to another one if nothing has changed."""

    hashes: dict[str, dict[str, str]] = field(default_factory=dict)
    zsets: dict[str, dict[str, float]] = field(default_factory=dict)
    streams: dict[str, list[tuple[str, Entry]]] = field(default_factory=dict)
    strings: dict[str, str] = field(default_factory=dict)
    expiring: frozenset[str] = frozenset()

    @classmethod
    def of(cls, store: Store) -> Dump:
        """Read it."""
        rows = store.client.register_script(DUMP)()
        return cls(
            {key: _pairs(value) for key, kind, _, value in rows if kind == "hash"},
            {key: {k: float(v) for k, v in _pairs(value).items()} for key, kind, _, value in rows if kind == "zset"},
            {key: [(i, _pairs(f)) for i, f in value] for key, kind, _, value in rows if kind == "stream"},
            {key: value for key, kind, _, value in rows if kind == "string"},
            frozenset(key for key, _, expires, _ in rows if expires),
        )

    def hash(self, key: str) -> dict[str, str]:
        """A hash; empty if it is not there."""
        return self.hashes.get(key, {})

    def zset(self, key: str) -> dict[str, float]:
        """A sorted set, by score; empty if it is not there."""
        return self.zsets.get(key, {})

    def ids(self) -> list[str]:
        """The jobs that have a record."""
        return [key.removeprefix(keys.JOB) for key in self.hashes if key.startswith(keys.JOB)]

    def record(self, job_id: str) -> dict[str, str]:
        """A job's record; empty if there is none."""
        return self.hash(keys.JOB + job_id)

    def status(self, job_id: str) -> str:
        """A job's status; '' if there is no record."""
        return self.record(job_id).get("status", "")

    def claim(self, job_id: str) -> str:
        """The claim that a job is under; '' if none."""
        return self.record(job_id).get("claim", "")

    def number(self, job_id: str, name: str) -> int:
        """An integer of a job's record, 0 if it has not been set."""
        return int(self.record(job_id).get(name, 0))

    def events(self, job_id: str) -> list[Entry]:
        """A job's events, oldest first."""
        return [entry for _, entry in self.streams.get(keys.events(job_id), [])]

    def held(self) -> dict[tuple[str, str], str]:
        """(worker, claim) → job."""
        return {
            (key.removeprefix(keys.HELD), claim): job_id
            for key, claims in self.hashes.items()
            if key.startswith(keys.HELD)
            for claim, job_id in claims.items()
        }

    def waiting(self, model: str) -> list[str]:
        """The jobs that may be taken, in their order."""
        return [i for lane in ("normal", "batch") for i in self.zset(keys.queue(model, lane))]


def _pairs(flat: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
