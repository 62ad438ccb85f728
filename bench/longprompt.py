"""`python -m bench.longprompt`: what seven running chats feel of a long prompt beside them, through the whole stack.

SmolLM2 in float32 on one thread, watched over HTTP alone; a job waiting for a slot tells how soon a cancel frees one.
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise

from bench.errors import BenchError
from bench.machine import Watch, describe_device, describe_machine
from bench.memory import WORDS
from bench.process import Process, wait_until
from bench.whole import MODEL, WholeStack
from nowserving.client import ApiError, Client
from nowserving.event import is_terminal

CHATS = 7
ENTRY = f'engine = "transformers"\nsource = "builtin:smollm2"\ndtype = "float32"\nthreads = 1\nslots = {CHATS + 1}'
LONGEST_SECONDS = 600.0
CHAT_TOKENS = 4000
"""More than a chat makes while it is watched."""
LONG_TOKENS = 20
CALM_SECONDS = 3.0
CANCEL_AFTER_SECONDS = 5.0


@dataclass
class Listener:
    """One job's events as they come, read on a thread of their own: monotonic seconds and type."""

    job_id: str
    seen: list[tuple[float, str]] = field(default_factory=list)

    def listen(self, client: Client) -> None:
        """Read to the job's end."""
        for event in client.stream(self.job_id):
            self.seen.append((time.monotonic(), event.type))

    def when(self, kind: str) -> float | None:
        """When the first event of this type came."""
        return next((at for at, seen in list(self.seen) if seen == kind), None)

    def tokens_at(self, since: float, until: float) -> Sequence[float]:
        """When token events came in this span."""
        return [at for at, kind in list(self.seen) if kind == "token" and since < at < until]

    def longest_pause_seconds(self, since: float, until: float) -> float:
        """The longest time without a token in this span, from and to its edges too."""
        if any(is_terminal(kind) and at < until for at, kind in list(self.seen)):
            raise BenchError(f"{self.job_id} ended while it was watched")
        return max(later - earlier for earlier, later in pairwise([since, *self.tokens_at(since, until), until]))

    @property
    def starts(self) -> int:
        """How often it was started: once, unless a lease was lost."""
        return sum(kind == "started" for _, kind in list(self.seen))


class Scene:
    """The jobs on one stack, each listened to."""

    def __init__(self, client: Client, processes: Sequence[Process]) -> None:
        self.client = client
        self.listeners: list[Listener] = []
        self._threads: list[threading.Thread] = []
        self._processes = processes

    def submit(self, prompt: str, new_tokens: int) -> Listener:
        """Submit a job and listen to it."""
        job = self.client.submit(MODEL, prompt, timeout_seconds=LONGEST_SECONDS, max_new_tokens=new_tokens)
        listener = Listener(job.id)
        self.listeners.append(listener)
        self._threads.append(threading.Thread(target=listener.listen, args=(self.client,), daemon=True))
        self._threads[-1].start()
        return listener

    def chat(self) -> Listener:
        """A job that makes tokens for longer than anyone watches, unlike any other."""
        return self.submit(f"Once upon a time {_words(12, len(self.listeners))}", CHAT_TOKENS)

    def wait_for(self, listener: Listener, kind: str) -> float:
        """Wait for the job's first event of this type; when it came."""
        wait_until(lambda: listener.when(kind) is not None, kind, LONGEST_SECONDS, self._processes)
        return next(at for at, seen in listener.seen if seen == kind)

    def cancel(self, listener: Listener) -> float:
        """Seconds from the POST until a job that waited for this one's slot was started."""
        waiting = self.chat()
        posted_at = time.monotonic()
        self.client.cancel(listener.job_id)
        return self.wait_for(waiting, "started") - posted_at

    def close(self) -> None:
        """Cancel what runs; returns when all has been read."""
        for listener in self.listeners:
            with suppress(ApiError):  # it has ended
                self.client.cancel(listener.job_id)
        for thread in self._threads:
            thread.join(LONGEST_SECONDS)


def measure(scene: Scene, prompt_tokens: int) -> Mapping[str, str]:
    """The table's rows. Needs CHATS + 1 free slots."""
    chats = [scene.chat() for _ in range(CHATS)]
    calm_at = max(scene.wait_for(chat, "token") for chat in chats)
    time.sleep(CALM_SECONDS)
    submitted_at = time.monotonic()
    long = scene.submit(_words(prompt_tokens, seed=1), LONG_TOKENS)
    first_at = scene.wait_for(long, "token")
    calm, pauses = (
        [chat.longest_pause_seconds(*span) for chat in chats]
        for span in ((calm_at, submitted_at), (submitted_at, first_at))
    )
    made = [len(chat.tokens_at(submitted_at, first_at)) for chat in chats]
    usage = (scene.client.wait(long.job_id, LONGEST_SECONDS).output or {})["usage"]
    again = scene.submit(_words(prompt_tokens, seed=2), LONG_TOKENS)
    scene.wait_for(again, "started")
    time.sleep(CANCEL_AFTER_SECONDS)
    chat_seconds = scene.cancel(chats[0])
    long_seconds = scene.cancel(again)
    if again.when("token") is not None:
        raise BenchError("the prompt was too short to be canceled while it is read")
    scene.close()
    return {
        "long prompt, tokens": str(usage["prompt_tokens"]),
        "… submitted to its first token, s": f"{first_at - submitted_at:.1f}",
        f"longest pause of {CHATS} chats before it, s": f"{max(calm):.2f}",
        "longest pause of these while it is read, s": f"{max(pauses):.2f}",
        "… token events of each meanwhile": f"{min(made)} to {max(made)}",
        "cancel of a chat meanwhile, to the next job's start, s": f"{chat_seconds:.2f}",
        "cancel of a long prompt, to the next job's start, s": f"{long_seconds:.2f}",
        "leases lost (jobs started twice)": str(sum(listener.starts > 1 for listener in scene.listeners)),
    }


def _words(count: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS.split(), k=count))


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.longprompt", description="Measure a long prompt beside chats."
    )
    parser.add_argument("--tokens", type=int, default=8000, help="tokens of the prompt (8000; the context has 8192)")
    options = parser.parse_args()
    try:
        with WholeStack(ENTRY) as stack, Client(f"http://127.0.0.1:{stack.port}") as client:
            watch = Watch([stack])
            rows = measure(Scene(client, stack.processes), options.tokens)
            others_cores = watch.others_cores()
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    width = max(map(len, rows))
    print("\n".join(f"{name:<{width}}  {figure}" for name, figure in rows.items()))
    print(f"{describe_machine([others_cores])}\n{describe_device('cpu', 1)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
