"""A real worker whose card is smaller than its probe says, or whose probe fails: no job has to do with it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from nowserving import verb
from nowserving.job import Input, Parameters, Status
from nowserving.store import Store
from tests.board import texts
from tests.oracle import Oracle
from tests.tiny import make_model, make_tokenizer
from tests.worker_process import MODEL, WorkerProcess, enqueue, look, noop, statuses, workers
from workers.engines.engine import Prompt
from workers.engines.text import BROKEN

Eventually = Callable[..., None]
CATALOG = f'[models.{MODEL}]\nengine = "tests.tight:make"\nslots = 8\nmemory_fraction = 1.0\n'
JOBS = 24


def test_a_probe_that_hides_a_tenth_of_the_card_fails_no_job_and_changes_no_text(
    live: Store, redis_url: str, tmp_path: Path, eventually: Eventually
) -> None:
    chance = random.Random(1)
    prompts = {}
    for index in range(JOBS):
        parameters = {"max_new_tokens": chance.randint(60, 180), "temperature": chance.choice([0, 1.2]), "seed": index}
        text = f"{index} " + "abc " * chance.randint(1, 10)
        job_id = enqueue(live, text, parameters=parameters)
        prompts[job_id] = Prompt(job_id, Input(prompt=text), Parameters.model_validate(parameters), 60)
    ids = list(prompts)
    with WorkerProcess(redis_url, tmp_path, CATALOG, memory_probe="tests.tight:Probe") as worker:
        eventually(lambda: statuses(live, ids) == {"succeeded": JOBS}, 60)
        assert "out of memory: " in worker.output()
    oracle = Oracle(make_model(), make_tokenizer())
    for job_id, prompt in prompts.items():
        job = look(live, job_id)
        made = oracle.generate(prompt, oracle.encode(prompt.input.prompt or ""))
        truth = oracle.tell(made, prompt.parameters, ())
        assert (job.status, job.error) == (Status.SUCCEEDED, None)
        assert (job.output or {})["text"].rstrip(BROKEN) == truth.text
        kinds = [event.type for event in live.run(verb.read_events({job_id: "0"}))[job_id]]
        assert kinds.count("started") == kinds.count("succeeded") == 1
        assert not {"queued", "restarted"}.intersection(kinds[1:])


def test_a_probe_that_fails_closes_the_gate_and_costs_no_running_job_its_lease(
    live: Store, redis_url: str, tmp_path: Path, eventually: Eventually
) -> None:
    probe = tmp_path / "memory"
    probe.write_text("0 1000")
    catalog = noop(source="noop:60@0.05")
    with WorkerProcess(redis_url, tmp_path, catalog, memory_probe=f"file:{probe}", lease_seconds=1.0) as worker:
        running = enqueue(live, parameters={"max_new_tokens": 60})
        eventually(lambda: ("token", 0) in texts(live, running), 20)  # before it, the job would rightly be given back
        probe.unlink()
        probe.mkdir()
        eventually(lambda: workers(live)[0]["gate"] == {"open": False, "reason": "gpu_memory"}, 10)
        eventually(lambda: look(live, running).status is Status.SUCCEEDED, 10)
        assert look(live, running).takes == 1
        assert "the memory cannot be read" in worker.output()
        probe.rmdir()
        eventually(lambda: workers(live)[0]["gate"] == {"open": True, "reason": None}, 10)
