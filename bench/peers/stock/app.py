"""The HTTP side, as the tutorials have it."""

from celery.result import AsyncResult
from fastapi import FastAPI
from pydantic import BaseModel

from bench.peers.stock.task import app as celery_app
from bench.peers.stock.task import generate

app = FastAPI()


class Submission(BaseModel):
    """The body of POST /jobs."""

    tokens: int


@app.post("/jobs", status_code=202)
def submit(submission: Submission) -> dict[str, str]:
    """Send the task."""
    return {"task_id": generate.delay(submission.tokens).id}


@app.get("/jobs/{task_id}")
def look(task_id: str) -> dict[str, object]:
    """Look for its result."""
    result = AsyncResult(task_id, app=celery_app)
    return {"task_id": task_id, "task_status": result.status, "task_result": result.result}
