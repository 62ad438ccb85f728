"""Whether what an API answers is what its OpenAPI document says, and nothing else."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import httpx
import jsonschema

from api.app import create_app

JSON = ("application/json", "application/problem+json")


@cache
def _document() -> dict[str, Any]:
    document = create_app().openapi()
    for schema in document["components"]["schemas"].values():
        if "properties" in schema:
            # Clients must accept fields added later; here an undocumented one is a mistake.
            schema["additionalProperties"] = False
    return document


def check(response: httpx.Response) -> None:
    """Raise AssertionError if the document does not know this answer. A hook for an httpx client."""
    if (operation := _operation(response.request)) is None:
        return
    answers, asked = operation["responses"], f"{response.request.method} {response.request.url}"
    known = answers.get(str(response.status_code), answers["default"]).get("content", {})
    media_type = response.headers.get("content-type", "").partition(";")[0]
    assert media_type in known or not (known or media_type), f"{asked}: {response.status_code} {media_type!r}"
    if media_type in JSON:
        assert known[media_type]["schema"], f"{asked}: {response.status_code} has no schema"
        response.read()
        check_schema(response.json(), known[media_type]["schema"], asked)


def check_schema(value: object, schema: dict[str, Any], what: str) -> None:
    """Raise AssertionError if the value is not of this schema, which may refer to the document's components."""
    try:
        jsonschema.Draft202012Validator({**schema, "components": _document()["components"]}).validate(value)
    except jsonschema.ValidationError as error:
        raise AssertionError(f"{what}: not as documented: {error.json_path}: {error.message}") from None


def _operation(request: httpx.Request) -> dict[str, Any] | None:
    for template, operations in _document()["paths"].items():
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), request.url.path):
            operation: dict[str, Any] | None = operations.get(request.method.lower())
            return operation
    return None
