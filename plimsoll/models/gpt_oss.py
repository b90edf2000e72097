"""gpt-oss: attention sinks, windows in every other layer, biases everywhere, clamped experts.

Each head has a learned score of a key without value (a sink), which takes weight from the
others. Experts multiply (up + 1) by gate * sigmoid(alpha * gate), both clamped; the router's
softmax runs over the chosen experts alone. Stored stacks interleave gate and up and are
transposed to ours. Left out: MXFP4 checkpoints (refused), norms kept in float32.
Source: arXiv 2508.10925.

Legend: T tokens, C width of the residual stream, H query heads, K key heads, D head width.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from plimsoll.models.checkpoint_names import Part, plain_export, plain_place
from plimsoll.models.context import Context
from plimsoll.models.decoder_stack import DecoderStack
from plimsoll.models.dimensions import Dimensions, layer_windows, read_dimensions
from plimsoll.models.grouped_attention import GroupedAttention, kv_shapes
from plimsoll.models.llama import PreNormLayer
from plimsoll.models.moe import Experts, GatedUnit, MoeMlp, TopKSoftmaxRouter
from plimsoll.models.rope import Rotary, read_rope
from plimsoll.spec.errors import UnsupportedError
from plimsoll.spec.hf.fields import Fields

__all__ = ["GptOss", "SinkAttention", "export_gpt_oss", "place_gpt_oss"]

_EXPERTS = ".mlp.experts."


class SinkAttention(GroupedAttention):
    """Grouped attention with one sink a head."""

    def __init__(
        self, index: int, dims: Dimensions, rotary: Rotary, *, bias: bool, window: int
    ) -> None:
        super().__init__(index, dims, rotary, qkv_bias=bias, output_bias=bias, window=window)
        self.sinks = nn.Parameter(torch.zeros(dims.num_heads))

    def forward(self, x_TC: Tensor, positions_T: Tensor, context: Context) -> Tensor:
        """[T, C]"""
        tokens = x_TC.shape[0]
        q_THD = self.q_proj(x_TC).view(tokens, -1, self.head_dim)
        k_TKD = self.k_proj(x_TC).view(tokens, -1, self.head_dim)
        v_TKD = self.v_proj(x_TC).view(tokens, -1, self.head_dim)
        q_THD, k_TKD = self.rotary(q_THD, k_TKD, positions_T)
        out_THD = context.attend(
            self.index,
            q_THD,
            k_TKD,
            v_TKD,
            scale=self.scale,
            window=self.window,
            sinks=self.sinks,
        )
        return self.o_proj(out_THD.reshape(tokens, -1))


class GptOss(DecoderStack):
    """Even layers have windows where ``layer_types`` does not say which."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        dims = read_dimensions(config, head_dim=64)
        fields = Fields(config, where="config.json")
        num_experts = fields.required("num_local_experts", "num_experts")
        fields.check_missing()
        top_k = fields.optional(
            "num_experts_per_tok", "experts_per_token", default=4, least=1, most=num_experts
        )
        alpha = fields.number("swiglu_alpha") if fields.has("swiglu_alpha") else 1.702
        limit = fields.number("swiglu_limit") if fields.has("swiglu_limit") else 7.0
        bias = fields.flag("attention_bias", default=True)
        types = [
            "full_attention" if index % 2 else "sliding_attention"
            for index in range(dims.num_layers)
        ]
        windows = layer_windows(config, types, config.get("sliding_window") or 0)
        rotary = Rotary(read_rope(config, dims.head_dim, theta=150_000.0))
        unit = _clamped_unit(alpha, limit)
        layers = [
            PreNormLayer(
                SinkAttention(index, dims, rotary, bias=bias, window=window),
                MoeMlp(
                    TopKSoftmaxRouter(dims.hidden, num_experts, top_k, bias=True),
                    Experts(dims.hidden, dims.intermediate, num_experts, unit, bias=True),
                ),
                dims.hidden,
                dims.eps,
            )
            for index, window in enumerate(windows)
        ]
        super().__init__(config, dims, layers, kv_shapes(dims))


def place_gpt_oss(name: str, tensor: Tensor, config: Mapping[str, Any]) -> Iterator[Part]:
    """Interleaved stacks taken apart and transposed; the router is called ``gate``.

    Raises:
        UnsupportedError: the experts are stored in MXFP4.
    """
    if name.endswith(("_blocks", "_scales")):
        raise UnsupportedError(
            f"{name}: MXFP4 experts are not loaded; use a checkpoint with bf16 or fp32 weights"
        )
    for part in plain_place(name, tensor, config):
        layer, found, matrix = part.name.partition(_EXPERTS)
        prefix = layer + _EXPERTS
        if not found:
            yield Part(part.name.replace(".mlp.router.", ".mlp.gate."), tensor)
        elif matrix == "gate_up_proj":
            yield Part(f"{prefix}gate_proj", tensor[..., 0::2].transpose(1, 2))
            yield Part(f"{prefix}up_proj", tensor[..., 1::2].transpose(1, 2))
        elif matrix == "gate_up_proj_bias":
            yield Part(f"{prefix}gate_bias", tensor[..., 0::2])
            yield Part(f"{prefix}up_bias", tensor[..., 1::2])
        elif matrix == "down_proj":
            yield Part(f"{prefix}down_proj", tensor.transpose(1, 2))
        elif matrix == "down_proj_bias":
            yield Part(f"{prefix}down_bias", tensor)
        else:
            yield part


def export_gpt_oss(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The way back."""
    stored: dict[str, Tensor] = {}
    for name, tensor in plain_export(tensors, config).items():
        layer, found, matrix = name.partition(_EXPERTS)
        prefix = layer + _EXPERTS
        if not found:
            stored[name.replace(".mlp.gate.", ".mlp.router.")] = tensor
        elif matrix == "gate_proj":
            up = tensors[name.removeprefix("model.").replace("gate_proj", "up_proj")]
            both = torch.stack([tensor, up], dim=2).flatten(1, 2)
            stored[f"{prefix}gate_up_proj"] = both.transpose(1, 2)
        elif matrix == "gate_bias":
            up = tensors[name.removeprefix("model.").replace("gate_bias", "up_bias")]
            stored[f"{prefix}gate_up_proj_bias"] = torch.stack([tensor, up], dim=2).flatten(1)
        elif matrix == "down_proj":
            stored[f"{prefix}down_proj"] = tensor.transpose(1, 2)
        elif matrix == "down_bias":
            stored[f"{prefix}down_proj_bias"] = tensor
    return stored


def _clamped_unit(alpha: float, limit: float) -> GatedUnit:
    def unit(gate: Tensor, up: Tensor) -> Tensor:
        gate = gate.clamp(max=limit)
        return (up.clamp(-limit, limit) + 1) * gate * torch.sigmoid(gate * alpha)

    return unit
