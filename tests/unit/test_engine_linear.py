"""Packed linear layers give what plain ones give, and cost what they say."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.tiny import make_model, make_tokenizer
from workers.engines.linear import PackedLinear, pack, packed_bytes
from workers.engines.model import adopt_model


class Named(nn.Linear):
    """A subclass, which may do more."""


needs_bfloat16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor has no bfloat16 for oneDNN"
)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=needs_bfloat16)])
def test_a_packed_layer_gives_what_the_plain_one_gives(dtype: torch.dtype, bias: bool) -> None:
    torch.manual_seed(1)
    plain = nn.Linear(48, 80, bias=bias, dtype=dtype)
    holder = nn.Sequential(plain)
    pack(holder)
    packed = holder[0]
    assert isinstance(packed, PackedLinear)
    features = torch.randn(1, 5, 48, dtype=dtype)
    with torch.inference_mode():
        torch.testing.assert_close(packed(features), plain(features))
    assert torch.equal(packed.weight, plain.weight)
    assert packed.packed_bytes == plain.weight.nbytes
    assert (packed.in_features, packed.out_features) == (48, 80)


def test_a_row_is_the_same_to_the_bit_whatever_is_beside_it() -> None:
    torch.manual_seed(2)
    holder = nn.Sequential(nn.Linear(576, 192))
    pack(holder)
    rows = torch.randn(33, 576)
    with torch.inference_mode():
        together = holder(rows)
        assert all(torch.equal(holder(rows[index : index + 1])[0], together[index]) for index in range(33))


def test_layers_of_other_kinds_stay() -> None:
    hooked = nn.Linear(4, 4)
    hooked.register_forward_hook(lambda module, inputs, output: output)
    holder = nn.Sequential(Named(4, 4), nn.Linear(4, 4, dtype=torch.float64), nn.Embedding(4, 4), hooked)
    before = list(holder)
    pack(holder)
    assert list(holder) == before


def test_where_onednn_is_missing_all_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    holder = nn.Sequential(nn.Linear(4, 4))
    pack(holder)
    assert type(holder[0]) is nn.Linear


def test_a_models_weights_are_counted_as_they_lie_in_memory() -> None:
    """An output layer that was tied to the embedding has bytes of its own once it is packed."""
    model = make_model("gqa", tie_word_embeddings=True)
    plain = sum(parameter.nbytes for parameter in model.parameters())
    loaded = adopt_model(model, make_tokenizer())
    assert packed_bytes(model) > 0
    buffers = sum(buffer.nbytes for buffer in model.buffers())
    assert loaded.weights_bytes == plain + buffers + model.get_input_embeddings().weight.nbytes
