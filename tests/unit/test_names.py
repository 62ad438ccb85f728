"""Names' addresses: asked for once, within a second, and never on the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from api import names
from api.names import Names

SOME = ["192.0.2.1"]


class Resolver:
    """Answers with what the test says; counts who is asked for."""

    def __init__(self, **known: object) -> None:
        self.asked: list[str] = []
        self.threads: set[int] = set()
        self.known = known

    def __call__(self, host: str, port: int) -> Any:
        self.asked.append(host)
        self.threads.add(threading.get_ident())
        answer = self.known.get(host.partition(".")[0], SOME)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, threading.Event):
            answer.wait(20)
            return SOME
        return answer


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(main())


def test_a_name_is_asked_for_once_and_off_the_loop() -> None:
    resolver = Resolver()

    async def main() -> None:
        known = Names(resolver)
        assert await asyncio.gather(*[known.find("a", 443) for _ in range(50)]) == [SOME] * 50
        assert await known.find("a", 443) == SOME
        assert threading.get_ident() not in resolver.threads

    run(main)
    assert resolver.asked == ["a"]


def test_it_is_asked_for_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "FRESH_SECONDS", 0.0)
    resolver = Resolver()

    async def main() -> None:
        known = Names(resolver)
        assert [await known.find("a", 443) for _ in range(3)] == [SOME] * 3

    run(main)
    assert resolver.asked == ["a"] * 3


@pytest.mark.parametrize("error", [OSError("no such name"), UnicodeError("label too long"), ValueError("no"), []])
def test_a_name_that_cannot_be_found_is_none_and_asked_for_again_soon(
    monkeypatch: pytest.MonkeyPatch, error: object
) -> None:
    resolver = Resolver(a=error, b=error)

    async def main() -> None:
        known = Names(resolver)
        assert [await known.find("a", 443) for _ in range(3)] == [None] * 3
        assert resolver.asked == ["a"]
        monkeypatch.setattr(names, "UNKNOWN_SECONDS", 0.0)
        assert await known.find("b", 443) is None
        del resolver.known["b"]
        assert await known.find("b", 443) == SOME

    run(main)


def test_a_resolver_that_hangs_holds_nobody_longer_than_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "WITHIN_SECONDS", 0.05)
    release = threading.Event()
    resolver = Resolver(slow=release)

    async def main() -> None:
        known = Names(resolver)
        assert await asyncio.wait_for(known.find("slow", 443), 5) is None
        assert await known.find("quick", 443) == SOME
        # Known to be silent for now.
        assert await known.find("slow", 443) is None
        assert resolver.asked == ["slow", "quick"]
        release.set()

    run(main)


def test_only_so_many_threads_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "WITHIN_SECONDS", 0.05)
    monkeypatch.setattr(names, "MAX_ASKED", 2)
    release = threading.Event()
    resolver = Resolver(slow=release)

    async def main() -> None:
        known = Names(resolver)
        found = await asyncio.gather(*[known.find(f"slow.{i}", 443) for i in range(9)])
        assert found == [None] * 9
        assert len(resolver.asked) == 2
        release.set()

    run(main)


def test_only_so_many_names_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "MAX_NAMES", 3)
    resolver = Resolver()

    async def main() -> None:
        known = Names(resolver)
        for host in ("a", "b", "c", "d", "d", "c", "b", "a", "b"):
            await known.find(host, 443)

    run(main)
    assert resolver.asked == ["a", "b", "c", "d", "a", "b"]
