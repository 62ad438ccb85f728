"""The catalog: which models there are, read from models.toml."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from nowserving.errors import CatalogError, UnknownModelError

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z")
_DOTTED = r"(transformers|noop|openai|[A-Za-z_][\w.]*:[A-Za-z_]\w*)"
_VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"
_ENGINES = '"transformers", "openai", "noop", "package.module:Class"'
_CPU = r"^([1-9][0-9]{0,5}(\.[0-9]{1,3})?|0\.([1-9][0-9]{0,2}|0[1-9][0-9]?|00[1-9])|[1-9][0-9]{0,8}m)$"
_MEMORY = r"^[1-9][0-9]{0,8}(\.[0-9]{1,3})?([MGT]i?)$"
_LABEL = r"^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
_LABEL_VALUE = r"^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$"
_SERVER_KEYS = ("url", "command", "environment", "served_model", "api_key_env", "start_timeout_seconds")
PORT = "{port}"
"""Stands in a server's command or environment where a free port is filled in."""

_Label = Annotated[str, StringConstraints(pattern=_LABEL)]
_LabelValue = Annotated[str, StringConstraints(pattern=_LABEL_VALUE)]


class Model(BaseModel):
    """One model: how it is loaded and what the API may promise of it."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str
    engine: Annotated[str, StringConstraints(pattern=rf"^{_DOTTED}$")] = "transformers"
    source: str = ""
    slots: Annotated[int, Field(ge=1, le=1024)] = 8
    memory_fraction: Annotated[float, Field(gt=0, le=1)] = 0.9
    max_new_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 4096
    device: Annotated[str, StringConstraints(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    attention: Literal["auto", "sdpa", "eager"] = "auto"
    quantization: Annotated[dict[str, Any], Field(min_length=1)] | None = None
    # Its length is no part of the pattern: \w is all of Unicode, and 200 times that take 70 ms of each start.
    revision: Annotated[str, StringConstraints(pattern=r"^[\w./-]+$", max_length=200)] | None = None
    trust_remote_code: bool = False
    url: Annotated[str, StringConstraints(pattern=r"^https?://[^\s?#@]+$")] | None = None
    command: Annotated[list[Annotated[str, StringConstraints(min_length=1)]], Field(min_length=1)] | None = None
    environment: dict[Annotated[str, StringConstraints(pattern=_VARIABLE)], str] | None = None
    served_model: Annotated[str, StringConstraints(min_length=1)] | None = None
    api_key_env: Annotated[str, StringConstraints(pattern=_VARIABLE)] | None = None
    start_timeout_seconds: Annotated[float, Field(gt=0, le=86400)] | None = None
    min_replicas: Annotated[int, Field(ge=0, le=1000)] = 0
    max_replicas: Annotated[int, Field(ge=1, le=1000)] = 4
    batch_weight: Annotated[float, Field(ge=0, le=1)] = 1.0
    gpus: Annotated[int, Field(ge=0, le=64)] = 0
    cpu: Annotated[str, StringConstraints(pattern=_CPU)] = "2"
    memory: Annotated[str, StringConstraints(pattern=_MEMORY)] = "4Gi"
    node_selector: dict[_Label, _LabelValue] | None = None
    load_seconds: Annotated[int, Field(ge=10, le=86400)] = 600


class Catalog(Mapping[str, Model]):
    """The models by name."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        self._models = dict(models)

    def __getitem__(self, name: str) -> Model:
        """Find a model. Raises UnknownModelError naming those there are."""
        try:
            return self._models[name]
        except KeyError:
            known = ", ".join(sorted(self._models))
            raise UnknownModelError(f"there is no model {name!r}; there are: {known}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    def __contains__(self, name: object) -> bool:
        return name in self._models


DEFAULT = {"models": {"smollm2": {"engine": "transformers", "source": "builtin:smollm2"}}}
"""What is served when no models.toml is named."""


def load_catalog(path: Path | None) -> Catalog:
    """Read models.toml, or the default catalog if `path` is None.

    Raises CatalogError naming the file, the key and the allowed values.
    """
    if path is None:
        return parse_catalog(DEFAULT, "the default catalog")
    try:
        with path.open("rb") as file:
            return parse_catalog(tomllib.load(file), str(path))
    except OSError as error:
        raise CatalogError(f"{path} cannot be read: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise CatalogError(f"{path} is not TOML: {error}") from None


def parse_catalog(document: Mapping[str, object], where: str) -> Catalog:
    """Check a parsed models.toml; `where` names it in errors. Raises CatalogError."""
    strangers = sorted(set(document) - {"models"})
    tables = document.get("models")
    if strangers or not isinstance(tables, dict) or not tables:
        found = f"; it has {', '.join(strangers)}" if strangers else ""
        raise CatalogError(f"{where}: expected one or more tables [models.NAME] and nothing else{found}")
    return Catalog({name: _parse_model(name, table, where) for name, table in tables.items()})


def _parse_model(name: str, table: object, where: str) -> Model:
    if not _NAME.match(name):
        raise CatalogError(f"{where}: model name {name!r} must be 1 to 64 of a-z 0-9 . _ - and begin with a-z 0-9")
    if not isinstance(table, dict):
        raise CatalogError(f"{where}: models.{name} must be a table")
    try:
        model = Model(name=name, **table)
    except (ValidationError, TypeError) as error:
        if isinstance(error, TypeError):
            raise CatalogError(f"{where}: models.{name}.name is given by the table's name") from None
        raise CatalogError(f"{where}: {_explain(name, error)}") from None
    if model.engine == "transformers" and not model.source:
        raise CatalogError(f"{where}: models.{name}.source is missing: a hub id, a folder, or builtin:smollm2")
    if model.min_replicas > model.max_replicas:
        raise CatalogError(f"{where}: models.{name}.min_replicas = {model.min_replicas}: more than max_replicas")
    if wrong := _wrong_server(model):
        raise CatalogError(f"{where}: models.{name}{wrong}")
    return model


def _wrong_server(model: Model) -> str:
    """What is wrong with the keys that say where an OpenAI-compatible server is, or ""."""
    given = [key for key in _SERVER_KEYS if getattr(model, key) is not None]
    if model.engine in ("transformers", "noop") and given:
        return f'.{given[0]} is for engine = "openai"'
    if model.engine != "openai":
        return ""
    if (model.url is None) == (model.command is None):
        return ': engine = "openai" takes exactly one of url (a server that runs) and command (one to be started)'
    if model.command is None:
        return ".environment is for a command: a server at a url has its own" if model.environment else ""
    values = (model.environment or {}).values()
    if secret := next((value for value in values if value.startswith("${NOWSERVING_")), None):
        return f".environment: {secret} is the worker's own and not passed on"
    if not any(PORT in word for word in (*model.command[1:], *values)):
        return f".command must say {PORT} where the server takes its port: a free one is filled in"
    return ""


def _explain(name: str, error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        allowed = ", ".join(sorted(set(Model.model_fields) - {"name"}))
        return f"models.{name}.{key} is not a key; allowed are {allowed}"
    if key == "engine":
        return f"models.{name}.engine = {first['input']!r}: allowed are {_ENGINES}"
    return f"models.{name}.{key} = {first['input']!r}: {first['msg']}"
