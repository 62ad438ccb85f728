"""A delivery as it is shown says why it is not sent yet."""

from __future__ import annotations

import pytest

from nowserving.delivery import Delivery, DeliveryStatus
from nowserving.describe_delivery import describe_delivery


@pytest.mark.parametrize(
    ("status", "next_attempt_at", "served", "reason"),
    [
        ("pending", None, False, "no_deliverer"),
        ("pending", None, True, "behind"),
        ("pending", 1005.0, True, "retry_backoff"),
        ("pending", 1005.0, False, "retry_backoff"),
        ("sending", None, True, None),
        ("delivered", None, False, None),
        ("dead", None, False, None),
        ("stopped", None, False, None),
    ],
)
def test_only_one_that_is_pending_has_a_reason(
    status: str, next_attempt_at: float | None, served: bool, reason: str | None
) -> None:
    url = "https://hooks.example/jobs"
    delivery = Delivery(
        "dlv", "job", "job.failed", url, None, DeliveryStatus(status), 1000.0, None, next_attempt_at, 0, ()
    )
    assert describe_delivery(delivery, served)["reason"] == reason
