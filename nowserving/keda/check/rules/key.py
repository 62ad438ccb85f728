"""Which keys the triggers read."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches

from nowserving import keys
from nowserving.keda.check.cluster import Cluster
from nowserving.keda.check.field import shorten
from nowserving.keda.check.finding import Hit, error, warning
from nowserving.keda.check.scaled import PLAIN, Scaled, known_keys, name_key

RENDER = "nowserving keda render writes them all"


@error(
    "key-unknown",
    "a trigger reads a key that nowserving does not write, or one that does not tell how much there is to do",
    why="KEDA's redis scaler takes a key that does not exist for an empty list: it reads 0 for ever, with no error, "
    "and nothing is started.",
    fix="nowserving:queue:MODEL, nowserving:queue:MODEL:batch, or nowserving:delayed:, running:, busy:, blocked:MODEL; "
    + RENDER,
)
def key_unknown(cluster: Cluster) -> Iterator[Hit]:
    for scaled in cluster.ours:
        for trigger in scaled.triggers:
            if trigger.is_redis and not trigger.role:
                near = get_close_matches(trigger.key, _keys(cluster, scaled), n=1, cutoff=0.5)
                said = f"listName {shorten(trigger.key)!r} is no such key" if trigger.key else "there is no listName"
                yield Hit(scaled.manifest, said, f"listName: {near[0]}" if near else "")


@error(
    "key-type",
    "a trigger of another type than redis reads a key of ours",
    why="redis-streams and its kin ask a sorted set or a hash for its entries as a stream, which is an error at "
    "each poll; redis-cluster speaks to a cluster, which nowserving refuses to run on.",
    fix="type: redis (or redis-sentinel), with listName",
)
def key_type(cluster: Cluster) -> Iterator[Hit]:
    for scaled in cluster.ours:
        for trigger in scaled.triggers:
            if trigger.is_redis and trigger.role and trigger.type not in PLAIN:
                yield Hit(
                    scaled.manifest, f"the trigger on {shorten(trigger.key)} has the type {shorten(trigger.type)}"
                )


@error(
    "key-role",
    "a trigger's name says another key than it reads",
    why="The formula knows triggers by their names alone: with two keys changed about it computes something else, "
    "and nothing says so.",
    fix="the key of that name",
)
def key_role(cluster: Cluster) -> Iterator[Hit]:
    for scaled in cluster.ours:
        for trigger in scaled.triggers:
            if trigger.is_misnamed:
                right = name_key(trigger.name, trigger.model)
                yield Hit(scaled.manifest, f"{trigger.name} reads {shorten(trigger.key)}", f"listName: {right}")


@error(
    "model-unknown",
    "a trigger reads the keys of a model that the catalog does not have",
    why="Jobs for a model that is not in models.toml are refused, so that its queue stays empty for ever.",
    fix="a model of the catalog",
)
def model_unknown(cluster: Cluster) -> Iterator[Hit]:
    if not (catalog := cluster.catalog):
        return
    for scaled in cluster.ours:
        strangers = {trigger.model for trigger in scaled.triggers} - set(catalog) - {"", keys.WEBHOOKS}
        for model in sorted(strangers):
            there = ", ".join(sorted(catalog))
            yield Hit(scaled.manifest, f"there is no model {shorten(model)!r}; there are {shorten(there, 200)}")


@error(
    "models-mixed",
    "one ScaledObject reads keys of several models",
    why="Each model has workers of its own: jobs of one start workers of the other, which do not take them.",
    fix="one ScaledObject a model; " + RENDER,
)
def models_mixed(cluster: Cluster) -> Iterator[Hit]:
    for scaled in cluster.ours:
        found = sorted({trigger.model for trigger in scaled.triggers if trigger.model})
        if len(found) > 1:
            yield Hit(scaled.manifest, f"its triggers read keys of {shorten(', '.join(found))}")


@error(
    "queue-other",
    "the workers that are scaled take jobs of another model than the triggers count",
    why="Waiting jobs start workers that leave them where they are, up to maxReplicaCount.",
    fix="the same model in listName and in the worker's -Q nowserving:queue:MODEL",
)
def queue_other(cluster: Cluster) -> Iterator[Hit]:
    for scaled in cluster.ours:
        target = cluster.target(scaled)
        if target and target.models and scaled.model and scaled.model not in target.models:
            taken = shorten(", ".join(target.models))
            yield Hit(
                scaled.manifest, f"{shorten(target.manifest.name)} takes jobs of {taken}, counted is {scaled.model}"
            )


@error(
    "batch-alone",
    "the batch lane is counted, the normal lane is not",
    why="nowserving:queue:MODEL:batch holds only jobs posted with lane = batch; all others wait in "
    "nowserving:queue:MODEL and start no worker.",
    fix="a trigger `queued` on nowserving:queue:MODEL beside it",
)
def batch_alone(cluster: Cluster) -> Iterator[Hit]:
    for scaled in cluster.ours:
        misread = any(trigger.is_redis and not trigger.role for trigger in scaled.triggers)
        if scaled.reading("batch") and not scaled.reading("queued") and not misread:
            yield Hit(scaled.manifest, f"only {shorten(scaled.reading('batch')[0].key)} is read")


@warning(
    "batch-uncounted",
    "the batch lane is not counted",
    why="Jobs posted with lane = batch wait in a key of their own: without normal jobs beside them they start no "
    "worker.",
    fix="a trigger `queued_batch` on nowserving:queue:MODEL:batch, counted in the formula; or batch_weight = 0 in "
    "the catalog",
)
def batch_uncounted(cluster: Cluster) -> Iterator[Hit]:
    for scaled in cluster.ours:
        weight = getattr(cluster.model(scaled.model), "batch_weight", 1)
        counted = scaled.formula and scaled.reading("queued")
        if counted and not scaled.reading("batch") and weight and scaled.model != keys.WEBHOOKS:
            yield Hit(scaled.manifest, f"{keys.queue(shorten(scaled.model), 'batch')} is not read")


@warning(
    "webhooks-delayed",
    "the deliverer is scaled on deliveries that wait for their next attempt",
    why="A receiver that is down is tried again after up to a day: one such delivery keeps a deliverer up all the "
    "while.",
    fix="queued, running and busy of @webhooks alone",
)
def webhooks_delayed(cluster: Cluster) -> Iterator[Hit]:
    for scaled in cluster.ours:
        if any(trigger.model == keys.WEBHOOKS for trigger in scaled.reading("delayed")):
            yield Hit(scaled.manifest, f"it reads {keys.DELAYED}{keys.WEBHOOKS}")


def _keys(cluster: Cluster, scaled: Scaled) -> list[str]:
    target = cluster.target(scaled)
    models = {*(cluster.catalog or ()), scaled.model, *(target.models if target else ())}
    return [key for model in models if model for key in known_keys(model)]


RULES = (
    key_unknown,
    key_type,
    key_role,
    model_unknown,
    models_mixed,
    queue_other,
    batch_alone,
    batch_uncounted,
    webhooks_delayed,
)
