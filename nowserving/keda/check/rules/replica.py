"""Who decides how many replicas there are, between which bounds, and how fast."""

from __future__ import annotations

from collections.abc import Iterator

from nowserving import keys
from nowserving.keda.check.cluster import Cluster
from nowserving.keda.check.field import dig, items, mapping, shorten, text, whole, words
from nowserving.keda.check.finding import Hit, error, warning
from nowserving.keda.check.manifest import Manifest
from nowserving.keda.check.scaled import Scaled

NAME_LETTERS = 63
OWN = "autoscaling.keda.sh/"


@error(
    "replicas-set",
    "replicas stands in a workload that is scaled",
    why="Each apply, Helm upgrade or sync of a GitOps tool sets that number, whatever the queue: busy workers are "
    "stopped at once, or idle ones started.",
    fix="leave replicas out",
)
def replicas_set(cluster: Cluster) -> Iterator[Hit]:
    for workload in cluster.workloads:
        scalers = [found.manifest for found in [cluster.scaler(workload)] if found] or cluster.hpas(workload)
        if scalers and dig(workload.manifest.spec, "replicas") is not None:
            number = shorten(workload.manifest.spec["replicas"])
            yield Hit(workload.manifest, f"replicas: {number}, beside the {scalers[0].kind} {shorten(scalers[0].name)}")


@error(
    "scalers-two",
    "two scale the same workload",
    why="Each sets its own number every 15 s: replicas go up and down without end. KEDA's webhook refuses the "
    "second, if it runs.",
    fix="one ScaledObject, with all triggers in it; a CPU target is a trigger of type cpu",
)
def scalers_two(cluster: Cluster) -> Iterator[Hit]:
    owners: dict[tuple[str, str, str], Manifest] = {}
    for found in cluster.of_kind("ScaledObject", "HorizontalPodAutoscaler"):
        reference = mapping(found.spec, "scaleTargetRef")
        target = (found.namespace, text(reference, "kind") or "Deployment", text(reference, "name"))
        taken_over = (
            text(found.body, "metadata", "annotations", "scaledobject.keda.sh/transfer-hpa-ownership") == "true"
        )
        if (first := owners.setdefault(target, found)) is not found and not taken_over:
            yield Hit(found, f"{first.kind} {shorten(first.name)} scales {target[1]} {shorten(target[2])} already")


@warning(
    "maximum-missing",
    "there is no maxReplicaCount",
    why="KEDA's default is 100: one client that posts a great batch starts a hundred GPUs.",
    fix="maxReplicaCount: what you are ready to pay for",
)
def maximum_missing(cluster: Cluster) -> Iterator[Hit]:
    for scaled in cluster.ours:
        if dig(scaled.manifest.spec, "maxReplicaCount") is None:
            yield Hit(scaled.manifest, "maxReplicaCount is not set: up to 100 replicas")


@error(
    "bounds",
    "minReplicaCount is above maxReplicaCount",
    why="The API server refuses the object.",
    fix="a minimum not above the maximum",
)
def bounds(cluster: Cluster) -> Iterator[Hit]:
    for scaled in cluster.scaled:
        if scaled.minimum > scaled.maximum:
            yield Hit(scaled.manifest, f"at least {scaled.minimum}, at most {scaled.maximum}")


@error(
    "idle-replicas",
    "idleReplicaCount is not 0",
    why="The HPA knows nothing of it: KEDA goes down to it, the HPA goes up to minReplicaCount again, and so on. It "
    "must be below minReplicaCount besides.",
    fix="leave idleReplicaCount out and say minReplicaCount",
)
def idle_replicas(cluster: Cluster) -> Iterator[Hit]:
    for scaled in cluster.scaled:
        idle = whole(scaled.manifest.spec, "idleReplicaCount")
        if idle is not None and (idle != 0 or scaled.minimum == 0):
            yield Hit(scaled.manifest, f"idleReplicaCount is {idle}, minReplicaCount {scaled.minimum}")


@warning(
    "polling",
    "KEDA looks too seldom or too often",
    why="From zero nothing happens until the next look: that long the first job waits. Each look is a script a "
    "trigger, and every second is too many of them.",
    fix="pollingInterval: 5",
)
def polling(cluster: Cluster) -> Iterator[Hit]:
    for scaled in cluster.ours:
        seconds = scaled.polling_seconds
        if seconds < 2 or (seconds > 30 and scaled.minimum == 0):
            yield Hit(scaled.manifest, f"pollingInterval is {seconds} s")


@warning(
    "cooldown-short",
    "the last worker goes too soon",
    why="cooldownPeriod counts from the last look that saw something to do: shorter than two looks, one empty look "
    "stops the last worker; on a GPU, shorter than a minute, the model is loaded again and again.",
    fix="cooldownPeriod: 300, or what loading the model takes at least",
)
def cooldown_short(cluster: Cluster) -> Iterator[Hit]:
    for scaled in cluster.ours:
        target = cluster.target(scaled)
        least = max(2 * min(scaled.polling_seconds, 30), 60 if target and target.has_gpu else 0)
        if scaled.minimum == 0 and scaled.cooldown_seconds < least:
            yield Hit(scaled.manifest, f"cooldownPeriod is {scaled.cooldown_seconds} s, below {least} s")


