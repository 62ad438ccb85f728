"""The deliverer: the process that sends webhooks. It takes deliveries as a worker takes jobs, and needs no GPU."""

from __future__ import annotations

from nowserving.delivery import WEBHOOKS
from nowserving.receivers import load_receivers
from nowserving.settings import Settings
from nowserving.target import Policy
from workers.deliver import Deliveries
from workers.gate import Closed, Verdict
from workers.metrics import DeliveryMetrics
from workers.send import Sender
from workers.serving import Serving

UNKNOWN_TOKENS = 2
"""The size that deliveries to hosts have which are not known to answer; all others have 1."""


class Deliverer(Serving):
    """Takes deliveries while it has a free thread, and makes one attempt at each."""

    def __init__(self, settings: Settings) -> None:
        policy = Policy(settings.webhook_allow, settings.webhook_ports)
        receivers = load_receivers(settings, policy)
        metrics = DeliveryMetrics(WEBHOOKS)
        super().__init__(settings, WEBHOOKS, settings.webhook_concurrency, metrics)
        self._sender = Sender(
            policy,
            connect_seconds=settings.webhook_connect_seconds,
            total_seconds=settings.webhook_timeout_seconds,
            connections=self.slots,
        )
        self._deliveries = Deliveries(
            self._store,
            self.leases,
            self._sender.post,
            receivers.secrets_of,
            settings.webhook_retry_seconds,
            settings.public_url,
            metrics,
        )

    def run(self, delivery_id: str, claim: str) -> str:
        """Make one attempt; see Deliveries."""
        return self._deliveries.run(delivery_id, claim)

    def close(self) -> None:
        """Let go of what is left once nothing is sent any more."""
        self._sender.close()
        super().close()

    def _load(self) -> int:
        return UNKNOWN_TOKENS

    def _judge(self, likely_tokens: int) -> Verdict:
        """A quarter of the threads is kept free of hosts that are not known to answer (see place.lua)."""
        if self._stops():
            return Verdict(Closed.DRAINING)
        held = [lease.tokens for lease in self.leases.jobs()]
        free = self.slots - len(held)
        if free <= 0:
            return Verdict(Closed.SLOTS)
        unknown = max(1, self.slots * 3 // 4) - sum(tokens >= UNKNOWN_TOKENS for tokens in held)
        if unknown <= 0:
            return Verdict(None, headroom=1, jobs=free, scarce=Closed.SLOTS)
        return Verdict(None, headroom=UNKNOWN_TOKENS, jobs=min(free, unknown))
