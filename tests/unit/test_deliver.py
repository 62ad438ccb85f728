"""One attempt at a delivery, without a network or a Redis."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from nowserving import __version__
from nowserving.answer import Taken
from nowserving.call import Call
from nowserving.delivery import Attempt
from nowserving.errors import ClaimLostError, StoreUnavailableError
from nowserving.secret import new_secret
from workers.deliver import JITTER, LEAST_PATIENCE_SECONDS, LONGEST_RETRY_AFTER_SECONDS, SLOW_SECONDS, Deliveries, judge
from workers.lease import Leases
from workers.metrics import DeliveryMetrics
from workers.send import Outcome

T = TypeVar("T")

SCHEDULE = (5.0, 300.0, 1800.0)
CLAIM = "c"
DELIVERY = "dlv_01k00000000000000000000000_succeeded"
JOB = {
    "v": "1",
    "id": "job_01k00000000000000000000000",
    "model": "m",
    "status": "succeeded",
    "lane": "normal",
    "sequence": "1",
    "tokens": "9",
    "created_at": "1000",
    "timeout_seconds": "600",
    "retain_seconds": "86400",
    "output": json.dumps({"text": "hi", "finish_reason": "stop", "usage": {}}),
}
FIELDS = {
    "v": "3",
    "id": DELIVERY,
    "model": "@webhooks",
    "status": "running",
    "job": JOB["id"],
    "event": "job.succeeded",
    "url": "https://example.com/hook",
    "host": "example.com:443",
    "created_at": "1001",
    "said": json.dumps(JOB),
}

statuses = st.none() | st.integers(100, 599)
pauses = st.lists(st.floats(0, 7 * 86400), max_size=50)
chances = st.floats(0, 1)
waits = st.none() | st.floats(0)


def outcome(status: int | None = 200, retry_after_seconds: float | None = None, error: str | None = None) -> Outcome:
    return Outcome(status, 0.5, error, "", retry_after_seconds)


@given(statuses, st.integers(0, 60), pauses, chances, waits)
def test_each_outcome_has_one_consequence(
    status: int | None, tries: int, schedule: Sequence[float], chance: float, wait: float | None
) -> None:
    judgement = judge(outcome(status, wait), tries, schedule, chance)
    if status is not None and 200 <= status <= 299:
        expected = "delivered"
    elif status == 410:
        expected = "stopped"
    elif tries < len(schedule):
        expected = "retry"
    else:
        expected = "dead"
    assert judgement.word == expected
    if expected != "retry":
        assert judgement.delay_seconds == 0


@given(st.sampled_from((None, 301, 400, 404, 429, 500, 503)), st.integers(0, 2), chances, waits)
def test_a_pause_is_the_schedules_with_jitter_or_what_the_receiver_asks_for(
    status: int | None, tries: int, chance: float, wait: float | None
) -> None:
    delay = judge(outcome(status, wait), tries, SCHEDULE, chance).delay_seconds
    least, most = SCHEDULE[tries] * (1 - JITTER), SCHEDULE[tries] * (1 + JITTER)
    asked = min(wait or 0.0, LONGEST_RETRY_AFTER_SECONDS)
    assert delay >= asked
    assert least <= delay <= max(most, asked) + 1e-9


@pytest.mark.parametrize(
    ("status", "slow"), [(None, True), (500, True), (503, True), (404, False), (429, False), (200, False), (410, False)]
)
def test_a_host_is_slow_that_gives_no_answer_or_is_broken(status: int | None, slow: bool) -> None:
    assert judge(outcome(status), 0, SCHEDULE, 0.5).slow is slow
    assert judge(outcome(status), 99, SCHEDULE, 0.5).slow is slow


@pytest.mark.parametrize("status", [200, 404, 410, 500])
def test_a_host_is_slow_that_answers_late(status: int) -> None:
    assert judge(Outcome(status, SLOW_SECONDS + 0.1, None), 0, SCHEDULE, 0.5).slow
    assert judge(Outcome(status, SLOW_SECONDS - 0.1, None), 0, SCHEDULE, 0.5).slow is (status >= 500)


@dataclass
class FakeStore:
    """Notes what is settled, after so many failures; `lost`: the claim is."""

    failures: int = 0
    lost: bool = False
    settled: list[tuple[Any, ...]] = field(default_factory=list)

    def run(self, call: Call[T]) -> T:
        if self.failures:
            self.failures -= 1
            raise StoreUnavailableError("away")
        self.settled.append((call.script, *call.args))
        return call.parse(["lost" if self.lost else "done"])


@dataclass
class Scene:
    """A deliverer's insides with one delivery taken."""

    outcome: Outcome | Exception = field(default_factory=outcome)
    secrets: Sequence[str] = ()
    posted: list[tuple[str, bytes, Mapping[str, str]]] = field(default_factory=list)
    asked: list[tuple[str | None, str | None]] = field(default_factory=list)
    store: FakeStore = field(default_factory=FakeStore)
    leases: Leases = field(default_factory=lambda: Leases(10))

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Outcome:
        self.posted.append((url, body, headers))
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def secrets_of(self, name: str | None, own: str | None) -> Sequence[str]:
        self.asked.append((name, own))
        return self.secrets

    def run(self, **fields: str) -> str:
        self.leases.add([CLAIM])
        self.leases.fill(Taken(CLAIM, DELIVERY, {**FIELDS, **fields}))
        store: Any = self.store
        url, metrics = "https://api.example.com", DeliveryMetrics("m")
        deliveries = Deliveries(store, self.leases, self.post, self.secrets_of, SCHEDULE, url, metrics)
        return deliveries.run(DELIVERY, CLAIM)

    @property
    def attempt(self) -> Attempt:
        return Attempt.from_json(self.store.settled[0][5])


