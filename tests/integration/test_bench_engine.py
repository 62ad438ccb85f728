"""The engine bench itself, with a tiny model and few tokens: that it runs, and that all ways make the same texts."""

import pytest

from bench.bare import OpenAIServer
from bench.contest import WAYS, Plan, measure
from bench.engine import describe
from bench.ways import Generate
from tests.scripted_server import ScriptedServer

PLAN = Plan("tiny", jobs=(1, 3), tokens=6, prompt=(60, 90), rounds=2, alone=2)


def test_all_ways_answer_the_same_chats_with_the_same_texts() -> None:
    measured = measure(PLAN)
    assert len(measured.rounds) == 2
    for figures in measured.rounds:
        assert set(figures) == {1, 3}
        for jobs, runs in figures.items():
            assert len(runs) == len(WAYS)
            alone = runs[Generate.name]
            assert alone.jobs == min(jobs, 2)
            for run in (run for name, run in runs.items() if name != Generate.name):
                assert (run.jobs, run.tokens) == (jobs, 6 * jobs)
                assert list(run.texts[: alone.jobs]) == list(alone.texts)
                assert 0 < run.first_token_ms(50) <= run.first_token_ms(99) <= run.seconds * 1000
    report = describe(PLAN, measured, "python -m bench.engine")
    assert report.count("the same") == 6
    assert "(2 of 3 jobs measured)" in report


@pytest.mark.parametrize("extras", [[], ["ignore_eos"]], ids=["a strict server", "one that ignores the end"])
def test_an_openai_compatible_server_answers_beside_them(extras: list[str]) -> None:
    with ScriptedServer(extras=extras) as server:
        measured = measure(Plan("tiny", jobs=(3,), tokens=5, rounds=1, ways=("engine",), openai=f"{server.url}/v1"))
        asked = server.requests[-1]
    run = measured.rounds[0][3][OpenAIServer.name]
    assert run.tokens == 15
    assert set(run.texts) == {" w0 w1 w2 w3 w4"}
    assert ("ignore_eos" in asked) == bool(extras)


def test_a_simulated_card_takes_its_time_and_the_report_says_that_it_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.paced.STEP_SECONDS", 0.2)
    plan = Plan("paced-8b", jobs=(3,), tokens=5, rounds=1, ways=("engine",))
    measured = measure(plan)
    run = measured.rounds[0][3]["engine"]
    assert (run.jobs, run.tokens) == (3, 15)
    assert run.seconds >= 5 * 0.2
    assert "No card was there" in describe(plan, measured, "")
    assert "No card was there" not in describe(PLAN, measured, "")


def test_prompts_are_of_the_length_asked_for() -> None:
    measured = measure(Plan("tiny", jobs=(4,), tokens=2, prompt=(60, 100), rounds=1, ways=("engine",)))
    lengths = sorted(measured.prompts[4])
    assert lengths[0] >= 60
    assert lengths[-1] <= 110
    assert lengths[-1] - lengths[0] >= 20
