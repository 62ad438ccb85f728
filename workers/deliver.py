"""The Celery task of webhooks: one attempt at one delivery, and what follows from it."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nowserving import __version__, letter
from nowserving.delivery import Attempt, Delivery
from nowserving.errors import ClaimLostError, RecordError
from nowserving.payload import compose
from nowserving.signature import sign
from nowserving.store import Store
from workers.lease import Leases
from workers.metrics import DeliveryMetrics
from workers.patience import send_patiently
from workers.send import Outcome

log = logging.getLogger(__name__)

LEAST_PATIENCE_SECONDS = 3600.0
"""So old a delivery may get in the line of a host that answers nobody, or as old as all attempts take."""
JITTER = 0.1
"""A pause is up to this part of it longer or shorter, so that what failed together does not come again together."""
LONGEST_RETRY_AFTER_SECONDS = 86400.0
SLOW_SECONDS = 5.0
"""A host that takes longer to answer is slow: it would hold a deliverer's threads as one that never answers does."""
GONE = 410
USER_AGENT = f"nowserving/{__version__}"

Post = Callable[[str, bytes, Mapping[str, str]], Outcome]
"""Sends a body to a URL; see workers/send.py."""
SecretsOf = Callable[[str | None, str | None], Sequence[str]]
"""The secrets that sign for a receiver, from its name in the receivers file and the secret of its own."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is to become of a delivery; `delay_seconds` till its next attempt. `slow`: its host was in no state to
    answer, or took long, and gets one delivery at a time till it does better.
    """

    word: letter.Outcome
    delay_seconds: float = 0.0
    slow: bool = False


def judge(outcome: Outcome, tries: int, schedule: Sequence[float], chance: float) -> Judgement:
    """Judge an attempt, before which there were `tries`; `chance`, from 0 to 1, decides on the jitter. Pure.

    Any 2xx delivers, and 410 says that the receiver is gone for good. All else may pass, also a refusal of our own: the
    policy may be changed, the name may lead elsewhere. A Retry-After makes a pause longer, never shorter.
    """
    status = outcome.status or 0
    slow = not status or status >= 500 or outcome.seconds > SLOW_SECONDS
    if 200 <= status < 300:
        return Judgement("delivered", slow=slow)
    if status == GONE:
        return Judgement("stopped", slow=slow)
    if tries >= len(schedule):
        return Judgement("dead", slow=slow)
    pause = schedule[tries] * (1 + JITTER * (2 * chance - 1))
    asked = min(outcome.retry_after_seconds or 0.0, LONGEST_RETRY_AFTER_SECONDS)
    return Judgement("retry", max(pause, asked), slow)


class Deliveries:
    """Sends the deliveries that this deliverer has taken, each on the thread that calls `run`."""

    def __init__(
        self,
        store: Store,
        leases: Leases,
        post: Post,
        secrets_of: SecretsOf,
        schedule: Sequence[float],
        public_url: str,
        metrics: DeliveryMetrics,
    ) -> None:
        self._store, self._leases = store, leases
        self._post, self._secrets_of = post, secrets_of
        self._schedule, self._public_url = schedule, public_url
        self._patience_seconds = max(LEAST_PATIENCE_SECONDS, sum(schedule) * (1 + JITTER))
        self._metrics = metrics

    def run(self, delivery_id: str, claim: str) -> str:
        """Make one attempt and say what became of it. Raises ClaimLostError if the claim is not valid."""
        word = self._run(delivery_id, claim)
        self._metrics.settled(word)
        return word

    def _run(self, delivery_id: str, claim: str) -> str:
        lease = self._leases.begin(claim)
        fields = lease.taken.fields if lease.taken else {}
        try:
            at = time.time()
            outcome, judgement = self._attempt(fields, at)
            self._metrics.attempted(outcome.status, outcome.seconds)
            attempt = Attempt(at, outcome.status, outcome.seconds, outcome.error, outcome.answer)
            settle = letter.settle(
                delivery_id,
                claim,
                judgement.word,
                attempt,
                delay_seconds=judgement.delay_seconds,
                slow=judgement.slow,
                patience_seconds=self._patience_seconds,
            )
            if not send_patiently(self._store, lease, settle):
                return "lost"
        except ClaimLostError:
            # Whoever has it by now sends it once more, under the same id.
            return "lost"
        finally:
            self._leases.drop(claim)
        _tell(delivery_id, fields.get("host", "nowhere"), outcome, judgement)
        return judgement.word

    def _attempt(self, fields: Mapping[str, str], at: float) -> tuple[Outcome, Judgement]:
        try:
            delivery = Delivery.from_fields(fields)
            outcome = self._send(delivery, fields, at)
        except RecordError as error:
            # No later attempt would read it better.
            return _unsent(error.message), Judgement("dead")
        return outcome, judge(outcome, delivery.tries, self._schedule, random.random())

    def _send(self, delivery: Delivery, fields: Mapping[str, str], at: float) -> Outcome:
        try:
            body = compose(fields, self._public_url)
            secrets = self._secrets_of(delivery.receiver, fields.get("secret"))
            if not secrets:
                # This may pass, too: two processes are seldom given new settings at once.
                return _unsent("the deliverer has no secret to sign it with")
            headers = sign(secrets, delivery.id, at, body)
            headers |= {"content-type": "application/json", "user-agent": USER_AGENT}
            if traceparent := fields.get("traceparent"):
                headers["traceparent"] = traceparent
            return self._post(delivery.url, body, headers)
        except RecordError:
            raise
        except Exception as error:
            log.exception("%s failed", delivery.id)
            return _unsent(f"the deliverer failed on it: {error!r}")


def _unsent(error: str) -> Outcome:
    return Outcome(None, 0.0, error)


def _tell(delivery_id: str, host: str, outcome: Outcome, judgement: Judgement) -> None:
    """Log what went wrong; not the URL, which may hold a password."""
    if judgement.word == "delivered":
        return
    why = outcome.error or f"HTTP {outcome.status}"
    if judgement.word == "retry":
        log.info("%s to %s failed (%s): again in %.1f s", delivery_id, host, why, judgement.delay_seconds)
    else:
        log.warning("%s to %s is %s (%s)", delivery_id, host, judgement.word, why)
