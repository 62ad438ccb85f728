"""What workers count is what docs/metrics.md says, and no label grows with what clients or engines say."""

from __future__ import annotations

import time
from typing import Any

import pytest

from nowserving.answer import Suspect, Taken, Unfit
from nowserving.job import Job, Submission, fields_of
from tests.scrape import documented, families, samples
from workers.gate import Closed
from workers.inbox import Piece
from workers.metrics import SIZES, DeliveryMetrics, Figures, JobMetrics, Metrics
from workers.stopwatch import Stopwatch

COMMON = "Workers and deliverers"
FIGURES = Figures(True, 8, 3, None, 12.5, dict.fromkeys(SIZES, 7))


@pytest.fixture
def metrics() -> JobMetrics:
    return JobMetrics("m")


def use(metrics: Metrics) -> dict[str, float]:
    """Every verb of a process, once, and what one then reads."""
    metrics.watch(lambda: FIGURES)
    taken = Taken("claim", "job", {})
    for answer in ((taken, taken), (), Unfit("job", 1), Suspect("job"), None):
        metrics.took(answer)
    for closed in (None, *Closed):
        metrics.judged(closed)
    metrics.handed_back("drained")
    metrics.lost(lapsed=True)
    metrics.missed_beat()
    if isinstance(metrics, JobMetrics):
        metrics.started(0.2)
        metrics.began(12)
        metrics.made(5)
        metrics.made_first(0.3, 0.5)
        metrics.ended("failed", "timeout", 600)
        metrics.patched("refused")
    if isinstance(metrics, DeliveryMetrics):
        metrics.attempted(204, 0.1)
        metrics.settled("delivered")
    return samples(metrics.write().decode())


@pytest.mark.parametrize(("kind", "own"), [(JobMetrics, "Workers"), (DeliveryMetrics, "Deliverers")])
def test_the_document_names_each_metric_with_its_type_and_labels(kind: type[Metrics], own: str) -> None:
    metrics = kind("m")
    use(metrics)
    found = {}
    for name, family in families(metrics.write().decode()).items():
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[name] = (family.type, labels)
        assert family.documentation
    told = documented(COMMON, own)
    assert {name: (kind, set(labels)) for name, (kind, labels) in told.items()} == found
    assert len(told) > 15


def test_names_of_api_and_workers_are_apart() -> None:
    assert not set(documented("The API")) & set(documented(COMMON, "Workers", "Deliverers"))


def test_each_verb_counts(metrics: JobMetrics) -> None:
    found = use(metrics)
    expected = {
        "nowserving_worker_takes_total m taken": 1,
        "nowserving_worker_takes_total m empty": 1,
        "nowserving_worker_takes_total m unfit": 1,
        "nowserving_worker_takes_total m suspect": 1,
        "nowserving_worker_takes_total m failed": 1,
        "nowserving_worker_taken_total m": 2,
        "nowserving_worker_gate_decisions_total m open": 1,
        "nowserving_worker_gate_decisions_total m gpu_memory": 1,
        "nowserving_worker_gate_open m": 1,
        "nowserving_worker_gate_closed m slots": 0,
        "nowserving_worker_handed_back_total drained m": 1,
        "nowserving_worker_leases_lost_total m lapsed": 1,
        "nowserving_worker_leases_lost_total m ended": 0,
        "nowserving_worker_heartbeat_failures_total m": 1,
        "nowserving_worker_idle_seconds_total m": 12.5,
        "nowserving_worker_running m": 3,
        "nowserving_worker_device_allocated_bytes m": 7,
        "nowserving_job_queue_wait_seconds_sum m": 0.2,
        "nowserving_job_prefill_seconds_sum m": 0.3,
        "nowserving_job_time_to_first_token_seconds_sum m": 0.5,
        "nowserving_job_run_seconds_bucket 600.0 m": 1,
        "nowserving_job_run_seconds_bucket 300.0 m": 0,
        "nowserving_worker_jobs_ended_total timeout m failed": 1,
        "nowserving_worker_tokens_total m": 5,
        "nowserving_worker_prompt_tokens_total m": 12,
        "nowserving_worker_attempts_total m": 1,
        "nowserving_worker_pod_patches_total m refused": 1,
    }
    assert {name: found.get(name) for name in expected} == expected


