import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers import pod
from workers.pod import BUSY, IDLE, IDLE_SECONDS, LONGEST_PAUSE_SECONDS, Pod, choose, find_pod, pause_seconds


@pytest.mark.parametrize(
    ("written", "quiet_seconds", "expected"),
    [
        (None, None, True),
        (False, None, True),
        (True, None, None),
        (None, IDLE_SECONDS, False),
        (True, IDLE_SECONDS, False),
        (True, IDLE_SECONDS - 0.1, None),
        (None, 0.0, None),
        (False, 1e9, None),
    ],
)
def test_busy_is_written_at_once_and_idle_after_a_while(
    written: bool | None, quiet_seconds: float | None, expected: bool | None
) -> None:
    assert choose(written, quiet_seconds) is expected


@given(st.lists(st.tuples(st.floats(0.0, 20.0), st.booleans()), max_size=60))
def test_however_jobs_come_and_go_there_are_two_words_for_each_quiet_while(edges: list[tuple[float, bool]]) -> None:
    now, since, written, words, rests = 0.0, 0.0, None, 0, 0
    for seconds, busy in edges:
        until = now + seconds
        quiet = None if busy else until - since
        rests += quiet is not None and quiet >= IDLE_SECONDS
        chosen = choose(written, quiet)
        if chosen is not None:
            written, words = chosen, words + 1
            assert chosen is busy
        now, since = until, until if busy else since
    assert words <= 2 * rests + 1


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_pauses_grow_to_a_minute_and_differ(failures: int, chance: float) -> None:
    pause = pause_seconds(failures, chance)
    assert 1 <= pause <= LONGEST_PAUSE_SECONDS
    assert pause_seconds(failures, 0) * 2 == pause_seconds(failures, 1)
    assert pause_seconds(failures + 1, chance) >= pause


def test_the_first_word_is_at_once_since_a_container_before_this_one_may_have_left_another(
    account: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, told = [], threading.Event()

    def patch(self: Pod, annotations: Mapping[str, str | None]) -> int:
        said.append(annotations)
        return 200

    monkeypatch.setattr(Pod, "_patch", patch)
    pod = Pod("https://127.0.0.1", account, lambda: 0.0, lambda result: told.set())
    pod.start()
    assert told.wait(2)
    pod.stop()
    assert said == [IDLE]


def test_busy_and_idle_say_the_same_things() -> None:
    assert BUSY.keys() == IDLE.keys()
    assert int(BUSY["controller.kubernetes.io/pod-deletion-cost"]) > 0


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "token").write_text("secret")
    monkeypatch.setattr(pod, "ACCOUNT", tmp_path)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    monkeypatch.setenv("POD_NAME", "worker-1")
    monkeypatch.setenv("POD_NAMESPACE", "team-a")
    return tmp_path


def url() -> str:
    found = find_pod(lambda: None, lambda result: None)
    return found.url if found else ""


def test_a_pod_is_found_by_what_kubernetes_says(account: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = "pods/worker-1?fieldManager=nowserving-worker"
    assert url() == f"https://10.0.0.1:6443/api/v1/namespaces/team-a/{path}"
    monkeypatch.delenv("KUBERNETES_SERVICE_PORT")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    assert url() == f"https://[fd00::1]:443/api/v1/namespaces/team-a/{path}"


@pytest.mark.parametrize("missing", ["KUBERNETES_SERVICE_HOST", "POD_NAME", "POD_NAMESPACE", "token"])
def test_outside_of_a_pod_there_is_none(account: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    if missing == "token":
        (account / "token").unlink()
    else:
        monkeypatch.delenv(missing)
    assert url() == ""
