"""The HTTP side. The routes are plain functions, as FastAPI wants them that call blocking code such as `delay`."""

from celery.result import AsyncResult
from fastapi import FastAPI
from pydantic import BaseModel

from bench.peers.tutorial.task import app as celery_app
from bench.peers.tutorial.task import generate

app = FastAPI()


class Submission(BaseModel):
    """The body of POST /jobs."""

    prompt: str


@app.post("/jobs", status_code=202)
def submit(submission: Submission) -> dict[str, str]:
    """Send the task."""
    task = generate.delay(submission.prompt)
    return {"task_id": task.id}


@app.get("/jobs/{task_id}")
def look(task_id: str) -> dict[str, object]:
    """Look for its result."""
    result = AsyncResult(task_id, app=celery_app)
    return {"task_id": task_id, "task_status": result.status, "task_result": result.result}
