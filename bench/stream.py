"""`python -m bench.stream`: how long a token takes from the engine that has made it to the readers of its job's events.

Exit code 1 if a reader did not get every token once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import quantiles
from typing import Any

import uvloop

from bench.connection import connect
from bench.cpu import Cpu
from bench.errors import BenchError
from bench.machine import Watch, describe_machine
from bench.process import wait_until
from bench.stack import QUIET_API
from bench.stacks import Nowserving
from bench.stamped import FILE

PATIENCE_SECONDS = 600
_TOKEN = re.compile(rb"event: token\ndata: (\{[^\n]*\})\n")
_END = re.compile(rb"event: (succeeded|failed|canceled|expired)\n")


@dataclass(frozen=True, slots=True)
class Size:
    """What is run: so many jobs at once of so many tokens each, with so many readers of each."""

    source: str
    jobs: int
    readers: int
    tokens: int


class Streaming(Nowserving):
    """This checkout with an engine that stamps its tokens, and a worker that is started when all readers listen."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size

    def start(self) -> None:
        """Run uvicorn."""
        models = self.folder / "models.toml"
        model = f'source = "{self.size.source}"\nslots = {self.size.jobs}\nthreads = 1\n'
        models.write_text(f'[models.noop]\nengine = "bench.stamped:Stamped"\n{model}')
        self.stamps = self.folder / "stamps"
        self._env = {
            "NOWSERVING_REDIS_URL": self.redis.url,
            "NOWSERVING_MODELS_FILE": str(models),
            "OMP_NUM_THREADS": "1",
            FILE: str(self.stamps),
        }
        api = [sys.executable, "-m", "uvicorn", "api.app:app", "--port", str(self.port), *QUIET_API]
        self.run("api", api, self._env)

    def start_worker(self) -> None:
        """Run Celery."""
        queue = "nowserving:queue:noop"
        worker = [sys.executable, "-m", "celery", "-A", "workers.app", "worker", "-Q", queue, "-P", "threads"]
        self.run("worker", worker, self._env)

    def read(self) -> list[Mapping[str, Any]]:
        """What the engine has noted of each ended job."""
        return [json.loads(line) for line in self.stamps.read_text().splitlines()] if self.stamps.exists() else []


class Reader(asyncio.Protocol):
    """Keeps what comes and when; it is read when all is over, so that reading delays nothing."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.parts: list[bytes] = []
        self.times: list[float] = []
        self.listens = asyncio.get_running_loop().create_future()
        self.ended = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        """Keep it (asyncio.Protocol)."""
        self.times.append(time.monotonic())
        self.parts.append(data)
        if not self.listens.done():
            self.listens.set_result(None)
        if _END.search(data) and not self.ended.done():
            self.ended.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """The end (asyncio.Protocol)."""
        for future in (self.listens, self.ended):
            if not future.done():
                future.set_exception(BenchError(f"a reader of {self.job_id} was cut off: {exc}"))

    def delays_ms(self, made: Sequence[float]) -> list[float]:
        """Of each token from made to here. Raises BenchError if one is missing or came twice."""
        ends = list(accumulate(map(len, self.parts)))
        delays: list[float] = []
        for found in _TOKEN.finditer(b"".join(self.parts)):
            event = json.loads(found[1])
            if event["index"] != len(delays):
                raise BenchError(f"{self.job_id}: index {event['index']} after {len(delays)} tokens")
            at = self.times[bisect_left(ends, found.end())]
            delays += [(at - made[len(delays) + i]) * 1000 for i in range(len(event["ids"]))]
        if len(delays) != len(made):
            raise BenchError(f"{self.job_id}: {len(delays)} of {len(made)} tokens came")
        return delays


async def stream(stack: Streaming) -> list[Reader]:
    """Let readers wait for jobs, then let a worker run these."""
    size = stack.size
    [connection] = await connect(stack.port, 1)
    readers: list[Reader] = []
    for number in range(size.jobs):
        body = {
            "model": "noop",
            "input": {"messages": [{"role": "user", "content": f"Tell a long story about number {number}."}]},
            "parameters": {"max_new_tokens": size.tokens, "temperature": 0},
        }
        job_id = str((await connection.post("/v1/jobs", json.dumps(body).encode())).json()["id"])
        readers += [await listen(stack.port, job_id) for _ in range(size.readers)]
    await asyncio.gather(*(reader.listens for reader in readers))
    stack.start_worker()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.gather(*(reader.ended for reader in readers))
    connection.close()
    return readers


async def listen(port: int, job_id: str) -> Reader:
    """Read a job's events on a connection of its own."""
    transport, reader = await asyncio.get_running_loop().create_connection(lambda: Reader(job_id), "127.0.0.1", port)
    transport.write(b"GET /v1/jobs/%b/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % job_id.encode())
    return reader


def measure(size: Size) -> str:
    """Run once and say what came of it. Raises BenchError."""
    with Streaming(size) as stack:
        watch = Watch([stack])
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            readers = runner.run(stream(stack))
        wait_until(lambda: len(stack.read()) == size.jobs, "written down", 10)
        rows = stack.read()
        made = {row["job"]: row["made"] for row in rows}
        others_cores = watch.others_cores()
        cpu = Cpu.of(stack)
        delays_ms = sorted(delay for reader in readers for delay in reader.delays_ms(made[reader.job_id]))
        firsts_ms = sorted(reader.delays_ms(made[reader.job_id])[0] for reader in readers)
        events = sum(len(_TOKEN.findall(b"".join(reader.parts))) for reader in readers)
        began, ended = min(times[0] for times in made.values()), max(times[-1] for times in made.values())
        tokens = sum(map(len, made.values()))
    first, last = min(row["clock"][0] for row in rows), max(row["clock"][1] for row in rows)
    wall, ran, waited = (after - before for before, after in zip(first, last, strict=True))
    cuts = quantiles(delays_ms, n=1000, method="inclusive")
    return (
        f"{size.source}: {size.jobs} jobs, {len(readers)} readers, {tokens} tokens made in {ended - began:.1f} s "
        f"({tokens / (ended - began):.0f}/s), read {len(delays_ms)} times in {events} events\n"
        f"  made to reader, ms: p50 {cuts[499]:.1f}  p90 {cuts[899]:.1f}  p99 {cuts[989]:.1f}  p99.9 {cuts[998]:.1f}  "
        f"max {delays_ms[-1]:.1f}; first tokens p50 {firsts_ms[len(firsts_ms) // 2]:.1f}  max {firsts_ms[-1]:.1f}\n"
        f"  CPU seconds: API {cpu.api:.1f}, worker {cpu.worker:.1f}, Redis {cpu.redis:.1f}; of the engine's thread "
        f"{ran:.1f}, {waited:.1f} waiting for a core, {wall - ran - waited:.2f} for others in its process\n"
        f"  {describe_machine([others_cores])}"
    )


def main() -> int:
    """Run each source and print its lines."""
    parser = argparse.ArgumentParser(prog="python -m bench.stream", description="Measure made to reader.")
    parser.add_argument("--source", action="append", help="noop:TOKENS@SECONDS or builtin:smollm2 (both)")
    parser.add_argument("--jobs", type=int, default=20, help="jobs at once (20)")
    parser.add_argument("--readers", type=int, default=5, help="readers of each (5)")
    parser.add_argument("--tokens", type=int, default=200, help="tokens of a job at most (200)")
    options = parser.parse_args()
    try:
        for source in options.source or ["noop:100000@0.04", "builtin:smollm2"]:
            print(measure(Size(source, options.jobs, options.readers, options.tokens)), flush=True)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
