"""The worker's Celery app with the witness around its scripts: `celery -A tests.chaos.witnessed worker …`."""

from tests.chaos import witness

witness.install()

from workers.app import app  # noqa: E402  its stores must find the witness installed

__all__ = ["app"]
