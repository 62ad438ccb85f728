"""A start that fails for a reason of ours says so in one sentence, where Starlette would send a traceback."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nowserving.errors import NowservingError


class StartInOneSentence:
    """Passes all on but what is said of a failed start."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app (ASGI)."""
        if scope["type"] != "lifespan":
            await self.app(scope, receive, send)
            return
        failed: Message | None = None

        async def hold(message: Message) -> None:
            nonlocal failed
            if message["type"] == "lifespan.startup.failed":
                failed = message
            else:
                await send(message)

        try:
            await self.app(scope, receive, hold)
        except NowservingError as error:
            await send({"type": "lifespan.startup.failed", "message": error.message})
            raise
        except BaseException:
            if failed:
                await send(failed)
            raise
