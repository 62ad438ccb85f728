"""Whether KEDA reaches the same Redis as the workers do, and who else reads the password."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any

from nowserving.keda.check.cluster import Cluster, url_parts
from nowserving.keda.check.field import items, mapping, shorten, text
from nowserving.keda.check.finding import Hit, error, warning
from nowserving.keda.check.manifest import Manifest
from nowserving.keda.check.scaled import Scaled, Trigger

ADDRESS = "address: SERVICE.NAMESPACE.svc.cluster.local:6379"
_SECRETS = ("password", "sentinelPassword")
_SECRET_NAMES = ("_PASSWORD", "_SECRET", "_TOKEN", "_API_KEY")
_IN_CLUSTER = re.compile(r"([^.]+)\.([^.]+)\.svc(?:\..+)?")
_URL = "NOWSERVING_REDIS_URL"
_PASSWORD = "NOWSERVING_REDIS_PASSWORD"


@error(
    "address-short",
    "the address is one that only the workers' namespace knows",
    why="KEDA's operator resolves it from its own namespace: the name is not found there, each poll is an error, "
    "and nothing is started.",
    fix=ADDRESS,
)
def address_short(cluster: Cluster) -> Iterator[Hit]:
    for scaled, trigger in _redis(cluster):
        for host, port in _addresses(cluster, scaled, trigger):
            if _is_short(host):
                named = shorten(f"{host}:{port}" if port else host)
                space = scaled.manifest.namespace or "NAMESPACE"
                own = host in ("localhost", "127.0.0.1", "::1")
                fix = "" if own else f"address: {shorten(host)}.{space}.svc.cluster.local:{port or 6379}"
                yield Hit(scaled.manifest, f"{shorten(trigger.name or trigger.key)}: {named}", fix)
                break


@error(
    "address-form",
    "the address is not host:port",
    why="KEDA takes host:port alone, no redis:// URL, and adds no port: the connection fails at each poll.",
    fix=ADDRESS,
)
def address_form(cluster: Cluster) -> Iterator[Hit]:
    for scaled, trigger in _redis(cluster):
        for host, port in _addresses(cluster, scaled, trigger):
            if "://" in host or not (port or "$" in host or _is_short(host)):
                yield Hit(scaled.manifest, f"{shorten(trigger.name or trigger.key)}: {shorten(_bare(host))}")
                break


@error(
    "address-other",
    "the triggers look at another Redis than the workers use",
    why="Nobody writes there: the name is not found, which is an error at each poll, or the keys are empty for ever. "
    "Kustomize's namespace does not reach into an address.",
    fix="the Redis of NOWSERVING_REDIS_URL, as address: SERVICE.NAMESPACE.svc.cluster.local:6379",
)
def address_other(cluster: Cluster) -> Iterator[Hit]:
    for scaled, trigger in _redis(cluster):
        target = cluster.target(scaled)
        space = target.manifest.namespace if target else ""
        used = text(url_parts(_url(cluster, scaled)), "host")
        theirs = _service(used, space)
        looked = [_service(host, "") for host, _ in _addresses(cluster, scaled, trigger)]
        if trigger.type != "redis" or not theirs or not looked or not all(looked):
            continue
        if any(_may_be_one(cluster, one, theirs) for one in looked if one):
            continue
        said = f"{shorten(trigger.name or trigger.key)} looks at {_where(looked[0])}, the workers at {_where(theirs)}"
        fix = f"address: {_where(theirs)}.svc.cluster.local:PORT" if theirs[1] else f"address: {_where(theirs)}:PORT"
        yield Hit(scaled.manifest, said, fix)


@error(
    "password-plain",
    "a secret stands in the manifest",
    why="Whoever may read the object, the repository or the cluster's backups has it, and to change it is to change "
    "manifests.",
    fix="a Secret: authenticationRef to a TriggerAuthentication with secretTargetRef; in pods "
    "valueFrom.secretKeyRef, and $(NAME) in the URL",
)
def password_plain(cluster: Cluster) -> Iterator[Hit]:
    for scaled in cluster.scaled:
        if any(text(trigger.metadata, name) for trigger in scaled.triggers for name in _SECRETS):
            yield Hit(scaled.manifest, "a trigger's metadata has a password")
    for workload in cluster.processes:
        for container in workload.containers:
            for variable in items(container, "env"):
                name, value = text(variable, "name"), text(variable, "value")
                secret = text(url_parts(value), "password") if name.endswith("_URL") else ""
                secret = secret or (value if name.endswith(_SECRET_NAMES) else "")
                if secret and "$(" not in secret:
                    yield Hit(workload.manifest, f"{shorten(name)} of {shorten(text(container, 'name'))} holds one")


@error(
    "password-missing",
    "the workers' Redis wants a password, the triggers have none",
    why="Redis answers NOAUTH at each poll: KEDA counts nothing, and starts nothing.",
    fix="authenticationRef to a TriggerAuthentication that reads the Secret",
)
def password_missing(cluster: Cluster) -> Iterator[Hit]:
    for scaled, trigger in _redis(cluster):
        known = {"passwordFromEnv", *_SECRETS} & set(trigger.metadata)
        if _wants_password(cluster, scaled) and not known and "authenticationRef" not in trigger.body:
            yield Hit(scaled.manifest, f"{shorten(trigger.name or trigger.key)} has no authenticationRef")


@error(
    "tls-missing",
    "the workers speak TLS to Redis, the triggers do not",
    why="A server that wants TLS cuts the plain connection: each poll is an error.",
    fix='enableTLS: "true" in the metadata, or the parameter tls of the TriggerAuthentication',
)
def tls_missing(cluster: Cluster) -> Iterator[Hit]:
    for scaled, trigger in _redis(cluster):
        if url_parts(_url(cluster, scaled)).get("scheme") != "rediss":
            continue
        name, _ = _reference(trigger)
        there = _authentication(cluster, scaled, trigger)
        by_reference = bool(name) and (there is None or "tls" in _parameters(there))
        if text(trigger.metadata, "enableTLS").lower() != "true" and not by_reference:
            yield Hit(scaled.manifest, f"{shorten(trigger.name or trigger.key)} has no enableTLS")


@error(
    "database-other",
    "the triggers look into another database of the Redis than the workers",
    why="KEDA reads databaseIndex, 0 by default, not the URL: in another database all keys are empty, and it reads "
    "0 for ever.",
    fix="databaseIndex as at the end of NOWSERVING_REDIS_URL",
)
def database_other(cluster: Cluster) -> Iterator[Hit]:
    for scaled, trigger in _redis(cluster):
        found = text(url_parts(_url(cluster, scaled)), "database")
        index = text(trigger.metadata, "databaseIndex") or "0"
        if _url(cluster, scaled) and "$" not in found and (found or "0") != index:
            said = f"{shorten(trigger.name or trigger.key)} reads database {shorten(index)}, the workers use "
            yield Hit(scaled.manifest, said + shorten(found or "0"), f'databaseIndex: "{shorten(found or "0")}"')


@error(
    "authentication-missing",
    "a trigger's TriggerAuthentication is not in its namespace",
    why="KEDA looks for it beside the ScaledObject: without it the trigger is not built, and nothing is scaled.",
    fix="the name of one in the same namespace, or kind: ClusterTriggerAuthentication",
)
def authentication_missing(cluster: Cluster) -> Iterator[Hit]:
    there = cluster.of_kind("TriggerAuthentication")
    for scaled in cluster.scaled if there else ():
        missing = set()
        for trigger in scaled.triggers:
            name, kind = _reference(trigger)
            if name and kind == "TriggerAuthentication" and _authentication(cluster, scaled, trigger) is None:
                missing.add(name)
        for name in sorted(missing):
            known = ", ".join(sorted({f"{found.namespace or '(none)'}/{found.name}" for found in there}))
            yield Hit(scaled.manifest, f"there is no {shorten(name)!r}; there are {shorten(known, 200)}")


@warning(
    "null-is-zero",
    "a Prometheus that knows nothing counts as zero",
    why="ignoreNullValues is true by default: after a restart of Prometheus or of what it asks, a missing series "
    "reads 0, no fallback applies, and busy workers are stopped.",
    fix='ignoreNullValues: "false", or triggers on the keys themselves',
)
def null_is_zero(cluster: Cluster) -> Iterator[Hit]:
    for scaled in cluster.scaled:
        for trigger in scaled.triggers:
            ours = "nowserving_" in text(trigger.metadata, "query")
            if trigger.type == "prometheus" and ours and text(trigger.metadata, "ignoreNullValues").lower() != "false":
                yield Hit(
                    scaled.manifest, f"the trigger {shorten(trigger.name)!r} of type prometheus".replace(" ''", "")
                )


def _redis(cluster: Cluster) -> Iterator[tuple[Scaled, Trigger]]:
    return ((scaled, trigger) for scaled in cluster.ours for trigger in scaled.triggers if trigger.is_redis)


def _addresses(cluster: Cluster, scaled: Scaled, trigger: Trigger) -> list[tuple[str, str]]:
    """Where a trigger looks, as its metadata or its target's environment says."""
    given = dict(trigger.metadata)
    for name in ("address", "host", "port"):
        if (variable := text(given, f"{name}FromEnv")) and (value := _environment(cluster, scaled).get(variable)):
            given[name] = value
    return Trigger({**trigger.body, "metadata": given}).addresses


