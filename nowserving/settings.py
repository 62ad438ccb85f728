"""All settings, read once from the environment (NOWSERVING_…) at a process's start and passed down."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import quote

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from nowserving.errors import SettingsError
from nowserving.secret import check_secret

Words = tuple[str, ...]


def _split(value: object) -> object:
    """A list in one variable, its items apart by commas."""
    return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value


def _check_secrets(secrets: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    for secret in secrets:
        check_secret(secret.get_secret_value())
    return secrets


Listed = (NoDecode, BeforeValidator(_split))


class Settings(BaseSettings):
    """Every setting with its unit and default; docs/settings.md is made from this class."""

    model_config = SettingsConfigDict(env_prefix="NOWSERVING_", frozen=True, extra="ignore")

    redis_password: SecretStr | None = Field(
        None, description="Redis's password as it is, where `NOWSERVING_REDIS_URL` holds none: from a Secret, say."
    )
    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        validate_default=True,
        description="Where Redis is: redis://, rediss:// or unix://.",
    )
    host: str = Field("127.0.0.1", description="Address that `nowserving api` and `up` listen on.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8000, description="Port of the API.")
    data_dir: Path = Field(
        Path.home() / ".local/share/nowserving", description="Folder of the embedded Redis's data (`nowserving up`)."
    )
    cache_dir: Path = Field(Path.home() / ".cache/nowserving", description="Folder of converted models.")
    builtin_dir: Path | None = Field(
        None, description="A cache that is only read, looked into first: images bring the built-in model in it."
    )
    models_file: Path | None = Field(None, description="models.toml; without it the built-in SmolLM2 is served.")

    lease_seconds: Annotated[float, Field(ge=0.5, le=600)] = Field(
        15.0, description="A claim not renewed for so long is lost, and its job is queued again."
    )
    drain_seconds: Annotated[float, Field(ge=0, le=86400)] = Field(
        30.0, description="How long a worker told to stop lets running jobs finish before it hands them back."
    )
    max_attempts: Annotated[int, Field(ge=1, le=100)] = Field(
        3, description="How many attempts may be charged to a job before it is failed with worker_lost."
    )
    max_takes: Annotated[int, Field(ge=1, le=10_000)] = Field(
        100, description="How often a job may be taken at all before it is failed with worker_lost."
    )
    max_depth: Annotated[int, Field(ge=1)] = Field(
        100_000, description="Jobs that may wait for one model; more are refused with 429."
    )
    wait_replicas: Annotated[int, Field(ge=0, le=10)] = Field(
        0, description="Replicas that must have an accepted job before it is answered as `confirmed`; 0: none is asked."
    )
    wait_replicas_seconds: Annotated[float, Field(ge=0.001, le=1)] = Field(
        0.5, description="How long they may take; after that the job is accepted as `unconfirmed`."
    )
    max_body_bytes: Annotated[int, Field(ge=1024)] = Field(
        1_048_576, description="Largest body of any other POST, and line of a batch, bytes."
    )
    max_batch_bytes: Annotated[int, Field(ge=1024)] = Field(
        16_777_216, description="Largest body of POST /v1/jobs/batch, bytes."
    )
    idempotency_seconds: Annotated[int, Field(ge=1)] = Field(
        86400, description="How long an Idempotency-Key counts, also when its job is kept for less."
    )
    max_wait_seconds: Annotated[float, Field(ge=0, le=600)] = Field(
        60.0, description="The longest ?wait= or Prefer: wait= that is honoured; longer ones are cut to it."
    )
    max_waiters: Annotated[int, Field(ge=1)] = Field(
        10_000, description="Clients that may wait or stream at once on one API process; more are refused with 503."
    )
    memory_probe: str = Field(
        "auto",
        description="How a worker measures memory: auto, cuda, host, file:PATH (two integers, used and total bytes), "
        "or package.module:Class (workers/memory.py).",
    )
    memory_limit_bytes: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="Bytes of all processes on the device above which the gate closes; without it only the worker's "
        "own count, against `memory_fraction`.",
    )

    worker_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        0,
        description="Port of a worker's or deliverer's /health and /metrics; 0: none, as several on one machine need.",
    )

    webhook_secret: Annotated[tuple[SecretStr, ...], *Listed, Field(max_length=2), AfterValidator(_check_secrets)] = (
        Field((), description="`whsec_…` that signs webhooks; while it is changed two, apart by a comma: both sign.")
    )
    webhook_allow: Annotated[Words, *Listed] = Field(
        (),
        description="Hosts and networks, apart by commas, that webhooks may reach though private, by http, too.",
    )
    webhook_ports: Annotated[tuple[Annotated[int, Field(ge=1, le=65535)], ...], *Listed] = Field(
        (443, 8443),
        description="Ports that webhooks may go to, apart by commas; those of `NOWSERVING_WEBHOOK_ALLOW` to any.",
    )
    webhook_retry_seconds: Annotated[
        tuple[Annotated[float, Field(ge=0, le=7 * 86400)], ...], *Listed, Field(max_length=50)
    ] = Field(
        (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400),
        description="Seconds between a webhook's attempts, apart by commas; after the last it is dead.",
    )
    webhook_connect_seconds: Annotated[float, Field(gt=0, le=60)] = Field(
        5.0, description="How long a receiver may take to be found and connected to."
    )
    webhook_timeout_seconds: Annotated[float, Field(gt=0, le=60)] = Field(
        15.0, description="How long one attempt may take in all."
    )
    webhook_concurrency: Annotated[int, Field(ge=1, le=256)] = Field(
        32, description="Webhooks that one deliverer sends at once."
    )
    webhook_host_concurrency: Annotated[int, Field(ge=1, le=256)] = Field(
        8, description="Webhooks that are sent to one host at once, by all deliverers."
    )
    receivers_file: Path | None = Field(None, description="receivers.toml: who is called where a job names nobody.")
    public_url: Annotated[str, Field(pattern=r"^(https?://[^\s?#@]+)?$")] = Field(
        "", description="Where clients reach the API, for links in webhooks; without it links are paths."
    )

    @field_validator("redis_url")
    @classmethod
    def _put_password(cls, url: SecretStr, info: ValidationInfo) -> SecretStr:
        """The URL with the password in it, escaped; as it is if it has one of its own."""
        password: SecretStr | None = info.data.get("redis_password")
        scheme, found, place = url.get_secret_value().partition("://")
        user, _, host = place.rpartition("@")
        if password is None or not password.get_secret_value() or not found or ":" in user:
            return url
        return SecretStr(f"{scheme}://{user}:{quote(password.get_secret_value(), safe='')}@{host}")


def load_settings(**overrides: object) -> Settings:
    """Read the environment. Raises SettingsError naming the variable and what is allowed."""
    try:
        return Settings(**overrides)  # type: ignore[arg-type]  # checked at run time
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = f"NOWSERVING_{first['loc'][0]}".upper()
        said = "" if "secret" in name.lower() else f"={first['input']!r}"
        why = first["msg"].removeprefix("Value error, ")
        raise SettingsError(f"{name}{said} is not allowed: {why}") from None


def document() -> str:
    """The table of docs/settings.md."""
    rows = ["| variable | default | what |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.get_default()
        if isinstance(default, SecretStr):
            default = default.get_secret_value()
        if isinstance(default, tuple):
            default = ",".join(f"{item:g}" if isinstance(item, float) else str(item) for item in default)
        shown = "none" if default in (None, "") else f"`{str(default).replace(str(Path.home()), '~')}`"
        rows.append(f"| `NOWSERVING_{name.upper()}` | {shown} | {field.description} |")
    return "\n".join(rows) + "\n"
