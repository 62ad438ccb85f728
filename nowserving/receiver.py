"""Who is called back: as a client names it in a job, and as the job's record keeps it. Pure."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast, Field, StringConstraints, TypeAdapter

from nowserving.delivery import Event
from nowserving.parameters import STRICT
from nowserving.secret import check_secret

DEFAULT_EVENTS: tuple[Event, ...] = ("job.succeeded", "job.failed", "job.canceled", "job.expired")
MAX_RECEIVERS = 8
MAX_URL_CHARACTERS = 2048

Url = Annotated[str, StringConstraints(min_length=1, max_length=MAX_URL_CHARACTERS)]
Limit = Annotated[int, Field(ge=1, le=256)]
Events = Annotated[tuple[Event, ...], Field(min_length=1, max_length=5, strict=False), FailFast()]
Secret = Annotated[str, AfterValidator(check_secret)]


class Webhook(BaseModel):
    """A job's own receiver. Without `events` it hears of all but job.started; without `secret` the server's signs."""

    model_config = STRICT

    url: Url
    events: Events = DEFAULT_EVENTS
    secret: Annotated[Secret | None, Field(repr=False)] = None


class Receiver(BaseModel):
    """One receiver in a job's record. `host` is "name:port"; at most `limit` sends go there at once. Its secret is that
    of the receivers file under `name`, else its own, else the server's.
    """

    model_config = STRICT

    url: str
    host: Annotated[str, StringConstraints(pattern=r"^\S+$")]
    limit: Limit
    events: Events = DEFAULT_EVENTS
    name: str | None = None
    secret: Annotated[Secret | None, Field(repr=False)] = None


_LIST = TypeAdapter(
    Annotated[tuple[Receiver, ...], Field(max_length=MAX_RECEIVERS, strict=False)],
    config=ConfigDict(hide_input_in_errors=True),  # secrets
)


def write_receivers(receivers: tuple[Receiver, ...]) -> str:
    """As the field `webhook` of a job's record."""
    return _LIST.dump_json(receivers, exclude_none=True).decode()


def read_receivers(text: str) -> tuple[Receiver, ...]:
    """What `write_receivers` wrote. Raises ValueError."""
    return _LIST.validate_json(text)
