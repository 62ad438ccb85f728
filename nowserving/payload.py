"""A webhook's body: the event, and the job as GET shows it, under the 20 kB that Standard Webhooks recommends. Pure.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md#payload-structure
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from nowserving.describe import describe_job
from nowserving.errors import RecordError
from nowserving.job import Job, rfc3339

LIMIT_BYTES = 20_000
"""A body is shorter than this."""
MESSAGE_LENGTH = 1000
"""Characters that are left of an error's message where there is no room for all of it."""

_LEFT_OUT = {"input": '{"prompt":"-"}', "parameters": "{}"}
"""What a record must have to be read, and a delivery's may not."""


def compose(fields: Mapping[str, str], public_url: str = "") -> bytes:
    """Write the body of a delivery, from its record: the same bytes each time. `public_url` is where clients reach the
    API: without it `urls` are paths. `data.omitted` names the parts that did not fit, and are null or cut.

    Raises RecordError if the record cannot be read.
    """
    try:
        data, omitted = _read_job(json.loads(fields["said"]))
        data["urls"] = {name: public_url.rstrip("/") + path for name, path in data["urls"].items()}
        event = {"type": fields["event"], "timestamp": rfc3339(float(fields["created_at"])), "data": data}
        parts = _shrink(data)
        while len(body := _encode(event)) >= LIMIT_BYTES:
            if not (part := next(parts, "")):
                raise ValueError(f"it does not fit into {LIMIT_BYTES} bytes")
            omitted.append(part)
            data["omitted"] = omitted
    except (KeyError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
        raise RecordError(f"the record of {fields.get('id', 'a delivery')} cannot be read: {error!r:.500}") from error
    return body


def _read_job(said: object) -> tuple[dict[str, Any], list[str]]:
    """The job as GET shows it, and what of it the record itself has left out."""
    if not isinstance(said, dict) or not all(isinstance(value, str) for value in said.values()):
        raise ValueError("what it says is no record of a job")
    data: dict[str, Any] = {**describe_job(Job.from_fields({**_LEFT_OUT, **said}))}
    omitted = []
    if "output_bytes" in said:
        data["output"] = _without_text(data["output"])
        omitted.append("output.text")
    if "parameters" not in said:
        data["parameters"] = None
        omitted.append("parameters")
    if omitted:
        data["omitted"] = omitted
    return data, omitted


def _shrink(data: dict[str, Any]) -> Iterator[str]:
    """Leave one part after another out of `data`, and name it."""
    output, error = data["output"], data["error"]
    if output and output.get("text") is not None:
        data["output"] = _without_text(output)
        yield "output.text"
    for name in ("parameters", "metadata"):
        if data[name]:
            data[name] = None
            yield name
    if error and len(message := str(error.get("message"))) > MESSAGE_LENGTH:
        data["error"] = {**error, "message": message[:MESSAGE_LENGTH] + "…"}
        yield "error.message"


def _without_text(output: Mapping[str, Any] | None) -> dict[str, Any]:
    known = output or {}
    return {"text": None, "finish_reason": known.get("finish_reason"), "usage": known.get("usage")}


def _encode(value: object) -> bytes:
    """Compact JSON. A surrogate with no partner, which UTF-8 cannot say, becomes JSON's escape for it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")
