"""The ballast's check, with a file that says how much of the memory is used in place of a card."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench import ballast
from bench.errors import BenchError
from bench.whole import WholeStack

TOTAL_BYTES = 1 << 30


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[WholeStack]:
    limit_bytes = int(ballast.FRACTION * TOTAL_BYTES)
    memory = f"file:{tmp_path / 'memory'}"
    with WholeStack(ballast.entry("cpu"), memory_probe=memory, memory_limit_bytes=limit_bytes) as running:
        yield running


def test_a_ballast_closes_the_gate_until_it_goes(
    stack: WholeStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = tmp_path / "memory"

    @contextmanager
    def held(used_bytes: float) -> Iterator[None]:
        memory.write_text(f"{int(used_bytes)} {TOTAL_BYTES}")
        yield
        memory.write_text(f"0 {TOTAL_BYTES}")

    monkeypatch.setattr(ballast, "WAITS_SECONDS", 1.0)
    said = ballast.check(stack, lambda: held(1.01 * ballast.FRACTION * TOTAL_BYTES))
    assert said.startswith("closed for gpu_memory under a ballast of 60%; a job waited 1 s untaken")
    monkeypatch.setattr(ballast, "SHOWN_WITHIN_SECONDS", 1)
    with pytest.raises(BenchError, match="not closed for gpu_memory within 1 s"):
        ballast.check(stack, lambda: held(0.5 * ballast.FRACTION * TOTAL_BYTES))
