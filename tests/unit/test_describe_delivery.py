"""A delivery as it is shown says why it is not sent yet."""

from __future__ import annotations

import pytest

from nowserving.delivery import Delivery, DeliveryStatus
from nowserving.describe_delivery import describe_delivery


@pytest.mark.parametrize(
    ("status", "next_attempt_at", "deliverers", "reason"),
    [
        ("pending", None, 0, "no_deliverer"),
        ("pending", None, 2, "behind"),
        ("pending", 1005.0, 2, "retry_backoff"),
        ("pending", 1005.0, 0, "retry_backoff"),
        ("sending", None, 1, None),
        ("delivered", None, 0, None),
        ("dead", None, 0, None),
        ("stopped", None, 0, None),
    ],
)
def test_only_one_that_is_pending_has_a_reason(
    status: str, next_attempt_at: float | None, deliverers: int, reason: str | None
) -> None:
    url = "https://hooks.example/jobs"
    delivery = Delivery(
        "dlv", "job", "job.failed", url, None, DeliveryStatus(status), 1000.0, None, next_attempt_at, 0, ()
    )
    assert describe_delivery(delivery, deliverers)["reason"] == reason
