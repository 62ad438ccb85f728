"""A model's folder, looked at before it is loaded: what is missing or damaged is named, and its bytes are counted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nowserving.errors import EngineError

TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "*.tiktoken",
    "tekken.json",
)
MOST_HEADER_BYTES = 100_000_000
"""Of a safetensors file; more is not one."""
FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class Weights:
    """`sizes` are the bytes of each tensor (none are known of old formats); `floats` are numbers in all."""

    config: Mapping[str, Any]
    sizes: Mapping[str, int]
    floats: int

    @property
    def size_bytes(self) -> int:
        """Bytes of all weights, as they are stored."""
        return sum(self.sizes.values())


def read_weights(folder: Path, source: str) -> Weights:
    """Look at a folder that `source` stands for. Raises EngineError naming what is wrong with it."""
    config = _read_json(folder / "config.json", source)
    if not isinstance(config.get("model_type"), str) and "auto_map" not in config:
        raise EngineError(f"model {source!r}: {folder / 'config.json'} has no model_type")
    if not any(next(folder.glob(pattern), None) for pattern in TOKENIZERS):
        raise EngineError(f"model {source!r} has no tokenizer: there is no tokenizer.json in {folder}")
    sizes: dict[str, int] = {}
    floats = 0
    for shard in _shards(folder, source):
        for name, (kind, size_bytes, numbers) in _read_header(shard, source).items():
            sizes[name] = size_bytes
            floats += numbers if kind in FLOATS else 0
    return Weights(config, sizes, floats)


def _shards(folder: Path, source: str) -> list[Path]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        placed = _read_json(index, source).get("weight_map")
        if not isinstance(placed, dict):
            raise EngineError(f"model {source!r}: {index} is damaged: it has no weight_map")
        shards = [folder / str(name) for name in sorted(set(placed.values()))]
        if lacking := [shard.name for shard in shards if not shard.is_file()]:
            raise EngineError(
                f"model {source!r} is not whole: {len(lacking)} of its {len(shards)} files of weights are not in "
                f"{folder}, such as {lacking[0]}"
            )
        return shards
    if not any(folder.glob("pytorch_model*")):
        raise EngineError(f"model {source!r} has no weights: there is no model.safetensors in {folder}")
    return []


def _read_header(shard: Path, source: str) -> dict[str, tuple[str, int, int]]:
    """Each tensor's type, bytes and numbers; checks that the file is as long as its header says."""
    found: dict[str, tuple[str, int, int]] = {}
    there = shard.stat().st_size
    try:
        with shard.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            if header_bytes > min(there, MOST_HEADER_BYTES):
                raise ValueError("its header is cut off")
            header = json.loads(file.read(header_bytes))
        needed = 8 + header_bytes
        for name, entry in header.items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                numbers = 1
                for length in entry["shape"]:
                    numbers *= length
                found[name] = (entry["dtype"], end - begin, numbers)
                needed = max(needed, 8 + header_bytes + end)
        if there != needed:
            raise ValueError(f"it has {there} bytes and its header speaks of {needed}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(
            f"model {source!r} is damaged: {shard} is no whole safetensors file ({error}); fetch it anew"
        ) from None
    except OSError as error:
        raise EngineError(f"model {source!r}: {shard} cannot be read: {error.strerror}") from None
    return found


def _read_json(path: Path, source: str) -> dict[str, Any]:
    try:
        read = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise EngineError(f"model {source!r} has no {path.name}: {path.parent} is no model's folder") from None
    except OSError as error:
        raise EngineError(f"model {source!r}: {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise EngineError(f"model {source!r}: {path} is damaged: {error}") from None
    if not isinstance(read, dict):
        raise EngineError(f"model {source!r}: {path} is damaged: it holds no table")
    return read
