"""The client: one method for each thing the API does."""

from __future__ import annotations

import ipaddress
import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx
from httpx_sse import EventSource

from nowserving import __version__
from nowserving.client.answer import BatchLine, Delivery, DeliveryPage, Job, JobEvent, JobPage
from nowserving.client.error import ApiError, ApiUnreachableError, WaitTimeoutError, explain_transport, read_problem
from nowserving.client.retry import Retry
from nowserving.errors import NowservingError, SettingsError

DEFAULT_URL = "http://127.0.0.1:8000"
POLL_SECONDS = 30.0
BATCH_SECONDS = 60.0
"""A batch may be answered so much later than anything else."""
SILENCE_SECONDS = 60.0
"""A stream on which nothing came for so long, not even the server's ping, is taken for dead."""
STEADY_SECONDS = 5.0
"""A connection that held so long counts as good: after it the retries begin anew."""


class Client:
    """A blocking client, safe to share between threads. Lost connections and 429, 502, 503, 504 are tried again for
    up to `retry_seconds`. Raises ApiError or ApiUnreachableError; SettingsError if `base_url` is no URL.
    """

    def __init__(
        self,
        base_url: str | None = None,
        timeout_seconds: float = 10.0,
        retry_seconds: float = 30.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.base_url = (base_url or os.environ.get("NOWSERVING_URL") or DEFAULT_URL).rstrip("/")
        self._timeout_seconds = timeout_seconds
        self._retry_seconds = retry_seconds
        try:
            url = httpx.URL(self.base_url)
            if url.scheme not in ("http", "https") or not url.host:
                raise httpx.InvalidURL("it begins with neither http:// nor https://")
        except httpx.InvalidURL as error:
            raise SettingsError(f"{self.base_url} is no address of an API: {error}") from None
        self._http = httpx.Client(
            base_url=self.base_url,
            timeout=timeout_seconds,
            headers={"User-Agent": f"nowserving/{__version__}"},
            transport=transport,
            trust_env=not _is_loopback(url.host),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give up the connections."""
        self._http.close()

    def submit(
        self,
        model: str,
        prompt: str | None = None,
        messages: Sequence[Mapping[str, str]] | None = None,
        *,
        idempotency_key: str | None = None,
        wait_seconds: float | None = None,
        lane: str | None = None,
        start_within_seconds: float | None = None,
        timeout_seconds: float | None = None,
        retain_seconds: float | None = None,
        metadata: Mapping[str, str] | None = None,
        webhook: str | Mapping[str, Any] | None = None,
        **parameters: Any,
    ) -> Job:
        """Submit a job; `parameters` are max_new_tokens, temperature, top_p, top_k, min_p, repetition_penalty, seed,
        stop, stop_token_ids and ignore_eos. `webhook` is who is called when it has ended: a URL, or an object with
        `url`, and if need be `events` and `secret`.

        The key, made here if none is given, makes every repetition the same job.
        """
        given = {"prompt": prompt, "messages": list(messages) if messages is not None else None}
        body: dict[str, Any] = {
            "model": model,
            "input": _given(given),
            "parameters": _given(parameters),
            "lane": lane,
            "start_within_seconds": start_within_seconds,
            "timeout_seconds": timeout_seconds,
            "retain_seconds": retain_seconds,
            "metadata": dict(metadata) if metadata else None,
            "webhook": {"url": webhook} if isinstance(webhook, str) else webhook,
        }
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        if wait_seconds is not None:
            headers["Prefer"] = f"wait={wait_seconds:g}"
        answer = self._send("POST", "/v1/jobs", wait_seconds, json=_given(body), headers=headers)
        return Job.from_answer(answer)

    def submit_batch(
        self, jobs: Iterable[Mapping[str, Any]], *, idempotency_key: str | None = None
    ) -> tuple[BatchLine, ...]:
        """Submit up to 10,000 jobs, each a body of POST /v1/jobs; what became of each, in their order.

        With a key what was refused for want of room (429), or of Redis (503), can be sent again: the whole batch under
        the same key, which makes no job twice. Without one this is true of this call's own repetitions alone. Raises
        ApiError if no line was accepted.
        """
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex, "Content-Type": "application/x-ndjson"}
        content = "\n".join(map(json.dumps, jobs))
        answer = self._send("POST", "/v1/jobs/batch", BATCH_SECONDS, content=content, headers=headers)
        return tuple(BatchLine.from_answer(line) for line in answer["data"])

    def get(self, job_id: str, wait_seconds: float | None = None) -> Job:
        """Look at a job; with `wait_seconds` the answer comes when it has ended, or then."""
        params = {} if wait_seconds is None else {"wait": f"{wait_seconds:g}"}
        return Job.from_answer(self._send("GET", _path(job_id), wait_seconds, params=params))

    def wait(self, job_id: str, timeout_seconds: float | None = None) -> Job:
        """Wait until the job has ended, whatever its end. Raises WaitTimeoutError."""
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while True:
            asked_at = time.monotonic()
            left_seconds = POLL_SECONDS if deadline is None else max(0.0, min(POLL_SECONDS, deadline - asked_at))
            job = self.get(job_id, wait_seconds=left_seconds)
            if job.status.terminal:
                return job
            if deadline is not None and time.monotonic() >= deadline:
                raise WaitTimeoutError(f"{job_id} is {job.status} after {timeout_seconds:g} s, and goes on")
            if time.monotonic() - asked_at < 0.1:
                # This server does not let clients wait.
                time.sleep(0.2)

    def stream(self, job_id: str, last_event_id: str | None = None) -> Iterator[JobEvent]:
        """Yield the job's events to its end, each once; a dropped connection is taken up where it broke.

        Whoever joins their texts begins anew on `restarted`.
        """
        retry = Retry(self._retry_seconds)
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        timeout = httpx.Timeout(self._timeout_seconds, read=SILENCE_SECONDS)
        while True:
            if last_event_id is not None:
                headers["Last-Event-ID"] = last_event_id
            began_at = time.monotonic()
            failure: NowservingError
            try:
                with self._http.stream("GET", _path(job_id, "events"), headers=headers, timeout=timeout) as response:
                    if response.status_code == 204:
                        # `last_event_id` was the last one there is.
                        return
                    if not response.is_success:
                        response.read()
                        raise read_problem(response)
                    for sse in EventSource(response).iter_sse():
                        if not sse.data:
                            # httpx-sse makes an empty event of a comment that follows an event with an id.
                            continue
                        event = JobEvent.from_sse(sse)
                        retry = Retry(self._retry_seconds)
                        last_event_id = event.id or last_event_id
                        yield event
                        if event.terminal:
                            return
                failure = ApiUnreachableError(f"{self.base_url} ended the stream of {job_id} early")
            except httpx.TransportError as error:
                failure = explain_transport(self.base_url, error)
            except ApiError as error:
                failure = error
            if time.monotonic() - began_at > STEADY_SECONDS:
                retry = Retry(self._retry_seconds)
            retry.pause(failure)

    def cancel(self, job_id: str) -> Job:
        """Cancel a job; harmless to repeat."""
        return Job.from_answer(self._send("POST", _path(job_id, "cancel")))

    def retry(self, job_id: str, idempotency_key: str | None = None) -> Job:
        """Run a job that failed, expired or was canceled anew; the new job, whose `retry_of` is this one.

        The key, made here if none is given, makes every repetition the same job.
        """
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        return Job.from_answer(self._send("POST", _path(job_id, "retry"), headers=headers))

    def jobs(
        self, status: str | None = None, model: str | None = None, cursor: str | None = None, limit: int | None = None
    ) -> JobPage:
        """List kept jobs, newest first."""
        params = _given({"status": status, "model": model, "cursor": cursor, "limit": limit})
        answer = self._send("GET", "/v1/jobs", params=params)
        cursor = answer.get("next_cursor")
        jobs = tuple(Job.from_answer(entry) for entry in answer["data"])
        return JobPage(jobs, None if cursor is None else str(cursor))

    def deliveries(
        self,
        job_id: str | None = None,
        status: str | None = None,
        cursor: str | None = None,
        limit: int | None = None,
    ) -> DeliveryPage:
        """List kept webhook deliveries, newest first; those of one job all at once, in the order of its events."""
        if job_id is not None:
            answer = self._send("GET", _path(job_id, "deliveries"))
            entries = [entry for entry in answer["data"] if status in (None, entry.get("status"))]
        else:
            params = _given({"status": status, "cursor": cursor, "limit": limit})
            answer = self._send("GET", "/v1/deliveries", params=params)
            entries = answer["data"]
        cursor = answer.get("next_cursor")
        return DeliveryPage(tuple(map(Delivery.from_answer, entries)), None if cursor is None else str(cursor))

    def redeliver(self, delivery_id: str) -> Delivery:
        """Send a webhook once more, under the same id; harmless to repeat while it is on its way."""
        return Delivery.from_answer(self._send("POST", f"/v1/deliveries/{quote(delivery_id, safe='')}/redeliver"))

    def queues(self) -> list[dict[str, Any]]:
        """How each model's queue stands."""
        return list(self._send("GET", "/v1/queues")["data"])

    def workers(self) -> list[dict[str, Any]]:
        """What each live worker says of itself."""
        return list(self._send("GET", "/v1/workers")["data"])

    def models(self) -> list[dict[str, Any]]:
        """The catalog."""
        return list(self._send("GET", "/v1/models")["data"])

    def health(self) -> dict[str, Any]:
        """How the API process does, and whether Redis answers it."""
        return self._send("GET", "/health")

    def _send(self, method: str, path: str, wait_seconds: float | None = None, **request: Any) -> dict[str, Any]:
        timeout = httpx.Timeout(self._timeout_seconds, read=self._timeout_seconds + (wait_seconds or 0))
        retry = Retry(self._retry_seconds)
        while True:
            try:
                response = self._http.request(method, path, timeout=timeout, **request)
                if response.is_success:
                    return dict(response.json())
                retry.pause(read_problem(response))
            except httpx.TransportError as error:
                retry.pause(explain_transport(self.base_url, error))
            except ValueError:
                raise ApiUnreachableError(f"{self.base_url} answers, but not as a nowserving API does") from None


def _path(job_id: str, part: str = "") -> str:
    return f"/v1/jobs/{quote(job_id, safe='')}" + (f"/{part}" if part else "")


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None and value != {}}


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
