"""From what a submission says of webhooks to the receivers that its record holds."""

from __future__ import annotations

from api.names import Names
from api.problem import field_problem
from nowserving.errors import WebhookUrlError
from nowserving.receiver import Receiver, Webhook
from nowserving.receivers import Receivers
from nowserving.secret import RULE
from nowserving.target import Policy, parse_target

NO_SECRET = f"required, since this server has no NOWSERVING_WEBHOOK_SECRET to sign with: {RULE}"


class Webhooks:
    """Checks a job's own receiver, and knows the others."""

    def __init__(self, policy: Policy, receivers: Receivers, names: Names, limit: int) -> None:
        self._policy, self._receivers, self._names, self._limit = policy, receivers, names, limit

    async def receivers_of(self, asked: Webhook | None, api_key: str | None) -> tuple[Receiver, ...]:
        """The receiver that the job names, or else those that the receivers file has. Raises ProblemError."""
        if asked is None:
            return self._receivers.for_key(api_key)
        if not self._receivers.secrets_of(None, asked.secret):
            raise field_problem("invalid_input", "webhook.secret", NO_SECRET)
        try:
            target = parse_target(asked.url)
            self._policy.check(target)
            if target.address is None and (addresses := await self._names.find(target.host, target.port)):
                # A name that is not found now may be when its webhook is sent: it is checked then, too.
                self._policy.check_addresses(target, addresses)
        except WebhookUrlError as error:
            raise field_problem("invalid_input", "webhook.url", error.message) from None
        receiver = Receiver(
            url=asked.url, host=target.authority, limit=self._limit, events=asked.events, secret=asked.secret
        )
        return (receiver,)
