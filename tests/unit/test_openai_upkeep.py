"""The life of a server: its start, its deaths, its health, its environment, what it says of itself."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest

from nowserving.errors import EngineError, EngineLostError
from tests.child_process import ROOT
from tests.conftest import Eventually
from tests.openai_engine import IMPATIENT, QUICK, SCRIPTED, child, model_of, prompt_of, running, submit, words
from tests.scripted_server import ScriptedServer
from workers.engines.engine import FinishReason
from workers.engines.openai import OpenAIEngine
from workers.engines.openai_dialect import LADDER
from workers.engines.server import LINES_PER_SECOND, ServerProcess

WORKER = {"PATH": os.environ["PATH"], "NOWSERVING_REDIS_URL": "redis://secret", "AWS_SECRET": "x", "MY_TOKEN": "t"}


def server_pids(parent: int | None = None) -> list[int]:
    """The scripted servers among a process's descendants."""
    found = []
    for process in psutil.Process(parent).children(recursive=True):
        try:
            words_of = process.cmdline()
        except psutil.Error:
            continue
        if "tests.scripted_server" in words_of and not any("server_leash" in word for word in words_of):
            found.append(process.pid)
    return found


def test_a_dead_child_is_started_again_and_its_jobs_are_given_back(eventually: Eventually) -> None:
    with running(child('{"seconds": 0.01}'), WORKER) as engine:
        jobs = [submit(engine, prompt_of(f"say 100{n}", max_new_tokens=1000)) for n in range(3)]
        assert all(job.first.wait(5) for job in jobs)
        [pid] = server_pids()
        os.kill(pid, signal.SIGKILL)
        assert [type(job.end().error) for job in jobs] == [EngineLostError] * 3
        health = engine.health()
        assert health.alive
        assert "SIGKILL" in health.away or "starts" in health.away
        late = submit(engine, prompt_of("say 3")).end()
        assert late.error is None or type(late.error) is EngineLostError
        eventually(lambda: engine.health().away == "", 10)
        assert server_pids() != [pid]
        assert submit(engine, prompt_of("say 3")).end().text == words(0, 3)
    assert not server_pids()


def test_a_job_that_comes_back_before_its_first_attempt_has_ended_ends_too() -> None:
    with ScriptedServer() as server, running(model_of(url=server.url)) as engine:
        prompt = prompt_of("say 1000", max_new_tokens=1000)
        first = submit(engine, prompt)
        assert first.first.wait(5)
        engine.cancel(prompt.job_id)
        second = submit(engine, prompt)
        assert first.end().reason is FinishReason.CANCELED
        assert second.first.wait(5)
        engine.cancel(prompt.job_id)
        assert second.end().reason is FinishReason.CANCELED


def test_a_job_for_a_server_that_is_away_is_charged_nothing(eventually: Eventually) -> None:
    with ScriptedServer() as server, running(model_of(url=server.url)) as engine:
        server.quirks.health = 500
        eventually(lambda: engine.health().away)
        assert re.search("/health answers 500", engine.health().away)
        heard = submit(engine, prompt_of("say 3"))
        assert type(heard.end().error) is EngineLostError
        assert heard.begins == []
        server.quirks.health = 200
        eventually(lambda: engine.health().away == "")
        assert submit(engine, prompt_of("say 3")).end().text == words(0, 3)


def test_a_job_that_never_reached_the_server_has_not_begun(eventually: Eventually) -> None:
    with ScriptedServer() as server, running(model_of(url=server.url), rhythm=replace(QUICK, look=3.0)) as engine:
        server.stop()  # nobody has looked since
        heard = submit(engine, prompt_of("say 3"))
        assert type(heard.end().error) is EngineLostError
        assert heard.begins == []
        assert "cannot be reached" in engine.health().away


def test_a_server_that_is_seen_dead_takes_its_jobs_along(eventually: Eventually) -> None:
    patience = replace(IMPATIENT, stall=60.0)
    with ScriptedServer() as server, running(model_of(url=server.url), patience=patience) as engine:
        heard = submit(engine, prompt_of("hang 9"))
        assert heard.first.wait(5)
        server.quirks.health = 500
        end = heard.end(5)
        assert type(end.error) is EngineLostError
        assert end.text == heard.text == words(0, 3)