def test_a_figure_that_is_not_known_has_no_sample_and_a_closed_gate_one_reason(metrics: JobMetrics) -> None:
    metrics.watch(lambda: Figures(False, 8, 0, Closed.ENGINE, 0.0))
    text = metrics.write().decode()
    assert "nowserving_worker_device_free_bytes" in families(text)
    found = samples(text)
    assert not [name for name in found if "bytes" in name]
    closed = {name: value for name, value in found.items() if "worker_gate_closed" in name}
    assert len(closed) == len(Closed)
    assert [name for name, value in closed.items() if value] == ["nowserving_worker_gate_closed m engine"]
    assert found["nowserving_worker_gate_open m"] == found["nowserving_worker_ready m"] == 0


def test_labels_stay_few_whatever_engines_and_receivers_say(metrics: JobMetrics) -> None:
    deliveries = DeliveryMetrics("m")
    for index in range(100):
        metrics.ended("failed", f"strange_{index}", 1)
        metrics.handed_back(f"strange_{index}")
        deliveries.attempted(index * 10, 1)
    assert samples(metrics.write().decode())["nowserving_worker_jobs_ended_total other m failed"] == 100
    assert samples(metrics.write().decode())["nowserving_worker_handed_back_total other m"] == 100
    attempts = [name for name in samples(deliveries.write().decode()) if "attempts_total" in name]
    assert sorted(name.split()[2] for name in attempts) == ["1xx", "2xx", "3xx", "4xx", "5xx", "other"]
    deliveries.attempted(None, 0.0)
    found = samples(deliveries.write().decode())
    assert found["nowserving_deliverer_attempts_total m none"] == 1
    assert found["nowserving_deliverer_attempt_seconds_count m"] == 100


def job(**fields: object) -> Job:
    body: dict[str, Any] = {"model": "m", "input": {"prompt": "hello"}}
    record = fields_of(Submission.model_validate(body), seed=1)
    times = {"id": "j", "v": 1, "sequence": 1, "created_at": 1000, "started_at": 1004, "takes": 1, "status": "running"}
    return Job.from_fields({**record, **{name: str(value) for name, value in {**times, **fields}.items()}})


def piece(begun: int | None = None, ids: tuple[int, ...] = ()) -> Piece:
    return Piece(begun, None, 0, ids, "", None)


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


def test_a_first_token_is_timed_from_the_engine_and_from_acceptance(metrics: JobMetrics) -> None:
    clock = Clock()
    stopwatch = Stopwatch(metrics, job(), since=50.0, clock=clock)
    clock.now += 1
    stopwatch.submit()
    stopwatch.note(piece(begun=9))
    clock.now += 2
    stopwatch.note(piece(ids=(1,)))
    clock.now += 5
    stopwatch.note(piece(ids=(2, 3)))
    found = samples(metrics.write().decode())
    assert found["nowserving_job_queue_wait_seconds_sum m"] == 4
    assert found["nowserving_job_prefill_seconds_sum m"] == 2
    assert found["nowserving_job_time_to_first_token_seconds_sum m"] == 4 + 1 + 2
    assert found["nowserving_worker_tokens_total m"] == 3
    assert found["nowserving_worker_prompt_tokens_total m"] == 9


@pytest.mark.parametrize("fields", [{"takes": 2}, {"started_at": 900}])
def test_waits_are_of_jobs_that_nobody_had_before_and_never_negative(
    metrics: JobMetrics, fields: dict[str, object]
) -> None:
    stopwatch = Stopwatch(metrics, job(**fields), since=time.monotonic())
    stopwatch.submit()
    stopwatch.note(piece(begun=1, ids=(1,)))
    found = samples(metrics.write().decode())
    first = int("takes" not in fields)
    assert found["nowserving_job_queue_wait_seconds_count m"] == first
    assert found["nowserving_job_queue_wait_seconds_sum m"] == 0
    assert found["nowserving_job_time_to_first_token_seconds_count m"] == first
    assert found["nowserving_job_prefill_seconds_count m"] == 1
