"""Metrics: what Redis knows of queues, workers and webhooks, read as one asks, in Prometheus's text format.

All API processes answer the same: scrape one of them. docs/metrics.md says what each figure means.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from api.front import Front, front_of
from nowserving import letter, verb
from nowserving.answer import Queue, Tally
from nowserving.delivery import WEBHOOKS
from nowserving.errors import StoreUnavailableError

router = APIRouter(tags=["metrics"])

_OPENAPI = {"200": {"content": {"text/plain": {"schema": {"type": "string"}}}}}


@router.get("/metrics", response_class=Response, openapi_extra={"responses": _OPENAPI})
async def scrape(request: Request) -> Response:
    """Prometheus's text format. While Redis is away there is `nowserving_redis_up 0` and nothing else."""
    try:
        families = await _read(front_of(request))
    except StoreUnavailableError:
        families = [_gauge("redis_up", "Whether Redis answers.", 0)]
    return Response(generate_latest(_Read(families)), media_type=CONTENT_TYPE_PLAIN_0_0_4)


async def _read(front: Front) -> list[Metric]:
    models = tuple(front.catalog)
    *queues, webhooks = await front.store.run(verb.queues([*models, WEBHOOKS]))
    workers = await front.store.run(verb.workers([*models, WEBHOOKS]))
    tally = await front.store.run(letter.tally())
    names = [worker["model"] for worker in workers]
    return [
        _gauge("redis_up", "Whether Redis answers.", 1),
        *_describe_queues(queues, {model: names.count(model) for model in models}),
        *_describe_webhooks(tally, webhooks.oldest_wait_seconds or 0, names.count(WEBHOOKS)),
    ]


def _describe_queues(queues: Sequence[Queue], workers: Mapping[str, int]) -> Iterable[Metric]:
    lanes = [((queue.model, lane), count) for queue in queues for lane, count in _lanes(queue)]
    yield _gauges("queue_depth", "Jobs that wait for a worker.", ("model", "lane"), lanes)
    for name, text, figures in (
        ("queue_delayed", "Jobs that wait before their next try.", {q.model: q.delayed for q in queues}),
        ("queue_oldest_wait_seconds", "Age of the job that is next.", {q.model: q.oldest_wait_seconds for q in queues}),
        ("jobs_running", "Jobs that workers have taken.", {q.model: q.running for q in queues}),
        ("workers", "Live workers.", workers),
        ("workers_busy", "Workers that hold jobs.", {q.model: q.busy for q in queues}),
        ("workers_blocked", "Workers that are full.", {q.model: q.blocked for q in queues}),
    ):
        yield _gauges(name, text, ("model",), [((model,), figure or 0) for model, figure in figures.items()])


def _lanes(queue: Queue) -> tuple[tuple[str, int], ...]:
    return ("normal", queue.normal), ("batch", queue.batch)


def _describe_webhooks(tally: Tally, oldest_wait_seconds: float, deliverers: int) -> Iterable[Metric]:
    states = [("pending", tally.queued), ("sending", tally.sending), ("delayed", tally.delayed), ("line", tally.line)]
    standing = [((state,), count) for state, count in states]
    yield _gauges("deliveries", "Webhooks under way, by where they stand.", ("state",), standing)
    yield _gauge("deliveries_oldest_wait_seconds", "Age of the webhook that is next.", oldest_wait_seconds)
    yield _gauge("deliverers", "Live deliverers.", deliverers)
    ended = CounterMetricFamily("nowserving_deliveries_ended", "Webhooks that came to an end.", labels=["outcome"])
    for outcome, count in (("delivered", tally.delivered), ("dead", tally.dead), ("stopped", tally.stopped)):
        ended.add_metric([outcome], count)
    yield ended
    yield _counter("delivery_attempts", "Webhooks sent, each attempt counted.", tally.attempts)
    yield _counter("delivery_failures", "Attempts that were not answered with 2xx.", tally.attempts - tally.delivered)


def _gauge(name: str, text: str, figure: float) -> Metric:
    return GaugeMetricFamily(f"nowserving_{name}", text, figure)


def _gauges(name: str, text: str, labels: Sequence[str], figures: Iterable[tuple[Sequence[str], float]]) -> Metric:
    family = GaugeMetricFamily(f"nowserving_{name}", text, labels=labels)
    for values, figure in figures:
        family.add_metric(values, figure)
    return family


def _counter(name: str, text: str, figure: float) -> Metric:
    return CounterMetricFamily(f"nowserving_{name}", text, figure)


class _Read(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
