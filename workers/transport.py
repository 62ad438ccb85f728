"""The Celery broker: kombu's Redis transport, but for the job queues.

A job queue's name is its Redis key. Sending to it enqueues a job; nothing is ever popped here, since the worker's taker
thread takes jobs and hands them over. Control, events and every other queue stay kombu's own.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import redis
from kombu.connection import Connection as KombuConnection
from kombu.serialization import loads
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from pydantic import ValidationError

from nowserving import keys, verb
from nowserving.delivery import WEBHOOKS
from nowserving.errors import InvalidInputError
from nowserving.job import Submission, fields_of, job_id_of_uuid
from nowserving.primary import greet
from nowserving.refusal import FULL, code_of
from nowserving.settings import Settings
from nowserving.store import Store

TASK = "nowserving.generate"
DELIVER = "nowserving.deliver"
"""The task of what is taken from the queue of webhooks."""
MAX_DEPTH = int(Settings.model_fields["max_depth"].default)


RECONNECT_FIRST_SECONDS = 0.5
RECONNECT_LONGEST_SECONDS = 2.0
"""The gate is closed while Celery does not consume: after an outage no worker may sleep on for long."""


def is_job_queue(name: str) -> bool:
    """Whether this Celery queue is a model's job queue."""
    return keys.model_of_queue(name) is not None


def envelope(queue: str, job_id: str, claim: str) -> dict[str, Any]:
    """The Celery message (protocol 2) of a job or a delivery that was just taken.

    The task's id is `job.claim`: Celery remembers revoked ids, and a job taken again must not be discarded for one.
    Fields: https://docs.celeryq.dev/en/stable/internals/protocol.html
    """
    task = DELIVER if keys.model_of_queue(queue) == WEBHOOKS else TASK
    task_id = f"{job_id}.{claim}"
    return {
        "body": "",
        "job": {"args": (job_id, claim), "kwargs": {}},
        "headers": {"lang": "py", "task": task, "id": task_id, "root_id": task_id, "ignore_result": True},
        "properties": {
            "correlation_id": task_id,
            "delivery_tag": task_id,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
            "body_encoding": None,
        },
    }


class Connection(KombuConnection):
    """kombu's, but for the pauses between two tries to connect: Celery passes none, and kombu's grow to 30 s."""

    def ensure_connection(self, *args: Any, **kwargs: Any) -> Connection:
        """See kombu."""
        pauses = {
            "interval_start": RECONNECT_FIRST_SECONDS,
            "interval_step": RECONNECT_FIRST_SECONDS,
            "interval_max": RECONNECT_LONGEST_SECONDS,
        }
        super().ensure_connection(*args, **{**pauses, **kwargs})
        return self


class Message(virtual.Message):
    """A message that, if it is a job's, has never been serialized: Celery would decode its JSON twice."""

    def __init__(self, payload: dict[str, Any], channel: Any = None, **options: Any) -> None:
        super().__init__(payload, channel=channel, **options)
        self._decoded_cache = payload.get("job")


class QoS(kombu_redis.QoS):
    """Keeps no account of jobs: an ack means nothing to Redis, finish, release and the lease do."""

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note a delivered message, unless it is a job."""
        if not _is_job_tag(delivery_tag):
            super().append(message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge, unless it is a job."""
        if not _is_job_tag(delivery_tag):
            super().ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Reject; a job that Celery would not run is released by the heartbeat, since no task begins it."""
        if not _is_job_tag(delivery_tag):
            super().reject(delivery_tag, requeue=requeue)

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Look for lost messages of other queues. A full Redis refuses the look's mutex."""
        with _though_full():
            super().restore_visible(*args, **kwargs)


