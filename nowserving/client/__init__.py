"""The Python SDK: `Client` talks HTTP to the API. What it repeats by itself can never make a job twice."""

from nowserving.client.answer import BatchLine, Delivery, DeliveryPage, Job, JobEvent, JobPage
from nowserving.client.client import DEFAULT_URL, Client
from nowserving.client.error import ApiError, ApiUnreachableError, WaitTimeoutError

__all__ = [
    "DEFAULT_URL",
    "ApiError",
    "ApiUnreachableError",
    "BatchLine",
    "Client",
    "Delivery",
    "DeliveryPage",
    "Job",
    "JobEvent",
    "JobPage",
    "WaitTimeoutError",
]