@error(
    "start-too-long",
    "from zero a worker may take longer to start than clients are ready to wait",
    why="A job with start_within_seconds expires if nothing takes it by then: with no worker kept, the first ones "
    "after a pause all do.",
    fix="minReplicaCount: 1",
)
def start_too_long(cluster: Cluster) -> Iterator[Hit]:
    for scaled in cluster.ours if cluster.start_within_seconds is not None else ():
        target = cluster.target(scaled)
        loading = [startup_seconds(part) or 0 for part, _ in target.workers()] if target else []
        said = max(loading, default=0) or getattr(cluster.model(scaled.model), "load_seconds", 0)
        seconds, wanted = said + scaled.polling_seconds, cluster.start_within_seconds or 0
        if scaled.minimum == 0 and said and seconds > wanted and scaled.model != keys.WEBHOOKS:
            yield Hit(scaled.manifest, f"up to {seconds:g} s for polling and loading, but {wanted:g} s to start within")


@warning(
    "scaled-job",
    "a ScaledJob starts a pod for each job",
    why="Each loads the model anew, and a GPU that has it stands beside unused; a worker takes jobs till it is "
    "stopped, so that a Kubernetes Job of it never ends.",
    fix="a Deployment and a ScaledObject",
)
def scaled_job(cluster: Cluster) -> Iterator[Hit]:
    for manifest in cluster.of_kind("ScaledJob"):
        pod = mapping(manifest.spec, "jobTargetRef", "template", "spec")
        runs = " ".join(
            word for part in items(pod, "containers") for word in words(part, "command") + words(part, "args")
        )
        if keys.QUEUE in runs or Scaled(manifest).reads_ours:
            yield Hit(manifest, "it is a ScaledJob")


@warning(
    "paused",
    "it is paused",
    why="While the annotation is there, KEDA changes nothing: jobs wait, or idle workers stay.",
    fix="take the annotation out",
)
def paused(cluster: Cluster) -> Iterator[Hit]:
    for scaled in cluster.scaled:
        for name, value in mapping(scaled.manifest.body, "metadata", "annotations").items():
            off = text(value) == "false" and name != f"{OWN}paused-replicas"
            if name.startswith(f"{OWN}paused") and not off:
                yield Hit(scaled.manifest, f"{shorten(name)}: {shorten(value)}")


@error(
    "target-missing",
    "what should be scaled is not there",
    why="KEDA looks for scaleTargetRef by kind and name in the ScaledObject's own namespace; without it nothing is "
    "scaled.",
    fix="the name of the worker's Deployment, in the same namespace",
)
def target_missing(cluster: Cluster) -> Iterator[Hit]:
    alone = [found for found in cluster.workers if not cluster.scaler(found) and not cluster.hpas(found)]
    for scaled in cluster.ours:
        if cluster.target(scaled) is None and alone:
            names = ", ".join(f"{found.manifest.namespace or '(none)'}/{found.manifest.name}" for found in alone)
            said = f"there is no {shorten(scaled.target_kind)} {shorten(scaled.target_name)!r} in its namespace"
            yield Hit(scaled.manifest, f"{said}; nothing scales {shorten(names, 200)}")


@warning(
    "resource-trigger",
    "workers are scaled on CPU or memory",
    why="A GPU worker's CPU is as busy with one job as with eight, and its memory is full from the start; a formula "
    "does not see such triggers, so that the HPA takes the greater of both, and with nothing else they never "
    "reach zero.",
    fix="triggers on our keys alone",
)
def resource_trigger(cluster: Cluster) -> Iterator[Hit]:
    for scaled in cluster.ours:
        for trigger in scaled.triggers:
            if trigger.type in ("cpu", "memory"):
                yield Hit(scaled.manifest, f"a trigger of type {trigger.type}")


@warning(
    "stabilization-zero",
    "GPU workers are taken away with no delay",
    why="scaleDown's window of 0 follows every dip of the queue: a worker goes, and the next job loads the model "
    "again.",
    fix="scaleDown.stabilizationWindowSeconds: 300",
)
def stabilization_zero(cluster: Cluster) -> Iterator[Hit]:
    for workload in cluster.workloads:
        if not workload.has_gpu:
            continue
        behaviors = [(hpa, mapping(hpa.spec, "behavior")) for hpa in cluster.hpas(workload)]
        if scaled := cluster.scaler(workload):
            behaviors.append((scaled.manifest, scaled.behavior))
        for manifest, behavior in behaviors:
            if whole(behavior, "scaleDown", "stabilizationWindowSeconds") == 0:
                yield Hit(manifest, "scaleDown.stabilizationWindowSeconds is 0")


@error(
    "name-too-long",
    "the name is too long",
    why="KEDA names the HPA keda-hpa-NAME and sets the name as a label: over 63 letters its webhook refuses the "
    "object.",
    fix="a shorter name, or advanced.horizontalPodAutoscalerConfig.name",
)
def name_too_long(cluster: Cluster) -> Iterator[Hit]:
    for scaled in cluster.scaled:
        given = text(scaled.manifest.spec, "advanced", "horizontalPodAutoscalerConfig", "name")
        name = given or f"keda-hpa-{scaled.manifest.name}"
        if max(len(name), len(scaled.manifest.name)) > NAME_LETTERS:
            yield Hit(scaled.manifest, f"{shorten(name)} has {len(name)} letters")


def startup_seconds(container: object) -> float | None:
    """How long a container may take to start, if its startup probe says."""
    probe = mapping(container, "startupProbe")
    if not probe:
        return None
    period, failures = whole(probe, "periodSeconds") or 10, whole(probe, "failureThreshold") or 3
    return period * failures + (whole(probe, "initialDelaySeconds") or 0)


RULES = (
    replicas_set,
    scalers_two,
    maximum_missing,
    bounds,
    idle_replicas,
    polling,
    cooldown_short,
    start_too_long,
    scaled_job,
    paused,
    target_missing,
    resource_trigger,
    stabilization_zero,
    name_too_long,
)
