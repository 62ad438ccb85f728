"""Failures in words. None keeps the traceback of what went wrong, which would pin a step's tensors."""

from __future__ import annotations

from nowserving.errors import EngineError, NowservingError


def first_line(error: BaseException) -> str:
    """What is said first of it; its type where it says nothing, or cannot."""
    try:
        said = str(error).strip()
    except Exception:
        said = ""
    return said.split("\n", 1)[0] or type(error).__name__


def error_of(cause: BaseException) -> NowservingError:
    """What went wrong with one job, for that job."""
    if isinstance(cause, NowservingError):
        return cause
    return EngineError(f"the engine failed on this job: {type(cause).__name__}: {first_line(cause)}")
