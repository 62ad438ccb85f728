"""The name of every Redis key, here and nowhere else; the Lua scripts get these same prefixes (see `lua_constants`).

| key | type | holds |
|---|---|---|
| job:{id} | hash | the record of a job, or of a delivery, which is taken as jobs are: its model is @webhooks |
| events:{id} | stream | what became of it; the same name is a pub/sub channel that says "read again" |
| queue:{model}, queue:{model}:batch | zset | waiting jobs of a lane by sequence |
| delayed:{model} | zset | jobs to be queued later, by due time |
| starting:{model} | zset | waiting jobs that must start in time, by that time |
| running:{model} | zset | taken jobs by lease deadline |
| busy:{model} | hash | worker → its jobs; workers with none are absent |
| alone:{model} | hash | worker → the suspect that it runs alone, till that has made a token |
| blocked:{model} | zset | live workers that are full, for want of memory or of slots, by deadline |
| workers:{model} | hash | worker → what it last said of itself (JSON) |
| alive:{model} | zset | workers by deadline |
| held:{worker} | hash | claim → job |
| wake:{model} | stream | length 1; a new entry means "look at the queue" |
| dead:{model} | hash | what stood in a model's keys and is no job → why; beyond 1,000 `(more)` counts |
| stats:{model} | hash | running averages behind the estimated wait; of @webhooks what has come of all deliveries |
| jobs | zset | all kept jobs by sequence |
| deliveries | zset | all kept deliveries by sequence |
| turns | zset | `host id` of each delivery that stands in its queue or is being sent |
| line | zset | `host id` of each delivery that waits till fewer of its host are |
| brisk:{host} | string | there for an hour after a host has answered, soon and with no 5xx |
| finished | zset | ended jobs and deliveries by the time they are forgotten |
| collapse | zset | ended jobs whose stream is told in many token events, by the time it is made one |
| sequence | string | the last sequence given |
| idempotency:{key} | string | fingerprint and job of a client's key; has a TTL |
| ended | channel | the id of each job that ends, for those who wait for nothing else |
| replicated | channel | a word to nobody, for replicas to confirm (see trip.py) |
| tick | string | which API process reaps now; has a TTL |
| reconciler | string | which API process reconciles now; has a TTL |
| mended | hash | kind → how often reconcile has mended it |
"""

from __future__ import annotations

from nowserving.delivery import WEBHOOKS as WEBHOOKS
from nowserving.job import VERSION

PREFIX = "nowserving:"

JOB = PREFIX + "job:"
EVENTS = PREFIX + "events:"
QUEUE = PREFIX + "queue:"
BATCH = ":batch"
DELAYED = PREFIX + "delayed:"
STARTING = PREFIX + "starting:"
RUNNING = PREFIX + "running:"
BUSY = PREFIX + "busy:"
ALONE = PREFIX + "alone:"
BLOCKED = PREFIX + "blocked:"
WORKERS = PREFIX + "workers:"
ALIVE = PREFIX + "alive:"
HELD = PREFIX + "held:"
WAKE = PREFIX + "wake:"
DEAD = PREFIX + "dead:"
STATS = PREFIX + "stats:"
JOBS = PREFIX + "jobs"
DELIVERIES = PREFIX + "deliveries"
TURNS = PREFIX + "turns"
LINE = PREFIX + "line"
BRISK = PREFIX + "brisk:"
FINISHED = PREFIX + "finished"
COLLAPSE = PREFIX + "collapse"
SEQUENCE = PREFIX + "sequence"
IDEMPOTENCY = PREFIX + "idempotency:"
TICK = PREFIX + "tick"
RECONCILER = PREFIX + "reconciler"
MENDED = PREFIX + "mended"
ENDED = PREFIX + "ended"
REPLICATED = PREFIX + "replicated"


def queue(model: str, lane: str = "normal") -> str:
    """The queue of a model's lane; for the normal lane this is also the Celery queue's name."""
    return QUEUE + model + (BATCH if lane == "batch" else "")


def model_of_queue(name: str) -> str | None:
    """The model whose queue has this name, or None if it is no job queue of ours."""
    if not name.startswith(QUEUE) or name.endswith(BATCH):
        return None
    return name.removeprefix(QUEUE)


def events(job_id: str) -> str:
    """A job's event stream, and the channel that announces its events."""
    return EVENTS + job_id


def wake(model: str) -> str:
    """The stream that idle workers of a model wait on."""
    return WAKE + model


def lua_constants() -> str:
    """All names above, and the record's version, as Lua locals: one line, put before each script."""
    names = [name for name in globals() if name.isupper() and name not in ("PREFIX", "VERSION")]
    values = ", ".join(repr(globals()[name]) for name in names)
    return f"local {', '.join(names)}, VERSION = {values}, {VERSION}\n"