class Channel(kombu_redis.Channel):
    """kombu's channel, with job queues kept away from its lists and from BRPOP."""

    QoS = QoS
    Message = Message

    @property
    def active_queues(self) -> list[str]:
        """The queues to BRPOP from: none of the job queues."""
        return [queue for queue in super().active_queues if not is_job_queue(queue)]

    def _connparams(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        # Like all our connections, Celery's are to a primary or to nobody.
        return {**super()._connparams(*args, **kwargs), "redis_connect_func": greet}

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        model = keys.model_of_queue(queue)
        if model is None:
            super()._put(queue, message, **kwargs)
            return
        job_id, submission = read_message(model, message)
        call = verb.enqueue(
            job_id,
            model,
            fields_of(submission, secrets.randbits(31)),
            max_depth=self.connection.client.transport_options.get("max_depth", MAX_DEPTH),
            start_within_seconds=submission.start_within_seconds,
        )
        pool = redis.ConnectionPool(**{**self._connparams(), "decode_responses": True})
        with redis.Redis.from_pool(pool) as client:
            Store(client).run(call)

    def _queue_bind(self, *args: Any) -> None:
        # What a full Redis refuses here has mostly been written by an earlier worker.
        with _though_full():
            super()._queue_bind(*args)

    def maybe_refresh_binding_expiry(self) -> None:
        """Keep the bindings of control and events alive; they live for an hour without."""
        with _though_full():
            super().maybe_refresh_binding_expiry()

    def _size(self, queue: str) -> int:
        size = 0
        # A full Redis refuses every transaction, and kombu counts in one.
        with _though_full():
            if is_job_queue(queue):
                # A key that another client has made a list of is put right by the first take.
                with suppress(redis.ResponseError), self.conn_or_acquire() as client:
                    size = int(client.zcard(queue))
            else:
                size = int(super()._size(queue))
        return size

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        return is_job_queue(queue) or bool(super()._has_queue(queue, **kwargs))

    def _purge(self, queue: str) -> int:
        if is_job_queue(queue):
            raise NotImplementedError(f"{queue} holds accepted jobs: cancel them one by one instead of a purge")
        return int(super()._purge(queue))

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        if not is_job_queue(queue):
            super()._delete(queue, *args, **kwargs)


class Transport(kombu_redis.Transport):
    """Set as `broker_transport = "workers.transport:Transport"`."""

    Channel = Channel


def hand_over(transport: virtual.Transport, queue: str, message: dict[str, Any]) -> bool:
    """Hand a taken job's message to Celery, on Celery's loop; False if it does not consume the queue now."""
    callback = transport._callbacks.get(queue)
    if callback is None:
        return False
    callback(message)
    return True


def leave(consumer: Any) -> None:
    """Let Celery take its connection for lost, and connect anew. From any thread."""
    connection = consumer.connection

    def lose() -> None:
        if consumer.connection is connection:
            raise redis.ConnectionError("Redis is no primary any more")

    # On a timer: an error of what call_soon calls would take what is called after it along.
    consumer.hub.call_soon(consumer.hub.call_later, 0, lose)


def consumes(transport: virtual.Transport | None, queue: str) -> bool:
    """Whether Celery would run a job of this queue now: not while it reconnects, nor after `cancel_consumer`."""
    return transport is not None and queue in transport._callbacks


def read_message(model: str, message: dict[str, Any]) -> tuple[str, Submission]:
    """The job that a `send_task("nowserving.generate", kwargs={input, …})` asks for.

    Raises InvalidInputError if the message is anything else: the sender gets it, and nothing is queued.
    """
    headers, properties = message.get("headers") or {}, message["properties"]
    if model == WEBHOOKS:
        raise InvalidInputError("nothing can be sent to the queue of webhooks: a webhook is born as its job goes on")
    if headers.get("task") != TASK:
        raise InvalidInputError(f"a job queue takes the task {TASK} alone, not {headers.get('task')!r}")
    body = message["body"]
    if properties.get("body_encoding") == "base64":
        body = virtual.base.Base64().decode(body)
    content = (message["content-type"], message["content-encoding"])
    args, kwargs, _ = loads(body, *content, accept=["application/json"])
    if args or headers.get("eta"):
        raise InvalidInputError(f"{TASK} takes a job's fields as keyword arguments, no positional ones and no eta")
    try:
        submission = Submission.model_validate({"model": model, **kwargs})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidInputError(f"{where or 'the job'}: {first['msg']}") from None
    if submission.webhook is not None:
        raise InvalidInputError("webhook: only the API takes one, which knows where it may go and what signs it")
    if submission.model != model:
        raise InvalidInputError(f"model {submission.model!r} has another queue than {keys.queue(model)}")
    return job_id_of_uuid(headers["id"]), submission


@contextmanager
def _though_full() -> Iterator[None]:
    """A full Redis may refuse this: no reason to die."""
    try:
        yield
    except redis.ResponseError as error:
        if code_of(error) != FULL:
            raise


def _is_job_tag(delivery_tag: str) -> bool:
    return delivery_tag.startswith(("job_", "dlv_"))
