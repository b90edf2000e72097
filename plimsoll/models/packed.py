"""Linear layers whose weights lie as the processor's matrix kernels read them.

torch's plain linear layer reads row-major weights; oneDNN reorders a block at every call or takes
a slower kernel. ``pack_linears`` reorders each weight once and for all, from outside the models:
the same products, two to three times as fast for the few rows of a decode step (bf16 and fp32,
Zen 4). Rows are filled up with zeros: to five, because that kernel reads weights faster than the
one of a single row, and above sixteen to a multiple of it, because oneDNN builds a kernel at the
first use of each number of rows, which takes a millisecond or more. A subclass of ``nn.Linear``
is left alone: its weight may be read in other ways. Left out: experts kept in one tensor;
gradients.
Source: oneDNN's blocked weight formats, github.com/uxlfoundation/oneDNN.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from plimsoll.models.decoder_stack import DecoderStack

__all__ = ["PackedLinear", "can_pack", "pack_linears"]

_LEAST_ROWS = 5
_USUAL_ROWS = 16
"""The layout is chosen for passes of about so many rows; every other number works with it."""


def _filled(rows: int) -> int:
    if rows <= _USUAL_ROWS:
        return max(rows, _LEAST_ROWS)
    return -(-rows // _USUAL_ROWS) * _USUAL_ROWS


class PackedLinear(nn.Module):
    """x @ weight.T + bias of a weight [outputs, inputs] on the CPU; ``packed`` is opaque."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.bias = None if bias is None else bias.detach()
        with torch.inference_mode(False):
            self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _USUAL_ROWS)

    def forward(self, x_TC: Tensor) -> Tensor:
        """[T, outputs]"""
        rows = x_TC.shape[0]
        more = _filled(rows) - rows
        if more:
            x_TC = functional.pad(x_TC, (0, 0, 0, more))
        out = torch.ops.mkldnn._linear_pointwise(x_TC, self.packed, self.bias, "none", [], "")
        return cast(Tensor, out[:rows] if more else out)


def can_pack(weight: Tensor) -> bool:
    """Whether this torch on this processor has the kernels for it."""
    dtype = weight.dtype
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if dtype == torch.float16:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return dtype == torch.float32


def pack_linears(model: nn.Module) -> int:
    """Replace the linear layers of a model on the CPU, for inference; how many were replaced.

    Weights are given up one by one. A tied head gets a packed copy of the embedding.
    """
    found = 0
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and can_pack(child.weight):
                setattr(module, name, PackedLinear(child.weight, child.bias))
                found += 1
    if isinstance(model, DecoderStack) and model.lm_head is None:
        weight = model.embed_tokens.weight
        if can_pack(weight):
            cast(Any, model).lm_head = PackedLinear(weight)
            found += 1
    return found
