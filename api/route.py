"""A route for the hot path: FastAPI's routing and documentation, but the endpoint gets the request as it came."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute


class BareRoute(APIRoute):
    """FastAPI's reading of parameters and bodies costs more than all else a submit does here."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The endpoint itself."""
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler
