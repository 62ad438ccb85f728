"""`python -m bench.post`: webhooks that one deliverer sends in a second, to a receiver on this machine.

All deliveries are there before the deliverer may take the first; what is timed is from the first attempt to the last
end. How many go to one host at once is a setting, so it is measured for several.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from statistics import median

from bench.dialect import NOWSERVING
from bench.errors import BenchError
from bench.machine import Watch, describe_machine
from bench.process import resume, suspend, wait_until
from bench.redis_server import DURABLE
from bench.stack import QUIET_API, Stack
from nowserving import letter, verb
from nowserving.cli.command import deliver_command
from nowserving.delivery import WEBHOOKS
from nowserving.job import Status, Submission, fields_of, new_job_id
from nowserving.receiver import Receiver
from nowserving.secret import new_secret
from nowserving.store import Store, connect

MODEL = "noop"
DELIVERIES = 3000


class Post(Stack):
    """Redis, a deliverer that is not let take yet, and a receiver in the place of the API."""

    name = "nowserving"
    dialect = NOWSERVING
    persistence = DURABLE

    def start(self) -> None:
        """Run the receiver, then the deliverer."""
        receiver = [sys.executable, "-m", "uvicorn", "bench.mailbox:app", "--port", str(self.port), *QUIET_API]
        self.run("receiver", [*receiver, "--lifespan", "off", "--no-access-log"], {})
        env = {
            "NOWSERVING_REDIS_URL": self.redis.url,
            "NOWSERVING_WEBHOOK_SECRET": new_secret(),
            "NOWSERVING_WEBHOOK_ALLOW": "127.0.0.1",
        }
        self.run("deliverer", deliver_command(), env)

    def waiting(self) -> int:
        """Deliveries in the queue."""
        return 0

    def finish_times(self, job_ids: Sequence[str]) -> list[float]:
        """Not asked for."""
        return []


def measure(limit: int, count: int = DELIVERIES) -> tuple[float, float]:
    """Deliveries a second, of which at most `limit` are sent at once; and the cores that others took meanwhile."""
    with Post() as post:
        store = Store(connect(post.redis.url))
        wait_until(lambda: bool(store.run(verb.workers([WEBHOOKS]))), "ready", 60, post.processes)
        host = f"127.0.0.1:{post.port}"
        receiver = Receiver(url=f"http://{host}/hook", host=host, limit=limit)
        deliverer = post.processes[-1].tree()
        suspend(deliverer)
        ids = [_end_one(store, receiver) for _ in range(count)]
        watch = Watch([post])
        resume(deliverer)
        wait_until(lambda: store.run(letter.tally()).delivered == count, "all delivered", 120, post.processes)
        others = watch.others_cores()
        deliveries = [store.run(letter.deliveries_of(job_id))[0] for job_id in ids]
        store.close()
    if any(len(delivery.attempts) != 1 for delivery in deliveries):
        raise BenchError("a delivery was sent more than once: this measures something else")
    began = min(delivery.attempts[0].at for delivery in deliveries)
    ended = max(delivery.finished_at or 0.0 for delivery in deliveries)
    return count / (ended - began), others


def _end_one(store: Store, receiver: Receiver) -> str:
    """A job that has ended and calls back."""
    job_id, claim = new_job_id(), new_job_id()
    fields = fields_of(Submission.model_validate({"model": MODEL, "input": {"prompt": "x"}}), 1, receivers=(receiver,))
    store.run(verb.enqueue(job_id, MODEL, fields, max_depth=10))
    store.run(verb.take(MODEL, "bench", [claim], lease_seconds=60, headroom=10**6, capacity=10**6, max_takes=9))
    output = {"text": "a text", "finish_reason": "stop", "usage": {"prompt_tokens": 1, "completion_tokens": 2}}
    store.run(verb.finish(job_id, claim, Status.SUCCEEDED, output, begun=1))
    return job_id


def main() -> int:
    """Run and print a line for each limit."""
    parser = argparse.ArgumentParser(prog="python -m bench.post", description="Measure one deliverer.")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (3)")
    parser.add_argument("--limits", type=int, nargs="+", default=[1, 8, 32], help="sent to one host at once (1 8 32)")
    options = parser.parse_args()
    others_cores: list[float] = []
    print("webhooks of one deliverer to one receiver on this machine, each signed, on keep-alive connections")
    try:
        for limit in options.limits:
            rates = []
            for _ in range(options.rounds):
                rate, others = measure(limit)
                rates.append(rate)
                others_cores.append(others)
            print(f"  {limit:>3} at once: {median(rates):,.0f}/s ({min(rates):,.0f} to {max(rates):,.0f})", flush=True)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(describe_machine(others_cores))
    return 0


if __name__ == "__main__":
    sys.exit(main())
