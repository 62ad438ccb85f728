"""A model on a hub: its files brought into the hub's cache, patiently, and each refusal as one sentence."""

from __future__ import annotations

import fnmatch
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from nowserving.errors import EngineError, EngineUnavailableError
from workers.engines.bar import make_download_bar
from workers.engines.engine import Progress
from workers.engines.failure import first_line
from workers.engines.weights import read_weights

log = logging.getLogger(__name__)

HTTP_ERROR = HfHubHTTPError.__bases__[0]
"""The base of all errors of the HTTP library that the hub's client stands on, whichever that is."""
PAUSES_SECONDS = (1.0, 2.0, 4.0, 8.0)
"""Between the tries of a hub that does not answer."""
HUB_SECONDS = 10.0
"""For an answer of the hub's: its client would wait for ever."""
PASSING = (408, 425, 429)
"""With 500 and above: what a hub answers when it may answer otherwise soon."""
BESIDE = ("*.json", "*.jinja", "*.txt", "*.model", "*.py", "*.tiktoken")
SAFE = ("model.safetensors", "model-*.safetensors")
OLD = ("pytorch_model.bin", "pytorch_model-*.bin")


def fetch(source: str, revision: str | None, progress: Progress, pause: Callable[[float], None] = time.sleep) -> Path:
    """The folder in the hub's cache that holds the model, brought there first if need be.

    Offline (HF_HUB_OFFLINE) only the cache is looked at. Raises EngineUnavailableError once a hub that does not answer
    was asked five times, any other EngineError at once.
    """
    offline = bool(constants.HF_HUB_OFFLINE)
    for pause_seconds in (*PAUSES_SECONDS, None):
        try:
            if offline:
                return _from_cache(source, revision)
            return _download(source, revision, progress)
        except HFValidationError:
            raise EngineError(f"source {source!r} is neither a folder nor a hub id such as owner/name") from None
        except Exception as error:
            if offline or not _may_pass(error):
                raise EngineError(_explain(source, revision, error)) from error
            if pause_seconds is None:
                raise EngineUnavailableError(
                    f"the hub {constants.ENDPOINT} does not answer ({first_line(error)}), and model {source!r} is "
                    f"not whole in {constants.HF_HUB_CACHE}"
                ) from error
            log.warning("the hub does not answer (%s): asked again in %g s", first_line(error), pause_seconds)
            pause(pause_seconds)
    raise AssertionError("unreachable")


def _download(source: str, revision: str | None, progress: Progress) -> Path:
    progress("download", None)
    try:
        info = HfApi().model_info(source, revision=revision, files_metadata=True, timeout=HUB_SECONDS)
    except Exception as error:
        # What is in the cache is good enough where the hub is away, as it is for the hub's own client.
        if not _may_pass(error):
            raise
        try:
            folder = _from_cache(source, revision)
        except LocalEntryNotFoundError:
            raise error from None
        log.warning("the hub does not answer (%s): %s is taken from the cache", first_line(error), source)
        return folder
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    wanted = choose_files(list(sizes))
    missing = [name for name in wanted if not isinstance(try_to_load_from_cache(source, name, revision=info.sha), str)]
    total_bytes = sum(sizes[name] for name in missing)
    if missing:
        log.info("%s: %d files, %.0f MB to download", source, len(missing), total_bytes / 1e6)
    bar = make_download_bar(total_bytes, lambda done: progress("download", done))
    options: dict[str, Any] = {"allow_patterns": wanted, "tqdm_class": bar}
    return Path(snapshot_download(source, revision=revision or constants.DEFAULT_REVISION, **options))


def _from_cache(source: str, revision: str | None) -> Path:
    """What an earlier fetch has brought. Raises LocalEntryNotFoundError if that is not enough."""
    try:
        return Path(snapshot_download(source, revision=revision, local_files_only=True))
    except IncompleteSnapshotError as error:
        # It lacks files of the repository: perhaps only such as nobody needs.
        folder = Path(error.snapshot_path)
        try:
            read_weights(folder, source)
        except EngineError:
            raise error from None
        return folder


def choose_files(names: Sequence[str]) -> list[str]:
    """Of a repository's files those that are needed: weights as safetensors if there are such, and what is small."""

    def matching(patterns: Sequence[str]) -> list[str]:
        return [name for name in names if "/" not in name and any(fnmatch.fnmatch(name, p) for p in patterns)]

    weights = matching(SAFE) or matching(OLD)
    return sorted({*weights, *matching(BESIDE)})


def _may_pass(error: BaseException) -> bool:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return status in PASSING or status >= 500
    if isinstance(error, OfflineModeIsEnabled):
        return False
    if isinstance(error, LocalEntryNotFoundError):
        # The hub's client looked into the cache because the hub did not answer.
        return error.__cause__ is not None and _may_pass(error.__cause__)
    return isinstance(error, (HTTP_ERROR, ConnectionError, TimeoutError)) or type(error).__name__ == "XetDownloadError"


def _explain(source: str, revision: str | None, error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, GatedRepoError):
        return (
            f"model {source!r} is gated: ask for access at {constants.ENDPOINT}/{source}, and set HF_TOKEN to a token "
            "of the account that has it"
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"there is no model {source!r} on {constants.ENDPOINT}, or it is private: mend the source, or set HF_TOKEN "
            "to a token that may read it"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"model {source!r} has no revision {revision!r}: name a branch, a tag or a commit that it has"
    if isinstance(error, LocalEntryNotFoundError):
        named = f" --revision {revision}" if revision else ""
        return (
            f"model {source!r} is not whole in {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE forbids to ask the hub: "
            f"run `hf download {source}{named}` where that may be asked, or unset HF_HUB_OFFLINE"
        )
    if status in (401, 403):
        return f"the hub refuses model {source!r} ({status}): set HF_TOKEN to a token that may read it"
    return f"model {source!r} cannot be fetched: {first_line(error)}"
