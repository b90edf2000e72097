"""Gemma 2: norms on both sides of each part, soft-capped scores, every other layer with a window.

Embeddings are multiplied by the root of the width, norms by one plus their weight; the head is
the embedding. Attention scores and next-token scores are soft-capped. Left out: dropout,
attention in both directions. Source: arXiv 2408.00118.

Legend: T tokens, C width of the residual stream.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from plimsoll.models.context import Context
from plimsoll.models.decoder_stack import DecoderStack
from plimsoll.models.dimensions import Dimensions, layer_windows, read_dimensions
from plimsoll.models.grouped_attention import GroupedAttention, kv_shapes
from plimsoll.models.layers import GatedMlp, RmsNorm
from plimsoll.models.rope import Rotary, read_rope

__all__ = ["Gemma2", "SandwichLayer", "gemma_defaults"]


class SandwichLayer(nn.Module):
    """x + norm(attention(norm(x))), then the same with the feed-forward part."""

    def __init__(self, attention: nn.Module, dims: Dimensions) -> None:
        super().__init__()
        self.self_attn = attention
        self.mlp = GatedMlp(dims.hidden, dims.intermediate, dims.activation)
        self.input_layernorm = RmsNorm(dims.hidden, dims.eps, one_plus=True)
        self.post_attention_layernorm = RmsNorm(dims.hidden, dims.eps, one_plus=True)
        self.pre_feedforward_layernorm = RmsNorm(dims.hidden, dims.eps, one_plus=True)
        self.post_feedforward_layernorm = RmsNorm(dims.hidden, dims.eps, one_plus=True)

    def forward(self, hidden_TC: Tensor, positions_T: Tensor, context: Context) -> Tensor:
        """[T, C]"""
        attended_TC = self.self_attn(self.input_layernorm(hidden_TC), positions_T, context)
        hidden_TC = hidden_TC + self.post_attention_layernorm(attended_TC)
        fed_TC = self.mlp(self.pre_feedforward_layernorm(hidden_TC))
        return hidden_TC + self.post_feedforward_layernorm(fed_TC)


class Gemma2(DecoderStack):
    """Windows in the even layers, unless ``layer_types`` says otherwise."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        given = gemma_defaults(
            config, attn_logit_softcapping=50.0, final_logit_softcapping=30.0, sliding_window=4096
        )
        dims = read_dimensions(given, tied=True)
        types = ["full_attention" if i % 2 else "sliding_attention" for i in range(dims.num_layers)]
        windows = layer_windows(given, types, given["sliding_window"] or 0)
        bias = bool(given.get("attention_bias"))
        rotary = Rotary(read_rope(given, dims.head_dim))
        layers = [
            SandwichLayer(
                GroupedAttention(
                    index,
                    dims,
                    rotary,
                    qkv_bias=bias,
                    output_bias=bias,
                    window=window,
                    softcap=given["attn_logit_softcapping"] or 0.0,
                    scale=given["query_pre_attn_scalar"] ** -0.5,
                ),
                dims,
            )
            for index, window in enumerate(windows)
        ]
        super().__init__(
            config,
            dims,
            layers,
            kv_shapes(dims),
            one_plus=True,
            embed_scale=dims.hidden**0.5,
            softcap=given["final_logit_softcapping"] or 0.0,
        )


def gemma_defaults(config: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """``config`` over what Gemma's published configurations leave out; ``more`` of the same."""
    defaults = {
        "head_dim": 256,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 256,
    }
    return defaults | more | dict(config)
