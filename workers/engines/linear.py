"""Linear layers on the CPU, their weights laid out once for oneDNN.

torch hands a float32 product to MKL, which on some processors does half of what they can, and lays bfloat16 weights
out anew in each call. What is kept here are the same numbers in another order, in place of the plain ones.
"""

from __future__ import annotations

from typing import TypeGuard, cast

import torch
from torch import nn


class PackedLinear(nn.Module):
    """Does what the layer does that it was made of."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        # These two operators are what torch.compile puts in place of linear layers whose weights are frozen.
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)

    @property
    def weight(self) -> torch.Tensor:
        """The plain weight, made anew at each reading: for a model that looks at it."""
        return cast(torch.Tensor, self._packed.to_dense())

    @property
    def packed_bytes(self) -> int:
        """Bytes of the weight, which is no parameter any more."""
        return int(self._packed.nbytes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """From [..., in] to [..., out]."""
        product = torch.ops.mkldnn._linear_pointwise(features, self._packed, self.bias, "none", [], "")
        return cast(torch.Tensor, product)


@torch.inference_mode()
def pack(model: nn.Module) -> None:
    """Replace the linear layers of a model on the CPU, one after the other. Where oneDNN is missing all stays."""
    if not torch.backends.mkldnn.is_available():
        return
    dtypes = [torch.float32]
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        dtypes.append(torch.bfloat16)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if _is_plain(child) and child.weight.device.type == "cpu" and child.weight.dtype in dtypes:
                setattr(module, name, PackedLinear(child))


def _is_plain(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Not a subclass (quantized, an adapter), and with nothing hooked onto it."""
    hooked = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    return type(module) is nn.Linear and not hooked


def packed_bytes(model: nn.Module) -> int:
    """Bytes of all packed weights."""
    return sum(module.packed_bytes for module in model.modules() if isinstance(module, PackedLinear))
