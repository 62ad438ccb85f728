from __future__ import annotations

from nowserving.cli.tally import find_wrong, tally
from nowserving.cli.watch import Watched
from nowserving.client import JobEvent
from nowserving.job import Status


def ended(number: int, *indexes: int, end: str = "succeeded", text: str | None = None) -> Watched:
    watched = Watched(number, "hello", job_id=f"job_{number}")
    for index in indexes:
        watched.note(JobEvent("1-0", "token", {"ids": [1], "text": "a", "index": index}), 1.0)
    if end:
        result = {"output": {"text": text if text is not None else watched.text}}
        watched.note(JobEvent("2-0", end, result if end == "succeeded" else {"error": {"code": "timeout"}}), 2.0)
    watched.ended = True
    return watched


def once(*jobs: Watched) -> dict[str, int]:
    return {watched.job_id: 1 for watched in jobs}


def test_a_day_on_which_all_went_well() -> None:
    jobs = [ended(1, 0, 1), ended(2, 0)]
    assert str(tally(jobs, once(*jobs))) == "accepted 2 · done 2 · lost 0 · twice 0"
    assert find_wrong(jobs, once(*jobs)) == []


def test_a_job_without_an_end_is_lost_even_if_its_reader_gave_up() -> None:
    lost = ended(2, 0, end="")
    lost.status, lost.error = Status.FAILED, "no answer"
    jobs = [ended(1, 0), lost]
    counted = tally(jobs, {**once(*jobs), "job_2": 0})
    assert (counted.accepted, counted.done, counted.lost) == (2, 1, 1)
    assert find_wrong([lost], {}) == ["2 failed: no answer", "2 (job_2): it ended 0 times"]


def test_a_job_that_was_refused_was_not_accepted() -> None:
    assert tally([Watched(1, "hello")], {}).accepted == 0


def test_a_failed_job_is_neither_done_nor_lost() -> None:
    counted = tally([ended(1, end="failed")], {"job_1": 1})
    assert (counted.accepted, counted.done, counted.lost) == (1, 0, 0)


def test_repeated_tokens_and_second_ends_are_twice() -> None:
    jobs = [ended(1, 0, 1, 1, 0), ended(2, 0)]
    assert tally(jobs, {"job_1": 1, "job_2": 3}).twice == 4
    wrong = find_wrong(jobs, {"job_1": 1, "job_2": 3})
    assert wrong == ["1 (job_1): 2 tokens came twice, 0 are missing", "2 (job_2): it ended 3 times"]


def test_missing_tokens_and_another_result_are_wrong() -> None:
    [missing] = find_wrong([ended(1, 0, 2)], {"job_1": 1})
    assert "1 are missing" in missing
    [other] = find_wrong([ended(1, 0, text="b")], {"job_1": 1})
    assert "its tokens' text is not its result" in other