def test_a_delivery_is_signed_by_all_secrets_and_sent_with_its_id() -> None:
    secrets = [new_secret(), new_secret()]
    scene = Scene(secrets=secrets)
    assert scene.run(receiver="accounts", secret="own", traceparent="00-ab-cd-01") == "delivered"
    assert scene.asked == [("accounts", "own")]
    ((url, body, headers),) = scene.posted
    assert url == FIELDS["url"]
    for secret in secrets:
        payload = Webhook(secret).verify(body, dict(headers))
        assert payload["type"] == "job.succeeded"
        assert payload["data"]["urls"]["self"].startswith("https://api.example.com/v1/jobs/job_")
    assert headers["webhook-id"] == DELIVERY
    assert headers["content-type"] == "application/json"
    assert headers["user-agent"] == f"nowserving/{__version__}"
    assert headers["traceparent"] == "00-ab-cd-01"
    ((script, delivery_id, claim, status, delay, _, slow, patience),) = scene.store.settled
    assert (script, delivery_id, claim, status, delay, slow) == ("settle", DELIVERY, CLAIM, "succeeded", 0.0, 0)
    assert patience == LEAST_PATIENCE_SECONDS
    assert (scene.attempt.status, scene.attempt.seconds) == (200, 0.5)
    assert scene.leases.all() == []


def test_there_is_a_traceparent_only_if_the_job_came_with_one() -> None:
    scene = Scene(secrets=[new_secret()])
    scene.run()
    assert "traceparent" not in scene.posted[0][2]


@pytest.mark.parametrize(
    ("tries", "status", "expected", "recorded"),
    [
        ("0", 500, "retry", "queued"),
        ("2", 404, "retry", "queued"),
        ("3", 404, "dead", "failed"),
        ("0", 410, "stopped", "canceled"),
    ],
)
def test_what_failed_is_tried_again_while_the_schedule_lasts(
    tries: str, status: int, expected: str, recorded: str
) -> None:
    scene = Scene(outcome(status), [new_secret()])
    assert scene.run(tries=tries) == expected
    assert scene.store.settled[0][3] == recorded
    assert (scene.store.settled[0][4] > 0) is (expected == "retry")


@pytest.mark.parametrize("fields", [{"said": "[]"}, {"said": "{"}, {"tries": "many"}, {"created_at": "long ago"}])
def test_a_record_that_cannot_be_read_is_dead_at_once(fields: dict[str, str]) -> None:
    scene = Scene(secrets=[new_secret()])
    assert scene.run(**fields) == "dead"
    assert scene.posted == []
    assert "cannot be read" in str(scene.attempt.error)


def test_without_a_secret_nothing_is_sent_and_it_is_tried_again() -> None:
    scene = Scene()
    assert scene.run() == "retry"
    assert scene.posted == []
    assert "no secret" in str(scene.attempt.error)


def test_a_fault_of_our_own_is_tried_again() -> None:
    scene = Scene(RuntimeError("a bug"), [new_secret()])
    assert scene.run() == "retry"
    assert "a bug" in str(scene.attempt.error)
    assert scene.leases.all() == []


def test_the_outcome_is_told_once_redis_is_back() -> None:
    scene = Scene(secrets=[new_secret()], store=FakeStore(failures=2))
    assert scene.run() == "delivered"
    assert len(scene.posted) == len(scene.store.settled) == 1


def test_an_outcome_for_a_lost_claim_counts_for_nothing() -> None:
    assert Scene(secrets=[new_secret()], store=FakeStore(lost=True)).run() == "lost"


def test_an_outcome_is_told_no_longer_than_the_lease_lasts() -> None:
    scene = Scene(secrets=[new_secret()], store=FakeStore(failures=1000))

    def post(url: str, body: bytes, headers: Mapping[str, str]) -> Outcome:
        scene.leases.lose([CLAIM])
        return outcome()

    scene.post = post  # type: ignore[method-assign]
    assert scene.run() == "lost"
    assert scene.leases.all() == []


def test_a_claim_of_nobody_sends_nothing() -> None:
    scene = Scene()
    store: Any = scene.store
    deliveries = Deliveries(store, scene.leases, scene.post, scene.secrets_of, SCHEDULE, "", DeliveryMetrics("m"))
    with pytest.raises(ClaimLostError):
        deliveries.run(DELIVERY, "unknown")
    assert scene.posted == scene.store.settled == []
