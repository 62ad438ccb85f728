"""The worker's Celery app as in a pod whose account is mounted where the environment says; it is idle sooner."""

import os
from pathlib import Path

from workers import pod

pod.ACCOUNT = Path(os.environ["TEST_ACCOUNT"])
pod.IDLE_SECONDS = 1.0
pod.TIMEOUT_SECONDS = 0.5
pod.LONGEST_PAUSE_SECONDS = 1.0

from workers.app import app  # noqa: E402  its worker must find the account there

__all__ = ["app"]
