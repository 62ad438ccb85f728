"""All manifests together, as rules see them: who scales whom, which models there are, which Redis is ours."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from nowserving import keys
from nowserving.catalog import Catalog, Model, parse_catalog
from nowserving.errors import CatalogError
from nowserving.keda.check.field import dig, items, mapping, text
from nowserving.keda.check.manifest import Manifest
from nowserving.keda.check.scaled import Scaled
from nowserving.keda.check.workload import KINDS, Key, Workload
from nowserving.settings import Settings

CATALOG_FILE = "models.toml"


class Cluster:
    """What would be there if all were applied."""

    def __init__(
        self, manifests: Iterable[Manifest], catalog: Catalog | None = None, start_within_seconds: float | None = None
    ) -> None:
        self.manifests = list(manifests)
        self.start_within_seconds = start_within_seconds
        """How long clients are ready to wait for a start, if that was said."""
        self._catalog = catalog

    def of_kind(self, *kinds: str) -> list[Manifest]:
        """All objects of these kinds."""
        return [manifest for manifest in self.manifests if manifest.kind in kinds]

    @cached_property
    def workloads(self) -> list[Workload]:
        """Everything that runs pods."""
        data = {(found.namespace, found.name): mapping(found.body, "data") for found in self.of_kind("ConfigMap")}
        return [Workload(found, data) for found in self.of_kind(*KINDS)]

    @cached_property
    def scaled(self) -> list[Scaled]:
        """All ScaledObjects."""
        return [Scaled(found) for found in self.of_kind("ScaledObject")]

    @cached_property
    def ours(self) -> list[Scaled]:
        """The ScaledObjects that scale our workers: they read keys of ours, or scale what takes jobs of ours."""
        return [found for found in self.scaled if found.reads_ours or self._takes_jobs(found)]

    @cached_property
    def workers(self) -> list[Workload]:
        """The workloads that take jobs of ours, by their command or by what they are scaled on."""
        targets = {target.key for found in self.ours if (target := self.target(found))}
        return [found for found in self.workloads if found.models or found.key in targets]

    @cached_property
    def processes(self) -> list[Workload]:
        """The workloads that run our code: the workers, and the API."""
        workers = {found.key for found in self.workers}
        return [found for found in self.workloads if found.key in workers or found.is_api]

    def target(self, scaled: Scaled) -> Workload | None:
        """What a ScaledObject scales, if it is here."""
        return self.find(scaled.manifest, scaled.target_kind, scaled.target_name)

    def find(self, beside: Manifest, kind: str, name: str) -> Workload | None:
        """A workload of that kind and name in the same namespace."""
        return self._by_key.get((beside.namespace, kind, name))

    @cached_property
    def _by_key(self) -> dict[Key, Workload]:
        return {found.key: found for found in reversed(self.workloads)}

    @cached_property
    def _scalers(self) -> dict[Key, Scaled]:
        return {target.key: found for found in reversed(self.scaled) if (target := self.target(found))}

    @cached_property
    def _hpas(self) -> dict[Key, list[Manifest]]:
        found: dict[Key, list[Manifest]] = {}
        for hpa in self.of_kind("HorizontalPodAutoscaler"):
            reference = mapping(hpa.spec, "scaleTargetRef")
            key = (hpa.namespace, text(reference, "kind"), text(reference, "name"))
            found.setdefault(key, []).append(hpa)
        return found

    def scaler(self, workload: Workload) -> Scaled | None:
        """The first ScaledObject that scales it."""
        return self._scalers.get(workload.key)

    def hpas(self, workload: Workload) -> list[Manifest]:
        """The HPAs, written by hand, that scale it."""
        return self._hpas.get(workload.key, [])

    @cached_property
    def catalogs(self) -> list[tuple[Manifest, str]]:
        """The ConfigMaps that hold a models.toml, and its text."""
        maps = self.of_kind("ConfigMap")
        return [
            (found, text(found.body, "data", CATALOG_FILE)) for found in maps if dig(found.body, "data", CATALOG_FILE)
        ]

    @cached_property
    def catalog(self) -> Catalog | None:
        """The models there are: as given, else as the first readable models.toml in a ConfigMap says."""
        if self._catalog is not None:
            return self._catalog
        for _, content in self.catalogs:
            try:
                return read_catalog(content)
            except CatalogError:
                continue
        return None

    def model(self, name: str) -> Model | None:
        """What the catalog says of a model."""
        return self.catalog[name] if self.catalog and name in self.catalog else None

    def slots(self, scaled: Scaled) -> int | None:
        """How many jobs one worker of it runs at once, if that is known."""
        if scaled.model == keys.WEBHOOKS:
            field = "webhook_concurrency"
            target = self.target(scaled)
            found = [target.setting(container, field) for container, _ in target.workers()] if target else []
            return int(found[0]) if found and found[0] else int(Settings.model_fields[field].default)
        model = self.model(scaled.model)
        return model.slots if model else None

    @cached_property
    def redises(self) -> list[Workload]:
        """The Redis servers our processes and triggers name; all there are, if nothing says which is ours."""
        servers = [found for found in self.workloads if found.is_redis]
        hosts = {host for scaled in self.ours for trigger in scaled.triggers for host, _ in trigger.addresses}
        for workload in self.workloads:
            for container in workload.containers:
                hosts.add(url_host(workload.environment(container).get("NOWSERVING_REDIS_URL") or ""))
        named = {host.split(".")[0] for host in hosts if host}
        return [found for found in servers if self._names(found) & named] if named else servers

    def _names(self, workload: Workload) -> set[str]:
        services = [
            found.name
            for found in self.of_kind("Service")
            if (wanted := mapping(found.spec, "selector"))
            and found.namespace == workload.manifest.namespace
            and all(workload.labels.get(name) == value for name, value in wanted.items())
        ]
        return {*services, workload.manifest.name, text(workload.manifest.spec, "serviceName")}

    def _takes_jobs(self, scaled: Scaled) -> bool:
        target = self.target(scaled)
        return bool(target and target.models)


def read_catalog(content: str) -> Catalog:
    """The models of a models.toml. Raises CatalogError."""
    try:
        return parse_catalog(tomllib.loads(content), CATALOG_FILE)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise CatalogError(f"{CATALOG_FILE} is not TOML: {error}") from None


def url_host(url: str) -> str:
    """The host a Redis URL names, or ""; a password in it may be `$(NAME)`."""
    return text(url_parts(url), "host")


def url_parts(url: str) -> Mapping[str, Any]:
    """scheme, password, host and database of a Redis URL, as far as they are there."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        return {}
    authority, _, path = rest.partition("/")
    user, _, place = authority.rpartition("@")
    _, _, password = user.partition(":")
    return {
        "scheme": scheme,
        "password": password,
        "host": place.rpartition(":")[0] or place,
        "database": path.partition("?")[0],
    }


def claims(workload: Workload) -> list[str]:
    """The ResourceClaims that all pods of a workload share."""
    return [name for claim in items(workload.pod, "resourceClaims") if (name := text(claim, "resourceClaimName"))]
