"""`python -m bench.ballast`: another process takes 60% of the card; the worker beside it takes no job till it lets go.

The worker has a tiny model, and NOWSERVING_MEMORY_LIMIT_BYTES lets all processes use 60% of the card together. It does
a job; the ballast comes, and the next job waits, by the gate's own word for `gpu_memory`; the ballast goes, and the job
is done.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from bench.errors import BenchError
from bench.process import ROOT, wait_until
from bench.whole import MODEL, WholeStack
from nowserving.client import Client
from nowserving.job import Status

FRACTION = 0.6
WAITS_SECONDS = 5.0
"""So long the job is watched while it must not be taken."""
SHOWN_WITHIN_SECONDS = 20
"""A worker says how its gate is with its next heartbeat."""
HELD = "held"


def main() -> int:
    """Print what was seen; 1 if the gate did not hold."""
    parser = argparse.ArgumentParser(prog="python -m bench.ballast", description="Close a gate from outside.")
    parser.add_argument("--device", default="cuda", help="cuda or cuda:N (cuda)")
    parser.add_argument("--hold", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("bench: torch finds no CUDA device here", file=sys.stderr)
        return 1
    if options.hold:
        hold(options.device)
        return 0
    try:
        total_bytes = torch.cuda.mem_get_info(options.device)[1]
        with WholeStack(entry(options.device), memory_limit_bytes=int(FRACTION * total_bytes)) as stack:
            print(check(stack, lambda: held_elsewhere(options.device)))
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


def entry(device: str) -> str:
    """The worker's model: next to nothing, so that all that counts is the ballast."""
    return f'engine = "bench.model:engine"\nsource = "tiny@{1 << 26}"\nslots = 4\ndevice = "{device}"\n'


def check(stack: WholeStack, ballast: Callable[[], AbstractContextManager[object]]) -> str:
    """What was seen, in a sentence. Raises BenchError if the gate did not close, hold, or open again."""
    with Client(stack.url) as client:

        def submit() -> str:
            return client.submit(MODEL, prompt="hello", max_new_tokens=8).id

        def done(job_id: str) -> bool:
            return client.get(job_id).status is Status.SUCCEEDED

        def closed() -> bool:
            return [worker["gate"]["reason"] for worker in client.workers()] == ["gpu_memory"]

        first = submit()
        wait_until(lambda: done(first), "done before the ballast", 60, stack.processes)
        with ballast():
            wait_until(closed, "closed for gpu_memory", SHOWN_WITHIN_SECONDS, stack.processes)
            second = submit()
            until = time.monotonic() + WAITS_SECONDS
            while time.monotonic() < until:
                if client.get(second).status is not Status.QUEUED:
                    raise BenchError(f"{second} was taken under the ballast")
                time.sleep(0.1)
        let_go = time.monotonic()
        wait_until(lambda: done(second), "done after the ballast", 60, stack.processes)
        return (
            f"closed for gpu_memory under a ballast of {FRACTION:.0%}; a job waited {WAITS_SECONDS:g} s untaken, and "
            f"was done {time.monotonic() - let_go:.1f} s after the ballast had gone"
        )


@contextmanager
def held_elsewhere(device: str) -> Iterator[None]:
    """A process of its own holds the ballast meanwhile."""
    command = [sys.executable, "-m", "bench.ballast", "--hold", "--device", device]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if process.stdout.readline().strip() != HELD:
            raise BenchError(f"{device} has no room for a ballast of {FRACTION:.0%}")
        yield
    finally:
        process.stdin.close()
        process.wait(60)


def hold(device: str) -> None:
    """Hold the ballast until stdin is closed."""
    total_bytes = torch.cuda.mem_get_info(device)[1]
    ballast = torch.empty(int(FRACTION * total_bytes), dtype=torch.uint8, device=device)
    torch.cuda.synchronize(device)
    print(HELD, flush=True)
    sys.stdin.read()
    del ballast


if __name__ == "__main__":
    sys.exit(main())
