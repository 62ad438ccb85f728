"""Loads what the catalog names through transformers, and says in one sentence why it cannot."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from nowserving.errors import EngineError, EngineUnavailableError
from workers.engines.bar import watch_weights
from workers.engines.builtin import PREFIX, model_folder
from workers.engines.engine import Progress
from workers.engines.failure import first_line
from workers.engines.model import LoadedModel, adopt_model
from workers.engines.weights import Weights, read_weights
from workers.memory import CudaProbe, HostProbe, Memory

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?\Z")
OUT_OF_MEMORY = ("can't allocate memory", "out of memory")
"""How torch's allocators begin to say so where they raise a plain RuntimeError."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to load and how: the catalog's keys, see docs/settings.md."""

    source: str
    device: str = "auto"
    dtype: str = "auto"
    attention: str = "auto"
    quantization: Mapping[str, Any] | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    cache_dir: Path = Path()
    builtin_dir: Path | None = None


def load_model(recipe: Recipe, progress: Progress) -> LoadedModel:
    """Load from "builtin:NAME", a folder or a hub id.

    Raises EngineUnavailableError if it may load later, any other EngineError if a person must mend something; each in
    one sentence. What torch says of a broken device comes as it is.
    """
    source = recipe.source
    target = find_device(recipe.device)
    folder = _locate(recipe, progress)
    weights = read_weights(folder, source)
    progress("import", None)
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # it draws over the log
    kind: torch.dtype | str = DTYPES.get(recipe.dtype, torch.float32 if target.type == "cpu" else "auto")
    common = {"trust_remote_code": recipe.trust_remote_code, "local_files_only": not recipe.trust_remote_code}
    options: dict[str, Any] = common | {"dtype": kind, "output_loading_info": True}
    if not recipe.quantization:
        _check_room(source, weights, kind, target)
    else:
        options["quantization_config"] = dict(recipe.quantization)
    if recipe.quantization or target.type != "cpu":
        # Each tensor straight to where it belongs: no copy of the model in the host's memory.
        options["device_map"] = {"": target}
    log.info("loading %s on %s: %.0f MB", source, target, weights.size_bytes / 1e6)
    progress("load", 0.0)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **common)
        with watch_weights(weights.sizes, lambda done: progress("load", done)):
            loaded: Any = AutoModelForCausalLM.from_pretrained(folder, **options)
    except torch.AcceleratorError:
        raise
    except Exception as error:
        raise _explain(recipe, error, target, weights) from error
    model, found = loaded
    if lacking := sorted(found["missing_keys"]):
        raise EngineError(
            f"model {source!r} is not whole: its weights lack {len(lacking)} tensors that its config.json asks for, "
            f"such as {lacking[0]}"
        )
    return adopt_model(model.eval(), tokenizer)


def find_device(name: str) -> torch.device:
    """The device that the catalog means. Raises EngineError if it is not there."""
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise EngineError(f"device {name!r} is not there: torch {torch.__version__} sees {torch.cuda.device_count()}")
    return device


@contextmanager
def attend_by(name: str) -> Iterator[None]:
    """While it is entered, torch's scaled dot-product attention takes the kernels that the catalog's `attention` means.

    The choice is the process's, not the thread's. Raises EngineError for what this engine cannot do.
    """
    if name not in ("auto", "sdpa", "eager"):
        raise EngineError(
            f"attention {name!r} is not possible: this engine attends in its own packed way, through torch's sdpa; use "
            '"auto", "sdpa" (without the kernel of our own that decodes on a card) or "eager" (no fused ones)'
        )
    with sdpa_kernel(SDPBackend.MATH) if name == "eager" else nullcontext():
        yield


def _locate(recipe: Recipe, progress: Progress) -> Path:
    source, revision = recipe.source, recipe.revision
    if source.startswith(PREFIX):
        folder = model_folder(source, recipe.cache_dir, log.info, progress, recipe.builtin_dir)
    elif Path(source).expanduser().is_dir():
        folder = Path(source).expanduser()
    elif not HUB_ID.match(source):
        raise EngineError(f"there is no folder {source!r}, and it is no hub id such as owner/name")
    else:
        from workers.engines.hub import fetch

        return fetch(source, revision, progress)
    if revision is not None:
        raise EngineError(f"revision {revision!r} is for a hub id alone, and {source!r} is none")
    return folder


def _check_room(source: str, weights: Weights, kind: torch.dtype | str, device: torch.device) -> None:
    """Refuse what can never fit: on a CPU the kernel would kill the process in mid-load, without a word."""
    itemsize = kind.itemsize if isinstance(kind, torch.dtype) else 0
    needed = weights.floats * itemsize or weights.size_bytes
    memory = _memory(device)
    if needed > memory.total_bytes:
        raise EngineError(
            f"model {source!r} does not fit: its weights take {needed >> 20} MB and {device} has "
            f"{memory.total_bytes >> 20} MB in all; use a smaller dtype, a quantization or another device"
        )
    if needed > memory.free_bytes:
        log.warning("%s takes %d MB and %s has %d MB free", source, needed >> 20, device, memory.free_bytes >> 20)


def _memory(device: torch.device) -> Memory:
    return (CudaProbe(str(device)) if device.type == "cuda" else HostProbe()).read()


def _explain(recipe: Recipe, error: Exception, device: torch.device, weights: Weights) -> EngineError:
    source, said = recipe.source, first_line(error)
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(word in str(error) for word in OUT_OF_MEMORY):
        return EngineUnavailableError(
            f"there is too little memory free to load model {source!r}: its weights take "
            f"{weights.size_bytes >> 20} MB as they are stored, "
            f"and {device} has {_memory(device).free_bytes >> 20} MB free"
        )
    if "custom code" in str(error) and not recipe.trust_remote_code:
        return EngineError(
            f"model {source!r} brings code of its own: read it, and set trust_remote_code = true if it may run here"
        )
    if recipe.quantization and (isinstance(error, ImportError) or "quantiz" in str(error)):
        return EngineError(f"model {source!r} cannot be quantized as the catalog says: {said}")
    if isinstance(error, ImportError):
        return EngineError(f"model {source!r} needs what is not installed: {said}")
    if "does not recognize this architecture" in str(error):
        import transformers

        kind = weights.config.get("model_type")
        return EngineError(
            f"model {source!r} is of type {kind!r}, which transformers {transformers.__version__} does not know"
        )
    if "for this kind of AutoModel" in str(error):
        return EngineError(
            f"model {source!r} is of type {weights.config.get('model_type')!r}, which does not continue text"
        )
    if "ignore_mismatched_sizes" in str(error):
        return EngineError(
            f"model {source!r} cannot be loaded: its weights have other shapes than its config.json says"
        )
    if isinstance(error, json.JSONDecodeError):
        return EngineError(
            f"model {source!r} is damaged: one of its JSON files, perhaps tokenizer.json, breaks off: {said}"
        )
    return EngineError(f"model {source!r} cannot be loaded: {type(error).__name__}: {said}")
