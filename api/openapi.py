"""What the OpenAPI document says beyond what FastAPI finds out by itself."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel

from api.schema import Batch
from nowserving.schema import Job

_REF = "#/components/schemas/{model}"

PROBLEMS: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "Every error is problem+json (RFC 9457).",
        "content": {"application/problem+json": {"schema": {"$ref": _REF.format(model="Problem")}}},
    }
}

_LOCATION = {"schema": {"type": "string"}, "description": "Where the job is."}
_REPLAYED = {
    "schema": {"type": "string", "enum": ["true"]},
    "description": "An earlier job, of the same Idempotency-Key.",
}
ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {
        "description": "The job waits or runs.",
        "headers": {
            "Location": _LOCATION,
            "Retry-After": {"schema": {"type": "integer"}, "description": "When to look, seconds."},
            "Idempotency-Replayed": _REPLAYED,
        },
    },
    200: {
        "model": Job,
        "description": "The job has ended: within the time preferred, or earlier under the same Idempotency-Key.",
        "headers": {
            "Location": _LOCATION,
            "Preference-Applied": {"schema": {"type": "string"}, "description": "What of `Prefer` was honoured."},
            "Idempotency-Replayed": _REPLAYED,
        },
    },
}

EVENTS: dict[int | str, dict[str, Any]] = {
    200: {"description": "Server-sent events.", "content": {"text/event-stream": {"schema": {"type": "string"}}}},
    204: {"description": "Last-Event-ID is the last event: do not come back."},
}
RESUMED: dict[str, Any] = {
    "parameters": [
        {
            "name": "Last-Event-ID",
            "in": "header",
            "schema": {"type": "string"},
            "description": "The id of the last event seen: the stream goes on after it.",
        }
    ]
}

_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "Sent again with the same key, the same request makes no second job.",
}
_TRACEPARENT = {
    "name": "traceparent",
    "in": "header",
    "schema": {"type": "string", "example": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
    "description": "The trace (W3C Trace Context) that the job's webhooks carry on.",
}
_API_KEY = {
    "name": "X-API-Key",
    "in": "header",
    "schema": {"type": "string"},
    "description": "Whose default receivers are called back; `Authorization: Bearer KEY` says the same.",
}
RETRY: dict[str, Any] = {"parameters": [_IDEMPOTENCY_KEY, _TRACEPARENT]}
SUBMISSION: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": _REF.format(model="Submission")}}},
    },
    "parameters": [
        _IDEMPOTENCY_KEY,
        {
            "name": "Prefer",
            "in": "header",
            "schema": {"type": "string", "example": "wait=30"},
            "description": "`wait=N`: answer with the result if the job ends within N seconds (RFC 7240).",
        },
        _TRACEPARENT,
        _API_KEY,
    ],
}

BATCH: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/x-ndjson": {
                "schema": {
                    "type": "string",
                    "description": "A Submission a line, as JSON; empty ones are passed over.",
                }
            }
        },
    },
    "parameters": [_IDEMPOTENCY_KEY, _TRACEPARENT, _API_KEY],
}
BATCH_ANSWERS: dict[int | str, dict[str, Any]] = {
    202: {"description": "All jobs were accepted."},
    207: {
        "model": Batch,
        "description": "Some were not.",
        "headers": {
            "Retry-After": {
                "schema": {"type": "integer"},
                "description": "Where a 429 or a 503 is among them: when to send it again, seconds.",
            }
        },
    },
}

CHAT: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": _REF.format(model="ChatRequest")}}},
    },
    "parameters": [_IDEMPOTENCY_KEY, _TRACEPARENT, _API_KEY],
}
CHAT_ANSWER: dict[str, Any] = {
    "description": "The text; with `stream` server-sent events of `chat.completion.chunk`s, then `[DONE]`.",
    "headers": {
        "Location": _LOCATION,
        "X-Request-Id": {"schema": {"type": "string"}, "description": "The job's id."},
        "Idempotency-Replayed": _REPLAYED,
    },
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}
CHAT_ERROR: dict[str, Any] = {
    "description": "Every error is as OpenAI's clients read it.",
    "headers": {
        "Retry-After": {"schema": {"type": "integer"}, "description": "With 429 and 503: when to come back, seconds."},
        "X-Should-Retry": {
            "schema": {"type": "string", "enum": ["true", "false"]},
            "description": "Where the status does not tell: whether to send it again.",
        },
    },
}

_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "code", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "description": "Stable; match on this."},
        "detail": {"type": "string", "description": "What was wrong, and what is allowed."},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "message"],
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
            },
        },
    },
}


def complete(document: dict[str, Any], *sent: type[BaseModel]) -> dict[str, Any]:
    """Add the schemas that the routes name and FastAPI does not know: those of problems, and of what is sent."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    named = {"Problem": _PROBLEM}
    for model in sent:
        schema = model.model_json_schema(ref_template=_REF)
        named |= {**schema.pop("$defs"), model.__name__: schema}
    for name, schema in named.items():
        assert schemas.setdefault(name, schema) == schema, f"two schemas have the name {name}"
    return document


def allowed_methods(document: dict[str, Any], path: str) -> str:
    """What may be done at a path, as an Allow header; '' if nothing is known of it."""
    methods = {
        method.upper()
        for template, operations in document["paths"].items()
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path)
        for method in operations
    }
    return ", ".join(sorted(methods))
