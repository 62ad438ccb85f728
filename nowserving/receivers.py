"""The receivers file: who is called back where a job names nobody, and by which secrets; read once, at start."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections import defaultdict
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from nowserving.errors import ReceiversError, WebhookUrlError
from nowserving.parameters import STRICT
from nowserving.receiver import DEFAULT_EVENTS, MAX_RECEIVERS, Events, Limit, Receiver, Secret, Url
from nowserving.settings import Settings
from nowserving.target import Policy, parse_target

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z")
_KEY = re.compile(r"sha256:[0-9a-f]{64}\Z")


def _check_key(text: str) -> str:
    if not _KEY.match(text):
        raise ValueError("a key is sha256: and the 64 hex digits that `printf %s KEY | sha256sum` prints")
    return text


class Entry(BaseModel):
    """One table of the file."""

    model_config = STRICT

    url: Url
    events: Events = DEFAULT_EVENTS
    secrets: Annotated[tuple[Secret, ...], Field(max_length=2, strict=False)] = ()
    keys: Annotated[frozenset[Annotated[str, AfterValidator(_check_key)]], Field(min_length=1, strict=False)] | None = (
        None
    )
    concurrency: Limit | None = None


class Receivers:
    """Who is called back by default, and whose secrets sign."""

    def __init__(
        self,
        everyones: tuple[Receiver, ...],
        of_key: Mapping[str, tuple[Receiver, ...]],
        secrets: Mapping[str, tuple[str, ...]],
        server_secrets: tuple[str, ...],
    ) -> None:
        self._everyones, self._of_key = everyones, of_key
        self._secrets, self._server_secrets = secrets, server_secrets

    def for_key(self, api_key: str | None) -> tuple[Receiver, ...]:
        """Who is told of a job that was submitted with this key, or with none."""
        mine = () if api_key is None else self._of_key.get(hash_key(api_key), ())
        return self._everyones + mine

    def secrets_of(self, name: str | None, own: str | None = None) -> tuple[str, ...]:
        """What signs a receiver's webhooks: the file's secrets under its name, else its own, else the server's."""
        return self._secrets.get(name or "") or ((own,) if own else self._server_secrets)


def hash_key(api_key: str) -> str:
    """An API key as the file has it."""
    return "sha256:" + hashlib.sha256(api_key.encode("utf-8", "surrogateescape")).hexdigest()


def load_receivers(settings: Settings, policy: Policy) -> Receivers:
    """Read the file that the settings name, if any. Raises ReceiversError naming the file, the key and the rule."""
    path = settings.receivers_file
    if path is None:
        return parse_receivers({"receivers": {}}, "", settings, policy)
    try:
        with path.open("rb") as file:
            return parse_receivers(tomllib.load(file), str(path), settings, policy)
    except OSError as error:
        raise ReceiversError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ReceiversError(f"{path} is not TOML: {error}") from None


def parse_receivers(document: Mapping[str, object], where: str, settings: Settings, policy: Policy) -> Receivers:
    """Check a parsed file; `where` names it in errors. Raises ReceiversError."""
    tables = document.get("receivers")
    if set(document) != {"receivers"} or not isinstance(tables, dict):
        raise ReceiversError(f"{where}: expected tables [receivers.NAME] and nothing else")
    servers = tuple(secret.get_secret_value() for secret in settings.webhook_secret)
    everyones: list[Receiver] = []
    of_key: dict[str, list[Receiver]] = defaultdict(list)
    secrets = {}
    for name, table in tables.items():
        entry = _parse_entry(name, table, where)
        receiver = _to_receiver(name, entry, where, settings, policy)
        if not entry.secrets and not servers:
            raise ReceiversError(
                f"{where}: receivers.{name}.secrets is missing, and there is no NOWSERVING_WEBHOOK_SECRET in its place"
            )
        secrets[name] = entry.secrets
        for known in [everyones] if entry.keys is None else [of_key[key] for key in entry.keys]:
            known.append(receiver)
    most = len(everyones) + max(map(len, of_key.values()), default=0)
    if most > MAX_RECEIVERS:
        raise ReceiversError(f"{where}: one job would have {most} receivers; {MAX_RECEIVERS} are allowed")
    return Receivers(tuple(everyones), {key: tuple(mine) for key, mine in of_key.items()}, secrets, servers)


def _parse_entry(name: str, table: object, where: str) -> Entry:
    if not _NAME.match(name):
        raise ReceiversError(f"{where}: receiver name {name!r} must be 1 to 64 of a-z 0-9 . _ - and begin with a-z 0-9")
    if not isinstance(table, dict):
        raise ReceiversError(f"{where}: receivers.{name} must be a table")
    try:
        return Entry.model_validate(table)
    except ValidationError as error:
        raise ReceiversError(f"{where}: {_explain(name, error)}") from None


def _to_receiver(name: str, entry: Entry, where: str, settings: Settings, policy: Policy) -> Receiver:
    try:
        target = parse_target(entry.url)
        policy.check(target)
    except WebhookUrlError as error:
        raise ReceiversError(f"{where}: receivers.{name}.url: {error.message}") from None
    limit = entry.concurrency or settings.webhook_host_concurrency
    return Receiver(url=entry.url, host=target.authority, limit=limit, events=entry.events, name=name)


def _explain(name: str, error: ValidationError) -> str:
    """Which key is wrong, and what is allowed; never what stood there, which may be a secret."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    key = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        return f"receivers.{name}.{key} is not a key; allowed are {', '.join(sorted(Entry.model_fields))}"
    return f"receivers.{name}.{key}: {first['msg'].removeprefix('Value error, ')}"
