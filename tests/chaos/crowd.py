"""Clients that submit, follow, poll and cancel jobs through the SDK, and never give one up."""

from __future__ import annotations

import itertools
import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Literal, TypeVar, cast

from nowserving.client import ApiError, Client, JobEvent
from nowserving.client.retry import PASSING
from nowserving.errors import NowservingError
from nowserving.job import Status
from tests.chaos.sight import Sight
from tests.worker_process import MODEL

T = TypeVar("T")
Way = Literal["stream", "wait", "poll"]
WAYS: tuple[Way, ...] = ("stream", "stream", "wait", "poll")
MOST_TOKENS = (5, 40, 80)
"""Of a third of the jobs each: the shorter they are, the more often a fault hits a beginning or an end."""
CANCELED_SHARE = 0.1
FINISHED_FIRST = 409
"""What a cancel is answered that came too late."""


def words(tokens: int) -> str:
    """The text that the noop engine makes of so many tokens when nothing disturbs it."""
    return " ".join(f"w{index}" for index in range(tokens))


@dataclass
class Tale:
    """What one client asked for and saw."""

    number: int
    tokens: int
    way: Way
    job_id: str = ""
    """Empty until the API has accepted it."""
    status: Status | None = None
    """The terminal status that the client saw."""
    cancel_asked: bool = False
    canceled: bool = False
    """The cancel was answered with success."""
    sight: Sight = field(default_factory=Sight)


class Crowd(ABC):
    """`clients` threads, each with one job at a time, until `jobs` were submitted and the storm is over."""

    def __init__(self, seed: int, jobs: int, clients: int) -> None:
        self.tales: list[Tale] = []
        self.accepted: list[str] = []
        """The ids of the jobs, as they are accepted."""
        self.seed = seed
        self.giving_up = threading.Event()
        self._jobs, self._clients = jobs, clients
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._enough = threading.Event()

    def run(
        self, storm: Callable[[], None], look: Callable[[], None], hang_up: Callable[[], None], patience_seconds: float
    ) -> None:
        """Work while the storm lasts, then see every job through, or give up after the patience.

        `look` is called again and again meanwhile; `hang_up` ends the connections of those who still wait.
        """
        with ThreadPoolExecutor(self._clients, "client") as pool:
            workers = [pool.submit(self._work) for _ in range(self._clients)]
            try:
                storm()
                self._enough.set()
                until = time.monotonic() + patience_seconds
                while not all(worker.done() for worker in workers) and time.monotonic() < until:
                    look()
                    time.sleep(0.05)
            finally:
                self._enough.set()
                self.giving_up.set()
                hang_up()
            for worker in workers:
                worker.result()
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Hang up, once all clients have ended."""

    @abstractmethod
    def live(self, tale: Tale) -> None:
        """Submit the job, follow it to its end, and write down what was seen. Returns soon after `giving_up`."""

    def _work(self) -> None:
        for tale in iter(self._next, None):
            self.live(tale)

    def _next(self) -> Tale | None:
        with self._lock:
            number = next(self._numbers)
            if self.giving_up.is_set() or (number >= self._jobs and self._enough.is_set()):
                return None
            choose = random.Random(f"{self.seed} {number}")
            way = choose.choice(WAYS)
            tale = Tale(number, choose.randint(1, choose.choice(MOST_TOKENS)), way)
            self.tales.append(tale)
            return tale


class SdkCrowd(Crowd):
    """Clients of nowserving, which stream, wait or poll, and cancel one job in ten."""

    def __init__(self, url: str, seed: int, jobs: int, clients: int) -> None:
        super().__init__(seed, jobs, clients)
        self.unexpected: list[str] = []
        """Answers that no client should get, whatever happens."""
        self._client = Client(url, timeout_seconds=5, retry_seconds=5)

    def live(self, tale: Tale) -> None:
        """See Crowd."""
        choose = random.Random(f"{self.seed} {tale.number} {tale.way}")
        key = f"{self.seed}-{tale.number}"
        job = self._insist(
            lambda: self._client.submit(
                MODEL, prompt=f"job {tale.number}", idempotency_key=key, max_new_tokens=tale.tokens
            )
        )
        if job is None:
            return
        tale.job_id = job.id
        self.accepted.append(job.id)
        streams = tale.way == "stream"
        cancel_at = choose.randint(0, tale.tokens if streams else 2) if choose.random() < CANCELED_SHARE else None
        for number, _ in enumerate(self._stream(tale, choose) if streams else self._look(tale)):
            if number == cancel_at:
                self._cancel(tale)
        if cancel_at is not None and not tale.cancel_asked:
            self._cancel(tale)

    def close(self) -> None:
        """See Crowd."""
        self._client.close()

    def _cancel(self, tale: Tale) -> None:
        tale.cancel_asked = True
        job = self._insist(lambda: self._client.cancel(tale.job_id), refusal=FINISHED_FIRST)
        tale.canceled = job is not None

    def _stream(self, tale: Tale, choose: random.Random) -> Iterator[None]:
        """Follow the events, hanging up at times and going on after the last one seen."""
        last: str | None = None
        while not self.giving_up.is_set():
            tale.sight.connections += 1
            hang_up_at = choose.randint(1, 40)
            try:
                with closing(cast(Generator[JobEvent, None, None], self._client.stream(tale.job_id, last))) as events:
                    for number, event in enumerate(events):
                        tale.sight.see(event.type, event.data)
                        last = event.id or last
                        if event.terminal:
                            tale.status = Status(event.type)
                            return
                        yield
                        if number == hang_up_at:
                            break
            except NowservingError as error:
                self._judge(error)

    def _look(self, tale: Tale) -> Iterator[None]:
        """Ask now and then, or let the API answer when there is something to say."""
        wait_seconds = 3.0 if tale.way == "wait" else None
        while job := self._insist(lambda: self._client.get(tale.job_id, wait_seconds)):
            if job.status.terminal:
                tale.status = job.status
                return
            yield
            time.sleep(0.2)

    def _insist(self, call: Callable[[], T], refusal: int | None = None) -> T | None:
        """Try until there is an answer; None if it is this refusal, or all is given up."""
        while not self.giving_up.is_set():
            try:
                return call()
            except NowservingError as error:
                if isinstance(error, ApiError) and error.status == refusal:
                    return None
                self._judge(error)
        return None

    def _judge(self, error: NowservingError) -> None:
        if isinstance(error, ApiError) and error.status not in PASSING:
            self.unexpected.append(f"{error.status} {error.code}: {error.message}")
        time.sleep(0.1)
