"""The Celery app and its one task, which does nothing: what is measured is the way there and back."""

# mypy: disable-error-code="untyped-decorator"

import os

from celery import Celery

app = Celery("task", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])


@app.task
def generate(prompt: str) -> dict[str, object]:
    """Answer as a model would that has nothing to say."""
    return {"text": "", "finish_reason": "stop"}
