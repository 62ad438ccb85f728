import gc
import importlib
from pathlib import Path

import pytest

from nowserving.catalog import Model
from nowserving.errors import EngineError, TooLargeError
from nowserving.job import Input, Parameters
from tests.tiny import Collected
from workers.engines.engine import Ended, FinishReason, Prompt
from workers.engines.load import make_engine
from workers.engines.noop import NoopEngine, parse_source


def prompt_of(name: str = "a", made: tuple[int, ...] = (), new: int = 100, timeout_seconds: float = 60) -> Prompt:
    return Prompt(name, Input(prompt="hello"), Parameters(max_new_tokens=new, seed=1), timeout_seconds, made)


def run(engine: NoopEngine, prompt: Prompt) -> Collected:
    sink = Collected()
    engine.submit(engine.prepare(prompt), sink)
    return sink


@pytest.mark.parametrize("interval_seconds", [0.0, 0.001])
def test_a_job_has_its_words_its_count_and_one_end(interval_seconds: float) -> None:
    engine = NoopEngine(2, tokens=3, interval_seconds=interval_seconds)
    engine.start()
    sink = run(engine, prompt_of())
    assert sink.wait() == Ended(FinishReason.LENGTH, "w0 w1 w2", 5, 3)
    assert sink.text == "w0 w1 w2"
    assert sink.ids == (0, 1, 2)
    resumed = run(engine, prompt_of(made=(0, 1)))
    assert resumed.wait() == sink.wait()
    assert resumed.batches == sink.batches[2:]
    assert run(engine, prompt_of(new=2)).wait().text == "w0 w1"
    engine.close()
    assert not engine.health().alive
    with pytest.raises(EngineError):
        run(engine, prompt_of())


def test_cancel_timeout_and_close_end_jobs() -> None:
    engine = NoopEngine(4, tokens=10_000, interval_seconds=0.005)
    engine.start()
    sinks = [run(engine, prompt_of(name, new=10_000)) for name in "abc"]
    late = run(engine, prompt_of("d", new=10_000, timeout_seconds=0.02))
    sinks[0].wait_for_tokens(2)
    engine.cancel("a")
    assert sinks[0].wait().reason is FinishReason.CANCELED
    assert late.wait().reason is FinishReason.TIMEOUT
    assert not sinks[1].ends
    engine.close()
    assert [sink.wait().reason for sink in sinks[1:]] == [FinishReason.CANCELED] * 2


def test_jobs_pace_beside_one_another() -> None:
    engine = NoopEngine(8, tokens=5, interval_seconds=0.01)
    engine.start()
    sinks = [run(engine, prompt_of(str(index))) for index in range(8)]
    assert [sink.wait().text for sink in sinks] == ["w0 w1 w2 w3 w4"] * 8
    assert engine.health().steps > 0
    engine.close()


def test_its_source_says_its_options() -> None:
    assert parse_source("") == parse_source("noop") == {}
    assert parse_source("noop:20@0.05") == {"tokens": 20, "interval_seconds": 0.05}
    assert parse_source("noop:20@0.05,1000/50000") == {
        "tokens": 20,
        "interval_seconds": 0.05,
        "bytes_per_token": 1000,
        "budget_bytes": 50000,
    }
    assert parse_source("noop:,10") == {"bytes_per_token": 10}
    for wrong in ("noop:x", "noop:3@", "noop:3@1.2.3", "20s"):
        with pytest.raises(EngineError, match=r"noop:20@0\.05"):
            parse_source(wrong)


def test_its_ledger() -> None:
    engine = NoopEngine(2, bytes_per_token=10, budget_bytes=1000)
    assert engine.cost([3, 4]) == 70
    assert engine.capacity().budget_bytes == 1000
    with pytest.raises(TooLargeError, match="it needs 1050 bytes, there are 1000"):
        engine.prepare(prompt_of(new=100))


def test_the_catalog_names_the_engine() -> None:
    engine = make_engine(Model(name="m", engine="noop", source="noop:4@0.5", slots=3), Path())
    assert isinstance(engine, NoopEngine)
    assert engine.capacity().slots == 3
    own = make_engine(Model(name="m", engine=f"{__name__}:Own"), Path())
    assert isinstance(own, Own)
    assert own.model.name == "m"
    with pytest.raises(EngineError, match="cannot be imported"):
        make_engine(Model(name="m", engine="no_such_package.module:Engine"), Path())
    with pytest.raises(EngineError, match=r"package\.module:Class"):
        make_engine(Model.model_construct(name="m", engine="vllm", source=""), Path())


class Own(NoopEngine):
    def __init__(self, model: Model) -> None:
        super().__init__(model.slots)
        self.model = model


def test_the_collector_rests_while_an_engine_is_imported_and_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = gc.get_threshold()
    asks = (
        "import gc\nWHILE = gc.get_threshold()\nclass Engine:\n def __init__(self, _): self.made = gc.get_threshold()"
    )
    tunes = "import gc\ngc.set_threshold(50_000, 5, 5)\nclass Engine:\n def __init__(self, _): pass"
    for name, body in (("asking", asks), ("broken", "import no_such_package"), ("tuning", tunes)):
        (tmp_path / f"{name}_engine.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    made = make_engine(Model(name="m", engine="asking_engine:Engine"), Path())
    assert vars(made) == {"made": usual}
    assert importlib.import_module("asking_engine").WHILE[0] == 0
    with pytest.raises(EngineError, match="no_such_package"):
        make_engine(Model(name="m", engine="broken_engine:Engine"), Path())
    assert gc.get_threshold() == usual
    try:
        make_engine(Model(name="m", engine="tuning_engine:Engine"), Path())
        assert gc.get_threshold() == (50_000, 5, 5)
    finally:
        gc.set_threshold(*usual)


def test_a_noop_worker_needs_no_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys, workers.engines.noop, workers.engines.load, workers.memory as m; m.make_probe('auto').read(); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
