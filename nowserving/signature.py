"""A webhook's signature as Standard Webhooks has it, made and checked by its own library.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from standardwebhooks import Webhook, WebhookVerificationError


def sign(secrets: Sequence[str], delivery_id: str, at: float, body: bytes) -> dict[str, str]:
    """The three headers of one attempt, sent at `at` (Unix seconds): each secret (`whsec_…`) signs, so that a receiver
    may know either while they are changed. Raises ValueError if there is no secret.
    """
    if not secrets:
        raise ValueError("there is no secret to sign with")
    moment = datetime.fromtimestamp(int(at), UTC)
    signatures = [Webhook(secret).sign(delivery_id, moment, body.decode()) for secret in secrets]
    return {
        "webhook-id": delivery_id,
        "webhook-timestamp": str(int(at)),
        "webhook-signature": " ".join(signatures),
    }


def find_fault(secrets: Sequence[str], headers: Mapping[str, str], body: bytes) -> str:
    """Why a receiver that knows these secrets must refuse this; "" if it is genuine and at most 5 minutes old."""
    fault = "there is no secret to verify with"
    for secret in secrets:
        try:
            Webhook(secret).verify(body, dict(headers), json_parse=False)
        except WebhookVerificationError as error:
            fault = str(error)
        except ValueError:
            # The library splits and decodes what it is sent without looking.
            fault = "Invalid signature, or a body that is not UTF-8"
        else:
            return ""
    return fault
