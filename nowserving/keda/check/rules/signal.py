"""What a formula comes to: it is computed for a few depths, however it is written."""

from __future__ import annotations

from collections.abc import Iterator

from nowserving import keys
from nowserving.keda.check.cluster import Cluster
from nowserving.keda.check.demand import TOLERANCE, Demand, sound
from nowserving.keda.check.field import number, shorten, text
from nowserving.keda.check.finding import Hit, error, warning
from nowserving.keda.check.rules.formula import FORMULA
from nowserving.keda.check.scaled import PLAIN

SLOTS = 8
"""What a model of the catalog has that does not say."""
FIX = f'formula: "{FORMULA}" with target: "1"; nowserving keda render writes one'


@error(
    "queue-uncounted",
    "a waiting job does not count",
    why="From zero, nothing is started for it.",
    fix=FIX,
)
def queue_uncounted(cluster: Cluster) -> Iterator[Hit]:
    for scaled in cluster.ours:
        found = sound(scaled)
        if found and scaled.reading("queued") and found.value(queued=1) <= 0:
            yield Hit(scaled.manifest, "with one job waiting the formula is 0")


@error(
    "activation",
    "the first job does not start a worker",
    why="KEDA goes from zero to one only when the value is above the activation value, not at it: fewer jobs than "
    "that wait for ever.",
    fix="leave activationTarget and activationListLength out: they are 0 then",
)
def activation(cluster: Cluster) -> Iterator[Hit]:
    for scaled in cluster.ours:
        found = sound(scaled)
        if scaled.formula and scaled.minimum == 0 and scaled.activation > 0:
            least = found.value(queued=1) if found else 0.0
            if least <= scaled.activation and (not found or least > 0):
                yield Hit(
                    scaled.manifest, f"activationTarget is {scaled.activation:g}, one waiting job counts {least:g}"
                )
        for trigger in scaled.triggers if not scaled.formula and scaled.minimum == 0 else ():
            if trigger.type in PLAIN and (number(trigger.metadata.get("activationListLength")) or 0) > 0:
                said = f"activationListLength is {shorten(trigger.metadata['activationListLength'])}"
                yield Hit(scaled.manifest, f"{said}: so many jobs may wait with no worker")


@error(
    "slots-wrong",
    "a job counts as another share of a worker than it takes",
    why="A worker runs `slots` jobs at once. A formula that counts each as a whole worker starts that many times "
    "too many GPUs; one that counts too little leaves jobs waiting.",
    fix="divide queued, delayed and running by the model's slots",
)
def slots_wrong(cluster: Cluster) -> Iterator[Hit]:
    for found in _demands(cluster):
        known = cluster.slots(found.scaled)
        slots = known or SLOTS
        shares = [_share(found, "queued", slots), _share(found, "running", slots)]
        if known and (max(shares) * slots > 1.5 or 0 < min(shares) * slots < 0.6):
            wrong = max(shares) if max(shares) * slots > 1.5 else min(shares)
            said = f"one job counts {wrong:.3g} workers; a worker has {slots} slots"
            yield Hit(found.scaled.manifest, said, f"divide queued, delayed and running by {slots}")
        elif not known and max(shares) >= 1:
            said = "each job counts as a whole worker, which is right only for a model with slots = 1"
            yield Hit(found.scaled.manifest, said, "divide by the model's slots, or name the catalog: --models FILE")


@error(
    "busy-uncounted",
    "busy workers may be in surplus",
    why="Ten workers with one job each are ten workers: a formula that packs jobs by slots wants two, and the HPA "
    "stops eight that are at work.",
    fix="max(busy, …), with a trigger `busy` on nowserving:busy:MODEL",
)
def busy_uncounted(cluster: Cluster) -> Iterator[Hit]:
    for found in _demands(cluster):
        wanted = found.replicas(busy=10, running=10)
        if wanted < 10 - TOLERANCE:
            yield Hit(found.scaled.manifest, f"with 10 workers busy with one job each it wants {wanted:.3g}")


@error(
    "running-uncounted",
    "jobs that wait behind full workers start no other",
    why="Counted without what runs, the jobs of one worker's slots seem to have their worker: it is full, and they "
    "wait.",
    fix="(queued + delayed + running) / slots in the formula, with a trigger `running` on nowserving:running:MODEL",
)
def running_uncounted(cluster: Cluster) -> Iterator[Hit]:
    for found in _demands(cluster):
        share = _share(found, "queued", SLOTS)
        jobs = round(10 / share) if share > 0.001 else 10 * SLOTS
        behind = found.replicas(queued=jobs, running=jobs, busy=10)
        if behind < 1.25 * max(10, found.replicas(queued=jobs)):
            said = f"with 10 full workers, {jobs} jobs, and {jobs} more waiting it wants {behind:.3g}"
            yield Hit(found.scaled.manifest, said)


