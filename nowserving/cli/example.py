"""The one line to try."""

from __future__ import annotations

import json


def make_curl(url: str, model: str) -> str:
    """A curl command that submits a job and waits for its text."""
    body = {
        "model": model,
        "input": {"messages": [{"role": "user", "content": "Why do people stand in line?"}]},
        "parameters": {"max_new_tokens": 48},
    }
    headers = "-H 'Content-Type: application/json' -H 'Prefer: wait=30'"
    return f"curl -s {url}/v1/jobs {headers} -d '{json.dumps(body)}'"
