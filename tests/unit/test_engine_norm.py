"""Norms as torch's own: only those that answer the same, on the same weights."""

from typing import Any

import pytest
import torch
from torch import nn

from tests.tiny import ARCHITECTURES, make_model
from workers.engines.norm import fuse_norms

IDS = torch.tensor([[5, 9, 200, 31]])
NORMS = {"gqa": 5, "mha": 5, "mqa": 5, "window": 5, "softcap": 0, "qwen": 9, "sinks": 5}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_with_its_norms_replaced_says_the_same(architecture: str, dtype: torch.dtype) -> None:
    model = make_model(architecture).to(dtype)
    weights = {name: tensor.data_ptr() for name, tensor in model.named_parameters()}
    with torch.inference_mode():
        own = model(input_ids=IDS, use_cache=False).logits.float()
        assert fuse_norms(model) == NORMS[architecture]
        ours = model(input_ids=IDS, use_cache=False).logits.float()
    assert (ours - own).abs().max() <= (1e-5 if dtype == torch.float32 else 0.02) * own.abs().max()
    assert {name: tensor.data_ptr() for name, tensor in model.named_parameters()} == weights
    assert fuse_norms(model) == 0


class OtherRMSNorm(nn.Module):
    """Looks like one, but adds one to its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.full((8,), 0.1)), 1e-6

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        normed = features * torch.rsqrt(features.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return normed * (1 + self.weight)


def test_others_stay() -> None:
    model: Any = make_model()
    model.model.norm.register_forward_hook(lambda *_: None)
    model.other = OtherRMSNorm()
    assert fuse_norms(model) == 4
    assert type(model.other) is OtherRMSNorm
