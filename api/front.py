"""What every resource needs, made once at start."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request

from api.canceler import Canceler
from api.load import Load
from api.lookout import Lookout
from api.pulse import Pulse
from api.webhook import Webhooks
from nowserving.catalog import Catalog
from nowserving.events import Hub
from nowserving.settings import Settings
from nowserving.store import AsyncStore


@dataclass(frozen=True, slots=True)
class Front:
    """The parts of this process."""

    settings: Settings
    catalog: Catalog
    store: AsyncStore
    canceler: Canceler
    hub: Hub
    load: Load
    lookout: Lookout
    pulse: Pulse
    webhooks: Webhooks
    started_at: float
    """Unix seconds."""


def front_of(request: Request) -> Front:
    """The parts, of whoever serves this request."""
    front: Front = request.app.state.front
    return front