def _environment(cluster: Cluster, scaled: Scaled) -> Mapping[str, str | None]:
    """The environment that KEDA reads …FromEnv in: the named container's, or the first one's."""
    if not (target := cluster.target(scaled)):
        return {}
    named = text(scaled.manifest.spec, "scaleTargetRef", "envSourceContainerName")
    found = [part for part in target.containers if not named or text(part, "name") == named]
    return target.environment(found[0]) if found else {}


def _url(cluster: Cluster, scaled: Scaled) -> str:
    """The Redis its workers use, or "" if that is not to be seen."""
    target = cluster.target(scaled)
    found = [target.environment(part).get(_URL) for part in target.containers] if target else []
    return next((url for url in found if url), "")


def _wants_password(cluster: Cluster, scaled: Scaled) -> bool:
    """Do its workers log in to Redis?"""
    target = cluster.target(scaled)
    given = any(_PASSWORD in target.environment(part) for part in target.containers) if target else False
    return given or bool(url_parts(_url(cluster, scaled)).get("password"))


def _reference(trigger: Trigger) -> tuple[str, str]:
    found = mapping(trigger.body, "authenticationRef")
    return text(found, "name"), text(found, "kind") or "TriggerAuthentication"


def _authentication(cluster: Cluster, scaled: Scaled, trigger: Trigger) -> Manifest | None:
    name, kind = _reference(trigger)
    for found in cluster.of_kind(kind):
        same = kind != "TriggerAuthentication" or found.namespace == scaled.manifest.namespace
        if found.name == name and same:
            return found
    return None


