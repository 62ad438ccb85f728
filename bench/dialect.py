"""How a client speaks to one stack: what it posts, where it looks, and which answers mean that a job is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.connection import Answer
from bench.errors import BenchError


@dataclass(frozen=True, slots=True)
class Dialect:
    """One stack's HTTP."""

    ready_path: str
    """Answers 200 once the API can take jobs."""
    submit_path: str
    submit_body: bytes
    id_field: str
    look_path: str
    """With `{}` where the job's id goes."""
    status_field: str
    unfinished: frozenset[str]
    succeeded: str
    wait_header: str = ""
    """Sent with a submission to have it answered when the job is done; empty where a stack cannot do that."""
    wait_query: str = ""
    """Appended to a look to have it answered when the job is done."""

    def job_id(self, answer: Answer) -> str:
        """The id a submission was answered with. Raises BenchError if it was refused."""
        return str(self._read(answer)[self.id_field])

    def done(self, answer: Answer) -> bool:
        """Whether the job is done. Raises BenchError if it did not succeed."""
        document = self._read(answer)
        status = document.get(self.status_field)
        if status == self.succeeded:
            return True
        if status in self.unfinished:
            return False
        raise BenchError(f"a job did not succeed: {document}")

    def _read(self, answer: Answer) -> Mapping[str, Any]:
        if answer.status not in (200, 202):
            raise BenchError(f"answered {answer.status}: {answer.body[:500]!r}")
        return answer.json()


TUTORIAL = Dialect(
    ready_path="/openapi.json",
    submit_path="/jobs",
    submit_body=b'{"prompt":"hi"}',
    id_field="task_id",
    look_path="/jobs/{}",
    status_field="task_status",
    unfinished=frozenset({"PENDING", "STARTED", "RETRY"}),
    succeeded="SUCCESS",
)

NOWSERVING = Dialect(
    ready_path="/health/live",
    submit_path="/v1/jobs",
    submit_body=b'{"model":"noop","input":{"prompt":"hi"}}',
    id_field="id",
    look_path="/v1/jobs/{}",
    status_field="status",
    unfinished=frozenset({"queued", "running"}),
    succeeded="succeeded",
    wait_header="Prefer: wait=30\r\n",
    wait_query="?wait=30",
)
