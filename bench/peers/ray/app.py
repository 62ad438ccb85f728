"""`python -m bench.peers.ray.app PORT`: a consumer that does nothing, and an API that enqueues for it and looks.

See https://docs.ray.io/en/latest/serve/asynchronous-inference.html. Runs in an environment of its own, in which alone
Ray is installed.
"""

# mypy: ignore-errors

import logging
import os
import sys

import ray
from fastapi import FastAPI
from pydantic import BaseModel
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.schema import CeleryAdapterConfig, LoggingConfig, TaskProcessorConfig
from ray.serve.task_consumer import instantiate_adapter_from_config, task_consumer, task_handler

routes = FastAPI()
processor = TaskProcessorConfig(
    queue_name="generate",
    adapter_config=CeleryAdapterConfig(broker_url=os.environ["REDIS_URL"], backend_url=os.environ["REDIS_URL"]),
)


class Submission(BaseModel):
    """The body of POST /jobs."""

    prompt: str


@serve.deployment
@task_consumer(task_processor_config=processor)
class Generator:
    """The worker."""

    @task_handler(name="generate")
    def generate(self, prompt: str) -> dict[str, object]:
        """Answer as a model would that has nothing to say."""
        return {"text": "", "finish_reason": "stop"}


@serve.deployment(max_ongoing_requests=100)  # with the default of 5 it falls to 9 submits/s for 32 clients
@serve.ingress(routes)
class Api:
    """The HTTP side."""

    def __init__(self, generator: object) -> None:
        self._adapter = instantiate_adapter_from_config(processor)

    @routes.post("/jobs", status_code=202)
    def submit(self, submission: Submission) -> dict[str, str]:
        """Enqueue the task."""
        return {"task_id": self._adapter.enqueue_task_sync("generate", kwargs={"prompt": submission.prompt}).id}

    @routes.get("/jobs/{task_id}")
    def look(self, task_id: str) -> dict[str, object]:
        """Look for its result."""
        result = self._adapter.get_task_status_sync(task_id)
        return {"task_id": task_id, "task_status": result.status, "task_result": result.result}


if __name__ == "__main__":
    ray.init(include_dashboard=False, logging_level=logging.WARNING)
    serve.start(http_options=HTTPOptions(port=int(sys.argv[1])), logging_config=LoggingConfig(enable_access_log=False))
    serve.run(Api.bind(Generator.bind()), blocking=True)
