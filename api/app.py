"""The app: what is made at start, and the resources over it. `uvicorn api.app:app` serves it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI

from api import batch, chat, deliveries, events, health, jobs, metrics, models, problem, queues, workers
from api.canceler import Canceler
from api.direct import Api
from api.front import Front
from api.lifespan import StartInOneSentence
from api.load import Load
from api.lookout import Lookout
from api.names import Names
from api.openapi import PROBLEMS
from api.pulse import Pulse
from api.reconcile import Reconciler
from api.webhook import Webhooks
from nowserving import __version__
from nowserving.catalog import Catalog, load_catalog
from nowserving.delivery import WEBHOOKS
from nowserving.events import Hub
from nowserving.receivers import load_receivers
from nowserving.settings import Settings, load_settings
from nowserving.store import AsyncStore, connect_async
from nowserving.target import Policy, Resolver, resolve
from nowserving.trip import Replicas


def create_app(
    settings: Settings | None = None, catalog: Catalog | None = None, resolver: Resolver = resolve
) -> FastAPI:
    """Make an app; what is not given is read from the environment when it starts. `resolver` finds names' addresses."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        read = settings or load_settings()
        known = catalog or load_catalog(read.models_file)
        async with _open_front(read, known, resolver) as front:
            app.state.front = front
            yield

    app = Api(
        title="nowserving",
        version=__version__,
        description="Take a number, wait, now serving: generation jobs from a queue.",
        lifespan=lifespan,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: f"{route.tags[0]}_{route.name}",  # operationId
    )
    problem.install(app)
    app.add_middleware(StartInOneSentence)
    for resource in (jobs, batch, events, chat, deliveries, models, queues, workers, health, metrics):
        app.include_router(resource.router, responses=PROBLEMS)
    return app


@asynccontextmanager
async def _open_front(settings: Settings, catalog: Catalog, resolver: Resolver) -> AsyncIterator[Front]:
    policy = Policy(settings.webhook_allow, settings.webhook_ports)
    receivers = load_receivers(settings, policy)
    webhooks = Webhooks(policy, receivers, Names(resolver), settings.webhook_host_concurrency)
    everything = (*catalog, WEBHOOKS)
    async with AsyncExitStack() as stack:
        replicas = Replicas(settings.wait_replicas, settings.wait_replicas_seconds) if settings.wait_replicas else None
        store = AsyncStore(connect_async(settings.redis_url.get_secret_value()), replicas=replicas)
        stack.push_async_callback(store.close)
        canceler = Canceler(store)
        stack.push_async_callback(canceler.close)
        canceler.start()
        pulse = Pulse(store, settings, everything)
        stack.push_async_callback(pulse.close)
        await pulse.start()
        reconciler = Reconciler(store, pulse, everything)
        stack.push_async_callback(reconciler.close)
        reconciler.start()
        hub = Hub(store, settings.max_waiters)
        stack.push_async_callback(hub.close)
        hub.start()
        load = Load(store, catalog)
        stack.push_async_callback(load.close)
        lookout = Lookout(store, load, catalog)
        stack.push_async_callback(lookout.close)
        lookout.start()
        yield Front(settings, catalog, store, canceler, hub, load, lookout, pulse, webhooks, time.time())


app = create_app()
