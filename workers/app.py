"""The Celery app: `celery -A workers.app worker -Q nowserving:queue:MODEL`; `@webhooks` for a model: the deliverer."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from typing import Any

from celery import Celery, bootsteps, signals
from celery.worker import state
from celery.worker.consumer import Consumer

from nowserving import keys
from nowserving.catalog import Catalog, load_catalog
from nowserving.delivery import WEBHOOKS
from nowserving.errors import ClaimLostError, NowservingError
from nowserving.settings import Settings, load_settings
from workers import transport
from workers.lease import Lease
from workers.serving import Serving

log = logging.getLogger("nowserving.worker")


def read_configuration() -> tuple[Settings, Catalog]:
    """Settings and catalog, or the end of the process with one sentence."""
    try:
        settings = load_settings()
        return settings, load_catalog(settings.models_file)
    except NowservingError as error:
        sys.stderr.write(f"nowserving: {error.message}\n")
        sys.exit(os.EX_CONFIG)


# Bars are drawn for a screen; in a log each of their states is a line. tqdm reads it when it is imported.
os.environ.setdefault("TQDM_DISABLE", "1")

# Threads that spin while they wait starve everything else on the machine. OpenMP reads it when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

settings, catalog = read_configuration()

app = Celery("nowserving")
app.conf.update(
    broker_url=settings.redis_url.get_secret_value(),
    broker_transport="workers.transport:Transport",
    broker_transport_options={
        "max_depth": settings.max_depth,
        "socket_connect_timeout": 2,
        "socket_keepalive": True,
    },
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    # A refusal passes as an absence does: a failover, a full disk.
    broker_channel_error_retry=True,
    accept_content=["json"],
    task_ignore_result=True,
    worker_pool="threads",
    worker_prefetch_multiplier=1,
    # The taker, not the broker connection, decides how many jobs run: a reconnect changes nothing.
    worker_enable_prefetch_count_reduction=False,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    worker_hijack_root_logger=True,
)

app.amqp.Connection = transport.Connection

_serving: Serving | None = None


@app.task(name=transport.TASK)
def generate(job_id: str, claim: str) -> str:
    """Run a job that this worker has taken; without a valid claim of this worker it refuses."""
    return _run(job_id, claim)


@app.task(name=transport.DELIVER)
def deliver(delivery_id: str, claim: str) -> str:
    """Send a webhook that this deliverer has taken; without a valid claim of this deliverer it refuses."""
    return _run(delivery_id, claim)


def _run(taken_id: str, claim: str) -> str:
    if _serving is None:
        raise ClaimLostError("this process takes no jobs")
    return _serving.run(taken_id, claim)


def serve(model: str) -> Serving:
    """What serves this queue. Raises NowservingError. A deliverer imports no engine, a worker no webhooks."""
    if model == WEBHOOKS:
        from workers.deliverer import Deliverer

        return Deliverer(settings)
    from workers.worker import Worker

    return Worker(settings, catalog[model])


@signals.celeryd_init.connect
def choose_model(conf: Any, options: dict[str, Any], **_: Any) -> None:
    """Read the model from -Q, before Celery builds its pool: slots = threads."""
    global _serving
    named = options.get("queues") or []
    queues = named.split(",") if isinstance(named, str) else list(named)
    models = [model for model in map(keys.model_of_queue, queues) if model]
    try:
        if len(models) != 1:
            known = ", ".join(keys.queue(name) for name in catalog)
            raise NowservingError(f"a worker serves one model: -Q must name one of {known}")
        _serving = serve(models[0])
        _serving.listen()
    except NowservingError as error:
        sys.stderr.write(f"nowserving: {error.message}\n")
        sys.exit(os.EX_CONFIG)
    except Exception as error:
        # Celery would log it, and go on with a worker that serves nothing.
        traceback.print_exc()
        sys.stderr.write(f"nowserving: the worker did not start: {error!r}\n")
        sys.exit(os.EX_SOFTWARE)
    conf.worker_concurrency = _serving.slots


@signals.after_setup_logger.connect
def quiet(**_: Any) -> None:
    """Celery's two log lines a task say nothing that the job does not; httpx's are of every look at a server."""
    for name in ("celery.worker.strategy", "celery.app.trace", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("workers").setLevel(logging.INFO)


@signals.worker_ready.connect
def start(sender: Consumer, **_: Any) -> None:
    """Celery's loop is up: begin to take. Sent again after each reconnect."""
    serving = _serving
    if serving is None:
        return

    def hand_over(leases: list[Lease]) -> None:
        sender.hub.call_soon(_hand_over, sender, serving, leases)

    def consuming() -> bool:
        connection = sender.connection
        return connection is not None and transport.consumes(connection._transport, serving.queue)

    def give_up(sentence: str, code: int) -> None:
        log.critical(sentence)
        state.should_stop = code
        sender.hub.call_soon(lambda: None)

    serving.start(hand_over, consuming, lambda: transport.leave(sender), give_up)


def _hand_over(consumer: Consumer, serving: Serving, leases: list[Lease]) -> None:
    for lease in leases:
        try:
            message = transport.envelope(serving.queue, lease.job_id, lease.claim)
            handed = transport.hand_over(consumer.connection.transport, serving.queue, message)
        except Exception:
            # An exception here would end Celery's loop.
            log.exception("%s could not be handed to Celery", lease.job_id)
            handed = False
        if not handed:
            serving.give_back(lease, "not_consuming")


@signals.worker_shutting_down.connect
def drain(how: str = "Warm", **_: Any) -> None:
    """A signal, sent again for each. Celery's loop is about to stop: the drain has a thread of its own."""
    if _serving is not None:
        _serving.stop_soon(at_once=how == "Cold")


class DrainStep(bootsteps.StartStopStep):
    """Drains before Celery waits for its pool, however the worker was told to stop (a remote `shutdown`, too)."""

    requires = ("celery.worker.components:Pool",)

    def stop(self, worker: Any) -> None:
        """Celery calls it with its WorkController."""
        if _serving is not None:
            _serving.drain()


app.steps["worker"].add(DrainStep)


@signals.worker_shutdown.connect
def close(**_: Any) -> None:
    """The pool has stopped: nothing runs any more."""
    if _serving is not None:
        _serving.close()
