"""The errors that both sides share, one line each: a stable code that clients may match, and a sentence for a person.

Only api/ turns them into HTTP answers.
"""

from __future__ import annotations

from typing import ClassVar


class NowservingError(Exception):
    """Base of all errors; `code` is stable, the message one sentence: what was wrong and what is allowed."""

    code: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class SettingsError(NowservingError):
    """A setting's value is not allowed."""

    code = "invalid_settings"


class CatalogError(NowservingError):
    """models.toml is wrong; the message names the key and the allowed values."""

    code = "invalid_catalog"


class ReceiversError(NowservingError):
    """The receivers file is wrong; the message names the key and the allowed values."""

    code = "invalid_receivers"


class UnknownModelError(NowservingError):
    """The catalog has no model of that name."""

    code = "unknown_model"


class InvalidInputError(NowservingError):
    """What the client sent is not a job."""

    code = "invalid_input"


class WebhookUrlError(NowservingError):
    """A webhook may not go to that URL; the message says the rule."""

    code = "invalid_webhook_url"


class TooLargeError(NowservingError):
    """The job can never fit: over the model's context or the worker's whole memory budget."""

    code = "too_large"


class RecordError(NowservingError):
    """A job's record in Redis cannot be read."""

    code = "unreadable_record"


class JobNotFoundError(NowservingError):
    """No job of that id is kept."""

    code = "job_not_found"


class JobFinishedError(NowservingError):
    """The job has ended already in another way."""

    code = "job_finished"


class JobNotRetryableError(NowservingError):
    """The job has not ended, or has succeeded: there is nothing to run anew."""

    code = "job_not_retryable"


class DeliveryNotFoundError(NowservingError):
    """No delivery of that id is kept."""

    code = "delivery_not_found"


class IdempotencyConflictError(NowservingError):
    """The Idempotency-Key was used before with another body."""

    code = "idempotency_key_reused"


class QueueFullError(NowservingError):
    """The model's queue is at its bound."""

    code = "queue_full"
    retryable = True


class StoreUnavailableError(NowservingError):
    """Redis does not answer, or refuses to: then it has `answered`, and nothing is done."""

    code = "redis_unavailable"
    retryable = True

    def __init__(self, message: str, answered: bool = False) -> None:
        super().__init__(message)
        self.answered = answered


class StoreFullError(NowservingError):
    """Redis has reached its maxmemory."""

    code = "redis_full"
    retryable = True


class TooManyWaitersError(NowservingError):
    """So many clients wait or stream already on this process."""

    code = "too_many_waiters"
    retryable = True


class UnsuitableRedisError(NowservingError):
    """This Redis may lose jobs: it evicts keys, or is a cluster."""

    code = "redis_unsuitable"


class ClaimLostError(NowservingError):
    """The claim is no longer valid: the job was canceled, or given to another worker."""

    code = "claim_lost"


class EngineError(NowservingError):
    """The engine failed on this job."""

    code = "engine_error"
    retryable = True


class EngineUnavailableError(EngineError):
    """The engine cannot start now, for want of something that may be there later: a hub's answer, free memory."""

    code = "engine_unavailable"


class EngineLostError(EngineError):
    """What the engine computes on has gone, and all its jobs with it; it comes back by itself."""

    code = "engine_lost"


class OutOfMemoryError(EngineError):
    """The device had no memory left for this job, alone on the worker."""

    code = "out_of_memory"


class JobTimeoutError(EngineError):
    """The job ran longer than its timeout_seconds."""

    code = "timeout"
    retryable = False
