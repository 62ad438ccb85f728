"""The Celery task: claim, run, finish."""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import Any

from nowserving import verb
from nowserving.call import Call
from nowserving.errors import (
    ClaimLostError,
    EngineError,
    EngineLostError,
    JobTimeoutError,
    NowservingError,
)
from nowserving.job import Job, Status
from nowserving.store import Store
from workers.engines.engine import UNKNOWN, Ended, Engine, FinishReason, Prepared, Prompt
from workers.inbox import Inbox, Piece
from workers.lease import Lease, Leases
from workers.metrics import JobMetrics
from workers.patience import send_patiently
from workers.stopwatch import Stopwatch
from workers.writer import Writer, calls_of

log = logging.getLogger(__name__)


class Generation:
    """Runs the jobs that this worker has taken, each on the thread that calls `run`."""

    def __init__(self, store: Store, leases: Leases, engine: Engine, max_attempts: int, metrics: JobMetrics) -> None:
        self._store, self._leases, self._engine = store, leases, engine
        self._max_attempts, self._metrics = max_attempts, metrics
        self._resumes = engine.resumes
        self._writer = Writer(store, leases)
        self._dead: EngineError | None = None
        self._resumes_text = getattr(engine, "resumes_text", False)

    def start(self) -> None:
        """Be ready to run jobs."""
        self._writer.start()

    @property
    def dead(self) -> bool:
        """Whether nothing of what the engine makes would be written any more."""
        return self._writer.dead

    def abandon(self, error: EngineError) -> None:
        """The engine has died: end with this error all jobs that it has not ended itself."""
        self._dead = error  # before the look at those that are there: who comes later sees it
        for stream in self._writer.streams():
            stream.inbox.ended(_ended(error))

    def run(self, job_id: str, claim: str) -> str:
        """Bring one taken job to its end and say how. Raises ClaimLostError if the claim is not valid."""
        lease = self._leases.begin(claim)
        try:
            job = Job.from_fields(lease.taken.fields if lease.taken else {})
            stopwatch = Stopwatch(self._metrics, job, lease.since)
            if job.ran_seconds >= job.timeout_seconds:
                raise _timeout(job)
            prompt = self._prompt(lease, job)
            prepared = self._engine.prepare(prompt)
            lease.anew |= bool(prompt.made) and not prepared.prompt.made
            if not self._reserve(lease, prepared):
                return self._release(lease, "does_not_fit", tokens=prepared.tokens)
            ended, rest = self._stream(lease, prepared, stopwatch)
            if ended.reason is FinishReason.CANCELED and not lease.lost.is_set():
                self._pass_on(lease, rest)
                return self._release(lease, "drained", charge="refund" if self._engine.health().alive else "keep")
            return self._finish(lease, job, ended, rest)
        except ClaimLostError:
            return "lost"
        except NowservingError as error:
            lease.halt()
            return self._fail(lease, error)
        except Exception as error:
            lease.halt()
            log.exception("%s failed", job_id)
            return self._fail(lease, NowservingError(f"the worker failed on this job: {error!r}"))
        finally:
            self._leases.drop(claim)

    def _prompt(self, lease: Lease, job: Job) -> Prompt:
        made, text = self._made(lease, job) if job.generated and self._resumes else ([], "")
        if len(made) != job.generated or (UNKNOWN in made and not self._resumes_text):
            # The engine cannot resume, or a stranger has been at the stream.
            lease.anew, made, text = True, [], ""
        left_seconds = job.timeout_seconds - job.ran_seconds
        return Prompt(job.id, job.input, job.parameters, left_seconds, tuple(made), text)

    def _made(self, lease: Lease, job: Job) -> tuple[list[int], str]:
        """The tokens that readers have seen already, and their text: the checkpoint."""
        made: list[int] = []
        texts: list[str] = []
        after = "0"
        while events := send_patiently(self._store, lease, verb.read_events({job.id: after}))[job.id]:
            for event in events:
                if event.type == "restarted":
                    made.clear()
                    texts.clear()
                made.extend(event.data.get("ids", ()))
                if event.type == "token":
                    texts.append(event.data.get("text", ""))
            after = events[-1].id
        return made, "".join(texts)

    def _reserve(self, lease: Lease, prepared: Prepared) -> bool:
        """Promise the exact count in place of the bound; False if others leave too little room for it."""
        others = [other.tokens for other in self._leases.jobs() if other is not lease]
        fits = prepared.tokens <= lease.tokens or (
            self._engine.cost((*others, prepared.tokens)) <= self._engine.capacity().budget_bytes
        )
        if fits:
            self._leases.reserve(lease, prepared.tokens)
        return fits

    def _stream(self, lease: Lease, prepared: Prepared, stopwatch: Stopwatch) -> tuple[Ended, Piece]:
        """Run it on the engine, whose tokens the writer passes on; the end, and the last tokens not yet passed on."""
        stream = self._writer.open(lease, len(prepared.prompt.made), stopwatch)
        inbox = stream.inbox
        try:
            lease.stop = partial(self._stop, lease, inbox)
            stopwatch.submit()
            try:
                self._engine.submit(prepared, inbox)
            except EngineError as error:
                inbox.ended(_ended(error))
            if self._dead:
                inbox.ended(_ended(self._dead))
            if lease.lost.is_set() or lease.handed_back:
                lease.halt()
            rest = inbox.rest()
        finally:
            self._writer.close(stream)
        stopwatch.note(rest)
        assert rest.ended
        return rest.ended, rest

    def _stop(self, lease: Lease, inbox: Inbox) -> None:
        if lease.lost.is_set():
            inbox.abandon()
        self._engine.cancel(lease.job_id)

    def _pass_on(self, lease: Lease, rest: Piece) -> None:
        """Write the last tokens of a job that goes back."""
        if not all(self._write(lease, call) for call in calls_of(lease, rest)):
            self._leases.lose([lease.claim])

    def _write(self, lease: Lease, call: Call[bool]) -> bool:
        """Whether it is in Redis now, under a claim that is still valid."""
        try:
            return send_patiently(self._store, lease, call)
        except ClaimLostError:
            return False

    def _finish(self, lease: Lease, job: Job, ended: Ended, rest: Piece) -> str:
        if lease.lost.is_set():
            return "lost"
        if ended.error is not None:
            if not self._engine.health().alive:
                self._pass_on(lease, rest)
                return self._release(lease, "engine", charge="keep")
            if isinstance(ended.error, EngineLostError):
                self._pass_on(lease, rest)
                return self._release(lease, "engine", charge="keep", error=ended.error)
            if ended.error.retryable:
                self._pass_on(lease, rest)
                return self._release(lease, ended.error.code, charge="charge", error=ended.error)
            return self._fail(lease, ended.error, rest)
        if ended.reason is FinishReason.TIMEOUT:
            return self._fail(lease, _timeout(job), rest)
        usage = {"prompt_tokens": ended.prompt_tokens, "completion_tokens": ended.completion_tokens}
        output = {"text": ended.text, "finish_reason": ended.reason.value, "usage": usage}
        return self._end(lease, Status.SUCCEEDED, output, rest)

    def _fail(self, lease: Lease, error: NowservingError, rest: Piece | None = None) -> str:
        kept = FinishReason.TIMEOUT.value if isinstance(error, JobTimeoutError) else ""
        return self._end(lease, Status.FAILED, _problem(error), rest, kept)

    def _end(self, lease: Lease, status: Status, result: dict[str, Any], rest: Piece | None, kept: str = "") -> str:
        last: dict[str, Any] = {"kept": kept}
        if rest:
            last |= {"index": rest.index, "ids": rest.ids, "text": rest.text, "begun": rest.begun, "anew": lease.anew}
        call = verb.finish(lease.job_id, lease.claim, status, result, **last)
        if not self._write(lease, call):
            return "lost"
        code = str(result["code"]) if status is Status.FAILED else ""
        self._metrics.ended(status.value, code, time.monotonic() - lease.since)
        return status.value

    def _release(
        self,
        lease: Lease,
        cause: str,
        *,
        charge: verb.Charge = "refund",
        tokens: int | None = None,
        error: NowservingError | None = None,
    ) -> str:
        call = verb.release(
            lease.job_id,
            lease.claim,
            cause,
            charge=charge,
            tokens=tokens,
            error=_problem(error) if error else None,
            max_attempts=self._max_attempts,
        )
        if not self._write(lease, call):
            return "lost"
        self._metrics.handed_back(cause)
        return cause


def _ended(error: EngineError) -> Ended:
    return Ended(FinishReason.ERROR, "", 0, 0, error)


def _timeout(job: Job) -> JobTimeoutError:
    return JobTimeoutError(f"it ran longer than its timeout_seconds, {job.timeout_seconds:g}")


def _problem(error: NowservingError) -> dict[str, Any]:
    return {"code": error.code, "message": error.message, "retryable": error.retryable}
