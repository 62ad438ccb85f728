"""The one hot path, past FastAPI's layers: they cost as much as all that a submission is about."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from api.chat_request import ChatRequest
from api.jobs import submit
from api.openapi import complete
from api.problem import answer_error
from nowserving.job import Submission


class Api(FastAPI):
    """Answers POST /v1/jobs itself; FastAPI has the same route, and the rest."""

    def openapi(self) -> dict[str, Any]:
        """The document, made once."""
        if self.openapi_schema is None:
            complete(super().openapi(), Submission, ChatRequest)
        assert self.openapi_schema is not None
        return self.openapi_schema

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request (ASGI)."""
        if scope["type"] != "http" or scope["path"] != "/v1/jobs" or scope["method"] != "POST":
            await super().__call__(scope, receive, send)
            return
        scope["app"] = self
        try:
            response = await submit(Request(scope, receive))
        except ClientDisconnect:
            return
        except Exception as error:
            response = answer_error(error)
        await response(scope, receive, send)
