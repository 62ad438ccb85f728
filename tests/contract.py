"""Whether what an API answers is what its OpenAPI document says, and nothing else."""

from __future__ import annotations

import copy
import re
from functools import cached_property
from typing import Any

import httpx
import jsonschema

from api.app import create_app


class Contract:
    """Looks at all answers of a client: give `check` to it as a hook."""

    @cached_property
    def _document(self) -> dict[str, Any]:
        document = copy.deepcopy(create_app().openapi())
        for schema in document["components"]["schemas"].values():
            if "properties" in schema:
                # Clients must bear what is added later, but here it has been forgotten.
                schema["additionalProperties"] = False
        return document

    def check(self, response: httpx.Response) -> None:
        """Raise AssertionError if the document does not know this answer."""
        media_type = response.headers.get("content-type", "").partition(";")[0]
        operation = self._operation(response.request)
        if operation is None or media_type not in ("application/json", "application/problem+json"):
            return
        answers = operation["responses"]
        known = answers.get(str(response.status_code), answers["default"])["content"]
        assert media_type in known, f"{response.status_code} {media_type} is not documented for {response.request.url}"
        schema = {**known[media_type]["schema"], "components": self._document["components"]}
        response.read()
        try:
            jsonschema.Draft202012Validator(schema).validate(response.json())
        except jsonschema.ValidationError as error:
            raise AssertionError(f"not as documented: {error.json_path}: {error.message}") from None

    def _operation(self, request: httpx.Request) -> dict[str, Any] | None:
        for template, operations in self._document["paths"].items():
            if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), request.url.path):
                operation: dict[str, Any] | None = operations.get(request.method.lower())
                return operation
        return None


CONTRACT = Contract()
