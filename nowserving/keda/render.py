"""From the catalog to manifests: per model a Deployment, a disruption budget and a ScaledObject; and the deliverer's.

What a manifest says and why stands in templates/*.yaml; here is what the values are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from hashlib import sha256

from nowserving import __version__, keys
from nowserving.catalog import Catalog, Model
from nowserving.errors import CatalogError
from nowserving.keda.template import Value, fill, load
from nowserving.settings import Settings

NAMESPACE = "nowserving"
IMAGE = "ghcr.io/nowserving/worker"
CUDA_IMAGE = "ghcr.io/nowserving/worker-cuda"
DELIVERER_IMAGE = "ghcr.io/nowserving/deliverer"
PORT = 8001
"""Where a worker's /health and /metrics are."""
MARGIN_SECONDS = 15
"""From the end of the drain till a worker must have ended: it hands back its jobs, and stops a server of its own."""
STARTUP_PERIOD_SECONDS = 5
DELIVERERS = 4
LEAST = 0.002
"""KEDA cuts the formula's result to thousandths: a waiting job that adds less might count as none."""
_NAME_CHARACTERS = 28
"""A pod's name with its two random parts is then its host name uncut, and "keda-hpa-…" a label's value."""

HEAD = """\
# Made by `nowserving keda render`. Change models.toml and render again, not this file; what is different in one cluster
# belongs into a patch of its overlay.
"""


def render(catalog: Catalog, settings: Settings, namespace: str = NAMESPACE, redis_address: str = "") -> str:
    """All manifests as one YAML text with its reasons in comments. Raises CatalogError.

    `redis_address` is host:port as KEDA reaches it, from a namespace of its own; by default it is base's Service.
    """
    common: dict[str, Value] = {
        "namespace": namespace,
        "redis_address": redis_address or f"nowserving-redis.{namespace}.svc.cluster.local:6379",
        "port": PORT,
        "port_text": str(PORT),
        "drain_text": f"{settings.drain_seconds:g}",
        "grace_seconds": grace_seconds(settings),
        "margin_seconds": MARGIN_SECONDS,
    }
    parts = [HEAD + fill(load("shared"), common)]
    named: dict[str, str] = {}
    for model in catalog.values():
        name = instance(model.name)
        if named.setdefault(name, model.name) != model.name:
            raise CatalogError(
                f"the models {named[name]!r} and {model.name!r} would share the name {name!r}: rename one"
            )
        values = {
            **common,
            **model_values(model),
            "progress_seconds": model.load_seconds + grace_seconds(settings) + 60,
        }
        parts += [fill(load("worker"), values), fill(load("scaledobject"), values)]
    values = {**common, **deliverer_values(settings)}
    parts += [fill(load("deliverer"), values), fill(load("scaledobject"), values)]
    return "---\n".join(parts)


def grace_seconds(settings: Settings) -> int:
    """How long a pod may take to end: the drain, and a margin."""
    return math.ceil(settings.drain_seconds) + MARGIN_SECONDS


def instance(model: str) -> str:
    """A model's name as a part of Kubernetes' names: itself if it can be, else a likeness with a hash."""
    like = re.sub(r"[^a-z0-9]+", "-", model).strip("-")
    if like == model and len(like) <= _NAME_CHARACTERS:
        return model
    return f"{like[: _NAME_CHARACTERS - 7].rstrip('-')}-{sha256(model.encode()).hexdigest()[:6]}"


def formula(slots: int, batch_weight: float) -> str:
    """How many workers a model needs, in KEDA's expressions."""
    queued = waiting = "queued"
    if batch_weight:
        weighed = "queued_batch" if batch_weight == 1 else f"{batch_weight:g} * queued_batch"
        queued = f"queued + {weighed}"
        waiting = f"({queued})"
    taken = f"({queued} + delayed + running) / {slots}"
    return f"max(busy, {taken}, {waiting} > 0 ? blocked + ceil({waiting} / {slots}) : 0)"


def model_values(model: Model) -> Mapping[str, Value]:
    """What the templates take from a model. Raises CatalogError if KEDA could not count its jobs one by one."""
    if min(1.0, model.batch_weight or 1.0) / model.slots < LEAST:
        raise CatalogError(
            f"models.{model.name}: batch_weight / slots is less than {LEAST}: KEDA counts in thousandths, and "
            "one such job alone would start no worker"
        )
    name = instance(model.name)
    return {
        **scaling(model.name, model.min_replicas, model.max_replicas),
        "model": model.name,
        "name": f"nowserving-worker-{name}",
        "component": "worker",
        "instance": name,
        "image": f"{CUDA_IMAGE if model.gpus else IMAGE}:{__version__}",
        "celery_name": f"{model.name}@%h",
        "is_model": True,
        "count_batch": model.batch_weight > 0,
        "batch_weight": model.batch_weight,
        "formula": formula(model.slots, model.batch_weight),
        "gpus": model.gpus,
        "on_cpu": not model.gpus,
        "threads_text": str(math.ceil(cpus(model.cpu))),
        "cpu": model.cpu,
        "memory": model.memory,
        "node_selector": model.node_selector or {},
        "load_seconds": model.load_seconds,
        "startup_failures": math.ceil(model.load_seconds / STARTUP_PERIOD_SECONDS),
    }


def deliverer_values(settings: Settings) -> Mapping[str, Value]:
    """What the templates take for the deliverer. What waits hours for its next attempt is not counted, so not in it."""
    slots = settings.webhook_concurrency
    return {
        **scaling(keys.WEBHOOKS, 0, DELIVERERS),
        "model": "The deliverer",
        "name": "nowserving-deliverer",
        "component": "deliverer",
        "instance": "deliverer",
        "image": f"{DELIVERER_IMAGE}:{__version__}",
        "celery_name": "deliver@%h",
        "is_model": False,
        "count_batch": True,
        "batch_weight": 1.0,
        "formula": f"max(busy, (queued + queued_batch + running) / {slots})",
        "slots_text": str(slots),
    }


def scaling(model: str, min_replicas: int, max_replicas: int) -> Mapping[str, Value]:
    """The keys that are counted, and the bounds."""
    return {
        "queue_key": keys.queue(model),
        "batch_key": keys.queue(model, "batch"),
        "delayed_key": keys.DELAYED + model,
        "running_key": keys.RUNNING + model,
        "busy_key": keys.BUSY + model,
        "blocked_key": keys.BLOCKED + model,
        "min_replicas": min_replicas,
        "max_replicas": max_replicas,
        "from_zero": min_replicas == 0,
    }


def cpus(quantity: str) -> float:
    """A Kubernetes quantity of CPUs as a number."""
    return float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)
