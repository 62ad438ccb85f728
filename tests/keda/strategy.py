"""Ways to decide how many workers there are: ours and two variations of it, the one of tutorials, and none."""

from __future__ import annotations

import tomllib
from dataclasses import replace

from nowserving import keys
from nowserving.catalog import parse_catalog
from nowserving.keda.render import render
from nowserving.settings import Settings
from tests.keda.manifest import find, read
from tests.keda.scaled_object import ScaledObject, Trigger
from tests.worker_process import MODEL, noop


def ours(slots: int) -> ScaledObject:
    """What `nowserving keda render` writes for a model with so many slots."""
    catalog = parse_catalog(tomllib.loads(noop(slots)), "the test's catalog")
    manifests = read(render(catalog, Settings()))
    return ScaledObject.read(find(manifests, "ScaledObject", f"nowserving-worker-{MODEL}"))


def packed(slots: int) -> ScaledObject:
    """As few workers as hold all jobs: a busy one may be stopped, and its jobs go on elsewhere."""
    formula = (
        f"max((queued + queued_batch + delayed + running) / {slots}, "
        f"(queued + queued_batch) > 0 ? blocked + ceil((queued + queued_batch) / {slots}) : 0)"
    )
    return replace(ours(slots), formula=formula)


def patient(slots: int, turns: float = 12) -> ScaledObject:
    """Jobs may wait: a slot has time for so many of them before the last must begin."""
    formula = (
        f"max(busy, (queued + queued_batch) / {slots * turns:g}, (delayed + running) / {slots}, "
        f"(queued + queued_batch) > 0 ? blocked + ceil((queued + queued_batch) / {slots * turns:g}) : 0)"
    )
    return replace(ours(slots), formula=formula)


def queue_length(slots: int) -> ScaledObject:
    """The queue's length alone, a worker for each `slots` jobs that wait; intervals, bounds and behavior as ours."""
    return replace(ours(slots), triggers=(Trigger("queued", keys.queue(MODEL), slots, 0),), formula="", fallback=None)


def constant(slots: int) -> ScaledObject:
    """As many as there may be, all the time."""
    scaled = ours(slots)
    return replace(scaled, min_replicas=scaled.max_replicas)
