from __future__ import annotations

import time
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from nowserving.cli.stage import Stage
from nowserving.cli.takeover import SETTLE_SECONDS, Takeover
from nowserving.cli.watch import Watched
from nowserving.client import JobEvent

FIRST, SECOND = "host:11:aaaaaa", "host:22:bbbbbb"


class Killer:
    """In place of a stack: notes who is killed."""

    def __init__(self) -> None:
        self.killed: list[str] = []

    def kill_worker(self, worker: str) -> int:
        self.killed.append(worker)
        return 11


class Scene:
    """A takeover told event by event, and what it has printed."""

    def __init__(self) -> None:
        self.file = StringIO()
        self.killer = Killer()
        self.chat = Watched(2, "hello")
        stack: Any = self.killer
        interrupt: Any = None
        stage = Stage(Console(file=self.file, width=40), stack, interrupt, deadline=0)
        self.takeover = Takeover(stage, self.chat, kill_after_tokens=2)

    def tell(self, kind: str, **data: object) -> None:
        self.takeover.note(JobEvent("1-0", kind, data), time.monotonic())

    def write(self, index: int, text: str) -> None:
        self.tell("token", ids=[index], index=index, text=text)

    @property
    def printed(self) -> str:
        return self.file.getvalue()


@pytest.fixture
def scene() -> Scene:
    scene = Scene()
    scene.tell("queued")
    scene.tell("started", worker=FIRST)
    scene.write(0, "\nA")
    return scene


def test_the_worker_is_killed_and_another_goes_on_at_the_next_token_on_the_same_line(scene: Scene) -> None:
    assert scene.killer.killed == []
    scene.write(1, " b")
    assert scene.killer.killed == [FIRST]
    scene.tell("queued", cause="worker_lost")
    scene.tell("started", worker=SECOND)
    scene.write(2, " c")
    scene.write(3, " d")
    assert scene.killer.killed == [FIRST]
    assert scene.takeover.resumed
    killed, resumed = "[worker 11 killed with -9 after token 2]", "[worker 22 goes on at token 3, 0.0 s later]"
    assert scene.printed == f"   A b {killed} {resumed} c d"


def test_it_is_killed_within_a_sentence_not_at_its_end(scene: Scene) -> None:
    scene.write(1, " b. ")
    assert scene.killer.killed == []
    scene.write(2, "C")
    assert scene.killer.killed == [FIRST]


def test_tokens_written_before_the_death_but_seen_after_it_are_the_dead_workers(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.write(1, " b")
    scene.takeover.look()
    scene.write(2, " c")
    assert "killed" not in scene.printed
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + SETTLE_SECONDS + 0.1)
    scene.takeover.look()
    scene.takeover.look()
    assert scene.printed == "   A b c [worker 11 killed with -9 after token 3]"
    assert not scene.takeover.resumed


def test_lines_of_the_text_are_indented(scene: Scene) -> None:
    scene.write(1, "\nb")
    assert scene.printed == "   A\n   b"