def test_a_server_that_is_slow_to_answer_but_makes_tokens_lives() -> None:
    with ScriptedServer(seconds=0.05) as server, running(model_of(url=server.url)) as engine:
        server.quirks.look_seconds = 60.0
        heard = submit(engine, prompt_of("say 50", max_new_tokens=100))
        assert heard.end().text == words(0, 50)  # 2.5 s, and without a token it would be dead after 1


def test_a_job_that_kills_its_server_had_begun(eventually: Eventually) -> None:
    with running(child(), WORKER) as engine:
        heard = submit(engine, prompt_of("die"))
        assert type(heard.end().error) is EngineLostError
        assert heard.begins == [0]
        eventually(lambda: engine.health().away == "", 10)


def test_after_quick_deaths_in_a_row_it_is_given_up(eventually: Eventually) -> None:
    with running(child('{"die_after_seconds": 0.6}'), WORKER) as engine:
        eventually(lambda: not engine.health().alive, 30)
        assert "died 3 times in a row" in engine.health().reason
        assert "ended with exit code 3: it serves" in engine.health().reason
        with pytest.raises(EngineError, match="3 times"):
            submit(engine, prompt_of("say 3"))


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (model_of(command=["no-such-program", "{port}"]), "'no-such-program' is not found"),
        (model_of(command=["false", "{port}"]), "died 3 times .* ended with exit code 1"),
        (child('{"chat": false, "completions": false}'), r"fails to generate: the server refuses it \(404\)"),
        (child('{"key": "secret"}'), r"\(401\): no such key"),
        (child('{"fail_warm_up": 503}', start_timeout_seconds=1.0), r"was not ready in 1 s: .*503.*not loaded"),
        (child('{"health": 503}', start_timeout_seconds=1.0), "was not ready in 1 s: .*/health answers 503"),
        (model_of(url="http://127.0.0.1:9", start_timeout_seconds=0.5), "was not ready in 0.5 s: .*cannot be reached"),
    ],
)
def test_a_server_that_does_not_come_up_is_one_sentence(model: object, says: str) -> None:
    with pytest.raises(EngineError, match=says), running(model, WORKER):  # type: ignore[arg-type]
        pytest.fail("it is up")
    assert not server_pids()


def test_a_hanging_child_is_killed_and_started_again(eventually: Eventually) -> None:
    with running(child(), WORKER) as engine:
        heard = submit(engine, prompt_of("hang 9"))
        [pid] = server_pids()
        os.kill(pid, signal.SIGSTOP)
        assert heard.end().error is not None
        eventually(lambda: "does not answer" in engine.health().away, 10)
        assert engine.health().alive
        eventually(lambda: engine.health().away == "", 10)
        assert server_pids() != [pid]


def test_the_child_sees_nothing_of_the_worker_but_what_is_safe() -> None:
    table = {"environment": {"PYTHONPATH": str(ROOT), "TOKEN": "${MY_TOKEN}", "PLACE": "x:{port}"}}
    with running(model_of(command=SCRIPTED, **table), WORKER) as engine:
        server = engine._upkeep.server
        assert server is not None
        url = server.client.base_url
        seen = httpx.get(url.join("/environment")).json()
    assert seen.keys() - {"LC_CTYPE"} == {"PATH", "PYTHONPATH", "TOKEN", "PLACE"}  # Python sets LC_CTYPE
    assert (seen["TOKEN"], seen["PLACE"]) == ("t", f"x:{url.port}")
    with pytest.raises(EngineError, match=r"environment.TOKEN is to be \$\{MY_TOKEN\}"):
        OpenAIEngine(model_of(command=SCRIPTED, **table), {})


def test_an_api_key_comes_from_the_environment() -> None:
    with ScriptedServer(key="k") as server:
        model = model_of(url=server.url + "/v1/", api_key_env="KEY")
        with running(model, {"KEY": "k"}) as engine:
            assert submit(engine, prompt_of("say 3")).end().text == words(0, 3)
    with pytest.raises(EngineError, match="api_key_env names KEY"):
        OpenAIEngine(model, {})


