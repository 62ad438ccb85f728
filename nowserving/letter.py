"""The verbs of deliveries, beside those of jobs (verb.py), which take, renew and release deliveries, too."""

from __future__ import annotations

from typing import Literal

from nowserving.answer import Tally
from nowserving.call import Call, Reply, or_empty, pairs, read_deliveries
from nowserving.delivery import RECORDED, Attempt, Delivery, DeliveryStatus
from nowserving.errors import DeliveryNotFoundError

Outcome = Literal["delivered", "dead", "stopped", "retry"]
"""What becomes of a delivery after an attempt."""

_WORDS = {status: word for word, status in RECORDED.items()}


def settle(
    delivery_id: str,
    claim: str,
    outcome: Outcome,
    attempt: Attempt,
    *,
    delay_seconds: float = 0.0,
    slow: bool = False,
    patience_seconds: float = 1e9,
) -> Call[bool]:
    """Say what came of an attempt; False if the claim is lost. `retry`: the next is due in `delay_seconds`.

    `slow`: the host answered 5xx, late, or not at all; till it does better its deliveries are sent one by one, and
    those in its line that are older than `patience_seconds` are dead.
    """
    status = "queued" if outcome == "retry" else _WORDS[DeliveryStatus(outcome)]
    args = (delivery_id, claim, status, delay_seconds, attempt.to_json(), int(slow), patience_seconds)
    return Call("settle", args, lambda reply: bool(reply[0] == "done"))


def redeliver(delivery_id: str) -> Call[Delivery]:
    """Send it once more, now, under the same id. Its answer raises DeliveryNotFoundError, or RecordError."""

    def parse(reply: Reply) -> Delivery:
        if not reply:
            raise DeliveryNotFoundError(f"there is no delivery {delivery_id}")
        return Delivery.from_fields(pairs(reply))

    return Call("redeliver", (delivery_id,), parse)


def deliveries_of(job_id: str) -> Call[list[Delivery]]:
    """A job's kept deliveries; the job itself may be gone. Unreadable records are left out."""
    return Call("deliveries", (job_id,), read_deliveries)


def list_deliveries(
    *, before: int | None = None, limit: int = 20, status: DeliveryStatus | None = None
) -> Call[tuple[list[Delivery], int | None]]:
    """Kept deliveries, newest first, and the cursor for the next page (None at the end)."""

    def parse(reply: Reply) -> tuple[list[Delivery], int | None]:
        return read_deliveries(reply[1:]), int(reply[0]) if reply[0] else None

    return Call("letters", (or_empty(before), limit, _WORDS[status] if status else ""), parse)


def tally() -> Call[Tally]:
    """How all deliveries stand."""
    return Call("tally", (), lambda reply: Tally(*map(int, reply)))