@warning(
    "delayed-uncounted",
    "jobs that wait for their next attempt do not count",
    why="With a minimum of zero the worker is gone when their time has come, and each attempt begins with loading "
    "the model.",
    fix="delayed beside queued in the formula, with a trigger `delayed` on nowserving:delayed:MODEL",
)
def delayed_uncounted(cluster: Cluster) -> Iterator[Hit]:
    for found in _demands(cluster):
        webhooks = found.scaled.model == keys.WEBHOOKS
        if found.scaled.minimum == 0 and not webhooks and found.value(delayed=SLOTS) <= 0:
            yield Hit(found.scaled.manifest, f"with {SLOTS} jobs delayed and nothing else it wants no worker")


@error(
    "blocked-uncounted",
    "a worker whose memory is full satisfies the scaler",
    why="A worker closed for memory takes no more jobs, but counts as a replica: what waits for it waits till it is "
    "done, and no other worker comes.",
    fix="queued > 0 ? blocked + ceil(queued / slots) : 0 in the formula's max, with a trigger `blocked` on "
    "nowserving:blocked:MODEL",
)
def blocked_uncounted(cluster: Cluster) -> Iterator[Hit]:
    for found in _demands(cluster):
        enough = found.replicas(queued=1, running=1, busy=1, blocked=1) > 1 + TOLERANCE
        if found.scaled.model != keys.WEBHOOKS and not enough and not _counts_blocked(found):
            yield Hit(
                found.scaled.manifest, "with one worker, closed for memory, and jobs waiting it wants no second one"
            )


@warning(
    "blocked-tolerated",
    "the HPA overlooks one job that waits for a worker closed for memory",
    why="The HPA does nothing while value / replicas is within 10% of the target: with many slots blocked + queued "
    "/ slots is only a little above the workers there are.",
    fix="queued > 0 ? blocked + ceil(queued / slots) : 0, or behavior.scaleUp.tolerance: 0",
)
def blocked_tolerated(cluster: Cluster) -> Iterator[Hit]:
    for found in _demands(cluster):
        given = number(text(found.scaled.behavior, "scaleUp", "tolerance"))
        wanted = found.replicas(queued=1, running=1, busy=1, blocked=1)
        tolerance = TOLERANCE if given is None else given
        if found.scaled.model != keys.WEBHOOKS and _counts_blocked(found) and wanted <= 1 + tolerance + 1e-9:
            yield Hit(
                found.scaled.manifest, f"with one worker, closed for memory, and one job waiting it is {wanted:.4g}"
            )


@warning(
    "never-zero",
    "with nothing to do the formula is above zero",
    why="minReplicaCount is 0, but KEDA goes to zero only when the value is not above the activation value.",
    fix="a formula that is 0 for empty keys, or minReplicaCount: 1 if one is to stay",
)
def never_zero(cluster: Cluster) -> Iterator[Hit]:
    for found in _demands(cluster):
        least = found.value()
        if found.scaled.minimum == 0 and least > found.scaled.activation:
            yield Hit(found.scaled.manifest, f"with all keys empty it is {least:.3g}")


def _demands(cluster: Cluster) -> Iterator[Demand]:
    """The formulas that can be computed, and count what waits."""
    for scaled in cluster.ours:
        if (found := sound(scaled)) and scaled.reading("queued") and found.value(queued=1) > 0:
            yield found


def _share(found: Demand, role: str, slots: int) -> float:
    """The part of a worker that one more job counts for."""
    few, many = ({role: float(count * slots)} for count in (10, 20))
    return (found.replicas(**many) - found.replicas(**few)) / (10 * slots)


def _counts_blocked(found: Demand) -> bool:
    one = {"queued": 1.0, "running": 1.0, "busy": 1.0}
    return found.replicas(**one, blocked=1) > found.replicas(**one) + 1e-9


RULES = (
    queue_uncounted,
    activation,
    slots_wrong,
    busy_uncounted,
    running_uncounted,
    delayed_uncounted,
    blocked_uncounted,
    blocked_tolerated,
    never_zero,
)