def _parameters(authentication: Manifest) -> set[str]:
    lists = [value for value in authentication.spec.values() if isinstance(value, list)]
    return {text(item, "parameter") for found in lists for item in items({"it": found}, "it")}


def _is_short(host: str) -> bool:
    if "$" in host or "://" in host or not host:
        return False
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return "." not in host.rstrip(".")


def _service(host: str, space: str) -> tuple[str, str] | None:
    """A host as a Service and its namespace, or as a name outside and "". None: it is not to be told."""
    host = host.lower().strip("[]").rstrip(".")
    if not host or "$" in host or "://" in host or host == "localhost":
        return None
    try:
        ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        return None  # of a Service, a proxy, a machine
    if found := _IN_CLUSTER.fullmatch(host):
        return found[1], found[2]
    if "." not in host:
        return (host, space) if space else None
    return host, ""


def _may_be_one(cluster: Cluster, one: tuple[str, str], other: tuple[str, str]) -> bool:
    """Several names may lead to one Redis: within a namespace, outside, or by a Service that is but a name."""
    if one[1] == other[1]:
        return True
    for (name, space), (host, outside) in ((one, other), (other, one)):
        if not outside and host == f"{name}.{space}":  # a Service as NAME.NAMESPACE
            return True
    names = {(found.name, found.namespace) for found in cluster.of_kind("Service") if text(found.spec, "externalName")}
    return one in names or other in names


def _where(found: tuple[str, str] | None) -> str:
    return shorten(".".join(part for part in found or () if part))


def _bare(address: str) -> Any:
    """The address without a password that stands in it."""
    scheme, mark, rest = address.partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}" if mark else address


RULES = (
    address_short,
    address_form,
    address_other,
    password_plain,
    password_missing,
    tls_missing,
    database_other,
    authentication_missing,
    null_is_zero,
)
