"""Every fault at random moments, while clients submit, follow, poll and cancel."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.chaos.storm import Storm

JOBS = int(os.environ.get("NOWSERVING_CHAOS_JOBS", "60"))
FAULTS = int(os.environ.get("NOWSERVING_CHAOS_FAULTS", "24"))
SEED = int(os.environ.get("NOWSERVING_CHAOS_SEED", "1"))


@pytest.mark.timeout(900)
def test_a_storm_of_all_faults_loses_and_doubles_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verdict = Storm(JOBS, FAULTS, SEED).blow(tmp_path)
    with capsys.disabled():
        print("\n" + verdict.table())
    assert not verdict.wrong.total(), "\n".join(verdict.details[:20])
    assert verdict.shown["jobs accepted"] >= JOBS  # type: ignore[operator]
    assert verdict.shown["… taken more than once"], "no fault has hit a running job: this shows nothing"
