"""What pods ask for: CPU for an HPA to measure by, and their part of a GPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nowserving.catalog import Model
from nowserving.errors import CatalogError
from nowserving.keda.check.cluster import Cluster, claims, read_catalog
from nowserving.keda.check.field import items, mapping, shorten, text, whole
from nowserving.keda.check.finding import Hit, error, warning
from nowserving.keda.check.manifest import Manifest
from nowserving.keda.check.workload import Workload

_RESOURCES = ("cpu", "memory")


@error(
    "requests-missing",
    "an HPA measures by what a container does not request",
    why="Utilization is usage / request: with one container of the pod without a request, a sidecar too, the target "
    "is <unknown> and nothing is scaled.",
    fix="resources.requests for every container of the pod",
)
def requests_missing(cluster: Cluster) -> Iterator[Hit]:
    for manifest, kind, name, resource, only in _utilizations(cluster):
        workload = cluster.find(manifest, kind, name)
        if not workload or resource in _asked(mapping(workload.pod, "resources")):
            continue
        for container in workload.containers:
            named = text(container, "name")
            if only in ("", named) and resource not in _asked(mapping(container, "resources")):
                yield Hit(
                    workload.manifest, f"{shorten(named)} requests no {resource}, {shorten(manifest.name)} wants it"
                )


@error(
    "catalog-invalid",
    "the models.toml in a ConfigMap is wrong",
    why="API and workers end at their start with this sentence.",
    fix="what docs/settings.md says of models.toml",
)
def catalog_invalid(cluster: Cluster) -> Iterator[Hit]:
    for manifest, content in cluster.catalogs:
        try:
            read_catalog(content)
        except CatalogError as problem:
            yield Hit(manifest, shorten(problem.message, 300))


@warning(
    "gpu-overpromised",
    "workers on one GPU promise more memory than it has",
    why="memory_fraction is each worker's own share of the card: together above 1, the last one to load finds no "
    "room, or all run out of memory under load.",
    fix="memory_fraction in models.toml so that they come to 1 at most",
)
def gpu_overpromised(cluster: Cluster) -> Iterator[Hit]:
    yield from _in_one_pod(cluster)
    yield from _on_one_claim(cluster)
    yield from _on_slices(cluster)


def _in_one_pod(cluster: Cluster) -> Iterator[Hit]:
    for workload in cluster.workers:
        models = _models(cluster, workload)
        if len(models) > 1 and sum(workload.devices.values()) <= 1 and workload.has_gpu and _total(models) > 1:
            yield Hit(workload.manifest, f"in one pod: {_sum(models)}")


def _on_one_claim(cluster: Cluster) -> Iterator[Hit]:
    shared: dict[tuple[str, str], list[tuple[Workload, Model]]] = {}
    for workload in cluster.workers:
        scaled = cluster.scaler(workload)
        replicas = min(scaled.maximum if scaled else whole(workload.manifest.spec, "replicas") or 1, 100)
        for claim in claims(workload):
            for model in _models(cluster, workload) * replicas:
                shared.setdefault((workload.manifest.namespace, claim), []).append((workload, model))
    for (_, claim), found in shared.items():
        models = [model for _, model in found]
        if _total(models) > 1:
            yield Hit(found[0][0].manifest, f"on the claim {shorten(claim)}: {_sum(models)}")


def _on_slices(cluster: Cluster) -> Iterator[Hit]:
    """Of time slices there are at least two on a card: do the two greatest fit on one?"""
    pods: dict[str, list[tuple[Workload, Model]]] = {}
    for workload in cluster.workers:
        scaled = cluster.scaler(workload)
        replicas = min(scaled.maximum if scaled else whole(workload.manifest.spec, "replicas") or 1, 2)
        for device in workload.devices:
            if device.endswith(".shared"):
                place = f"{device} {sorted(mapping(workload.pod, 'nodeSelector').items())}"
                models = _models(cluster, workload) * replicas
                pods.setdefault(place, []).extend((workload, model) for model in models)
    for found in pods.values():
        two = sorted(found, key=lambda pair: pair[1].memory_fraction, reverse=True)[:2]
        if len(two) == 2 and _total([model for _, model in two]) > 1:
            yield Hit(two[0][0].manifest, f"on two slices of one card: {_sum([model for _, model in two])}")


def _models(cluster: Cluster, workload: Workload) -> list[Model]:
    found = [cluster.model(name) for name in workload.models]
    return [model for model in found if model]


def _total(models: list[Model]) -> float:
    return round(sum(model.memory_fraction for model in models), 6)


def _sum(models: list[Model]) -> str:
    parts = " + ".join(f"{model.memory_fraction:g} ({model.name})" for model in models[:4])
    return f"{parts}{' + …' if len(models) > 4 else ''} = {_total(models):g}"


def _asked(resources: Mapping[str, Any]) -> set[str]:
    """The resources asked for; a limit is a request too."""
    return set(mapping(resources, "requests")) | set(mapping(resources, "limits"))


def _utilizations(cluster: Cluster) -> Iterator[tuple[Manifest, str, str, str, str]]:
    """Each target in percent: who has it, the kind and name of what is scaled, the resource, the one container."""
    for hpa in cluster.of_kind("HorizontalPodAutoscaler"):
        reference = mapping(hpa.spec, "scaleTargetRef")
        target = (text(reference, "kind"), text(reference, "name"))
        if whole(hpa.spec, "targetCPUUtilizationPercentage") is not None:
            yield hpa, *target, "cpu", ""
        for metric in items(hpa.spec, "metrics"):
            for source in ("resource", "containerResource"):
                found = mapping(metric, source)
                if text(found, "target", "type") == "Utilization" and text(found, "name") in _RESOURCES:
                    yield hpa, *target, text(found, "name"), text(found, "container")
    for scaled in cluster.scaled:
        for trigger in scaled.triggers:
            kind = text(trigger.body, "metricType") or text(trigger.metadata, "type") or "Utilization"
            if trigger.type in _RESOURCES and kind == "Utilization":
                only = text(trigger.metadata, "containerName")
                yield scaled.manifest, scaled.target_kind, scaled.target_name, trigger.type, only


RULES = (requests_missing, catalog_invalid, gpu_overpromised)