def test_the_server_dies_with_a_worker_that_is_killed(eventually: Eventually) -> None:
    script = """if True:
        import time
        from tests.openai_engine import child, running
        with running(child()):
            print("up", flush=True)
            time.sleep(60)
    """
    worker = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=ROOT)
    assert worker.stdout is not None
    assert worker.stdout.readline() == b"up\n"
    [pid] = server_pids(worker.pid)
    os.kill(pid, signal.SIGSTOP)  # it takes no heed of anything but a kill
    worker.kill()
    worker.wait()
    worker.stdout.close()
    eventually(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, 10)


def test_what_the_server_has_started_ends_with_it(tmp_path: Path, eventually: Eventually) -> None:
    file = tmp_path / "pid"
    process = ServerProcess(["sh", "-c", f"sleep 60 & echo $! > {file}; wait; : {{port}}"], WORKER, "m")
    eventually(lambda: file.exists() and file.read_text().strip())
    grandchild = int(file.read_text())
    process.stop()
    eventually(lambda: not psutil.pid_exists(grandchild) or psutil.Process(grandchild).status() == "zombie")


def test_its_output_is_logged_with_its_name_and_bounded(
    caplog: pytest.LogCaptureFixture, eventually: Eventually
) -> None:
    caplog.set_level("INFO", "workers")
    loud = "import sys\nfor n in range(10**5): print('x' * 5000)\nsys.stderr.write('the end')\nsys.exit(5)"
    process = ServerProcess([sys.executable, "-c", loud, "{port}"], WORKER, "m's server")
    eventually(lambda: process.poll() is not None, 30)
    assert process.poll() == "the server ended with exit code 5: the end"
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "m's server: " + "x" * 500
    assert LINES_PER_SECOND <= len(lines) < 10_000
    assert max(map(len, lines)) < 550
    process.stop()


@pytest.mark.parametrize(("extras", "rung"), [(["stream_options"], 1), ([], 3)])
def test_what_a_strict_server_does_not_know_is_not_sent(extras: list[str], rung: int) -> None:
    with ScriptedServer(extras=extras) as server, running(model_of(url=server.url)) as engine:
        assert engine._upkeep.dialect.extras == LADDER[rung]
        assert submit(engine, prompt_of("say 5")).end().text == words(0, 5)
        prompt = prompt_of("say 30", made=[-1] * 3, made_text=words(0, 3), chat=True)
        assert engine.prepare(prompt).prompt.made == (), "what it cannot go on from begins anew"


def test_without_health_its_models_are_asked(eventually: Eventually) -> None:
    with ScriptedServer(health_path="/none") as server, running(model_of(url=server.url)) as engine:
        steps = engine.health().steps
        eventually(lambda: engine.health().steps > steps + 3)
        assert engine.health().full == ""


def test_the_gate_follows_the_servers_metrics(eventually: Eventually) -> None:
    page = 'vllm:cache_config_info{{block_size="16",num_gpu_blocks="10"}} 1.0\nvllm:kv_cache_usage_perc {}\n'
    with ScriptedServer(metrics=page.format(0.1), context=100) as server, running(model_of(url=server.url)) as engine:
        capacity = engine.capacity()
        assert (capacity.context_tokens, capacity.budget_bytes) == (100, 160)
        assert engine.cost([50, 5000]) == 150
        assert engine.prepare(prompt_of("say 5", max_new_tokens=20)).tokens == 26
        assert engine.prepare(prompt_of("say 5" * 100, max_new_tokens=20)).tokens == 100
        server.quirks.metrics = page.format(0.99)
        eventually(lambda: engine.health().full == "the server's KV cache is 99% full")
        assert engine.health().alive
        server.quirks.metrics = page.format(0.5)
        eventually(lambda: engine.health().full == "")
        server.quirks.metrics = None
        steps = engine.health().steps
        eventually(lambda: engine.health().steps > steps + 3)
        assert engine.health().full == ""
