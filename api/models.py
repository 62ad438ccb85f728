"""Models: the catalog, in the shape of OpenAI's list."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from api.answer import answer_json
from api.chat_answer import ErrorBody, chat_status_of, describe_error
from api.front import front_of
from api.openapi import CHAT_ERROR
from api.problem import problem_of
from api.schema import Model, ModelList
from nowserving import catalog
from nowserving.errors import UnknownModelError

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", name="list", response_model=ModelList)
async def index(request: Request) -> Response:
    """The models there are."""
    front = front_of(request)
    data = [_describe(model, int(front.started_at)) for model in front.catalog.values()]
    return answer_json({"object": "list", "data": data})


@router.get("/{name}", name="get", response_model=Model, responses={"default": {"model": ErrorBody, **CHAT_ERROR}})
async def look(request: Request, name: str) -> Response:
    """One model."""
    front = front_of(request)
    try:
        model = front.catalog[name]
    except UnknownModelError as error:
        problem = problem_of(error)
        return answer_json(describe_error(problem), chat_status_of(problem))
    return answer_json(_describe(model, int(front.started_at)))


def _describe(model: catalog.Model, created: int) -> Model:
    return {
        "id": model.name,
        "object": "model",
        "created": created,
        "owned_by": "nowserving",
        "engine": model.engine,
        "slots": model.slots,
        "max_new_tokens": model.max_new_tokens,
    }
