"""What is promised of a killed worker, a cancel and a drain, measured as the benchmark does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.measure import JOBS, cancel, drain, percentile, take_over


@pytest.mark.timeout(180)
def test_the_jobs_of_a_killed_worker_go_on_elsewhere_within_a_lease_and_two_seconds(tmp_path: Path) -> None:
    measured = take_over(tmp_path, kills=2)
    assert not measured.wrong
    assert len(measured.queued_seconds) == 2 * JOBS
    assert max(measured.queued_seconds) < measured.lease_seconds + 2


@pytest.mark.timeout(180)
def test_fifty_canceled_jobs_free_their_slots_within_a_second(tmp_path: Path) -> None:
    assert percentile(cancel(tmp_path).freed_ms, 99) < 1000


@pytest.mark.timeout(180)
def test_a_drained_worker_hands_over_what_it_cannot_finish(tmp_path: Path) -> None:
    measured = drain(tmp_path, drain_seconds=2)
    assert (measured.exit_code, measured.charged) == (0, 0)
    assert measured.seconds < 4
    assert (measured.finished_elsewhere, measured.texts_equal) == (JOBS, JOBS)
