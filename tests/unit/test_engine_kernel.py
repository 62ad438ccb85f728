"""The Triton kernel against plain torch: on a CUDA device, or with TRITON_INTERPRET=1 in Triton's interpreter."""

import os
from typing import Any

import pytest
import torch

from tests.decode_reference import ReferenceKernel, Rerun
from tests.tiny import ARCHITECTURES, make_model, make_tokenizer
from workers.engines.attention import Segment
from workers.engines.cache import MAX_CHUNK_TOKENS, CacheLayout, JobCache, LayerShape
from workers.engines.decode import DecodeTable
from workers.engines.graph import assemble
from workers.engines.model import adopt_model
from workers.engines.scoring import Scoring

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs a CUDA device, or TRITON_INTERPRET=1", allow_module_level=True)
pytest.importorskip("triton")

from workers.engines.kernel import TritonKernel  # noqa: E402  (Triton is not installed everywhere)

TOLERANCES = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
if DEVICE.type == "cpu":
    del TOLERANCES[torch.bfloat16]  # the interpreter multiplies its bits as integers
LENGTHS = [1, 2, 3, 40, 7, 100, 16]
"""Tokens of each row, the new one too; parts are made small here, so that most rows have several."""


class Batch:
    """Rows of these lengths with random caches, twice, and random new tokens."""

    def __init__(self, shape: LayerShape, heads: int, dtype: torch.dtype, lengths: list[int], spare: int = 5) -> None:
        torch.manual_seed(0)
        self.layout = CacheLayout((shape, shape), dtype, DEVICE)
        self.host = CacheLayout((shape, shape), dtype, torch.device("cpu"))
        self.heads, self.lengths = heads, lengths
        self.own, self.ours = [], []
        for tokens in lengths:
            cache = JobCache(self.host, tokens + spare)
            cache.memory.copy_(torch.randn(cache.memory.shape))
            self.own.append(cache)
            twin = JobCache(self.layout, tokens + spare)
            twin.memory.copy_(cache.memory)
            self.ours.append(twin)
        rows = len(lengths)
        self.query = torch.randn(rows, heads, shape.key_dim).to(dtype)
        self.key = torch.randn(rows, shape.heads, shape.key_dim).to(dtype)
        self.value = torch.randn(rows, shape.heads, shape.value_dim).to(dtype)

    def attend(self, kernel: Any, rows: list[int], caches: list[JobCache], padding: int = 0, **options: Any) -> Any:
        table = DecodeTable(self.layout if caches is self.ours else self.host, len(rows) + padding)
        table.set([Segment(caches[row], self.lengths[row] - 1, [0]) for row in rows])
        device = caches[0].memory.device
        new = (tensor[rows + rows[:1] * padding].to(device) for tensor in (self.query, self.key, self.value))
        if "sinks" in options:
            options["sinks"] = torch.linspace(-1, options["sinks"], self.heads).to(device)
        return kernel(table, 1, *new, Scoring(**options)).cpu()


def make(batch: Batch, **changes: int) -> Any:
    return TritonKernel(batch.layout, batch.heads, len(batch.lengths) + 4, **({"splits": 4, "chunk": 4} | changes))


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(
    ("shape", "heads", "options"),
    [
        (LayerShape(2, 32, 32, None), 6, {}),
        (LayerShape(4, 16, 16, None), 4, {"scale": 0.5}),
        (LayerShape(1, 24, 40, None), 20, {}),
        (LayerShape(2, 64, 64, None), 4, {"softcap": 3.0}),
        (LayerShape(2, 32, 32, 16), 4, {"window": 16}),
        (LayerShape(2, 32, 16, 33), 4, {"window": 33, "softcap": 5.0}),
        (LayerShape(2, 32, 32, 16), 4, {"window": 16, "sinks": 3.0}),
    ],
    ids=["gqa", "mha", "mqa-odd", "softcap", "window", "window-softcap", "sinks"],
)
def test_it_attends_and_keeps_as_plain_torch_does(
    dtype: torch.dtype, shape: LayerShape, heads: int, options: dict[str, Any]
) -> None:
    batch = Batch(shape, heads, dtype, LENGTHS)
    rows = list(range(len(LENGTHS)))
    own = batch.attend(ReferenceKernel(), rows, batch.own, **options)
    ours = batch.attend(make(batch), rows, batch.ours, padding=3, **options)
    assert (ours[: len(rows)].float() - own.float()).abs().max() <= TOLERANCES[dtype] * own.float().abs().max()
    assert not ours[len(rows) :].any()
    for left, right in zip(batch.own, batch.ours, strict=True):
        assert torch.equal(left.memory, right.memory.cpu())


def test_a_ring_that_has_gone_round_is_read_where_it_is() -> None:
    shape = LayerShape(2, 16, 16, 8)
    ring = 8 - 1 + MAX_CHUNK_TOKENS
    lengths = [ring - 1, ring, ring + 1, ring + 5, 3 * ring + 2]
    batch = Batch(shape, 4, torch.float32, lengths)
    rows = list(range(len(lengths)))
    own = batch.attend(ReferenceKernel(), rows, batch.own, window=8)
    ours = batch.attend(make(batch), rows, batch.ours, window=8)
    assert (ours - own).abs().max() <= 1e-5 * own.abs().max()
    for left, right in zip(batch.own, batch.ours, strict=True):
        assert torch.equal(left.memory, right.memory.cpu())


def test_neighbours_change_no_bit() -> None:
    batch = Batch(LayerShape(2, 32, 32, None), 4, torch.float32, LENGTHS)
    kernel = make(batch)
    together = batch.attend(kernel, list(range(len(LENGTHS))), batch.ours)
    for row in range(len(LENGTHS)):
        assert torch.equal(batch.attend(kernel, [row], batch.ours)[0], together[row])


def test_the_parts_of_the_worker_itself_serve_too() -> None:
    lengths = [1, 127, 128, 129, 130, 257, 4500]
    batch = Batch(LayerShape(1, 16, 16, None), 2, torch.float32, lengths)
    kernel = TritonKernel(batch.layout, 2, len(lengths))
    rows = list(range(len(lengths)))
    own = batch.attend(ReferenceKernel(), rows, batch.own)
    assert (batch.attend(kernel, rows, batch.ours) - own).abs().max() <= 1e-5 * own.abs().max()


def test_more_heads_than_it_has_room_for_are_refused() -> None:
    batch = Batch(LayerShape(2, 16, 16, None), 8, torch.float32, [3])
    with pytest.raises(RuntimeError, match="more heads"):
        batch.attend(TritonKernel(batch.layout, 4, 1), [0], batch.ours)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_passes_the_check_that_a_worker_makes(architecture: str, caplog: pytest.LogCaptureFixture) -> None:
    loaded = adopt_model(make_model(architecture).to(DEVICE), make_tokenizer())
    decoder = assemble(loaded, 2, lambda: TritonKernel(loaded.layout, 4, 2), Rerun())
    assert decoder is not None
    assert not caplog.records
