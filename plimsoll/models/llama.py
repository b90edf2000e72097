"""Llama and the families that differ from it by a bias, a norm or a window.

Pre-norm blocks of rotary grouped-query attention and a gated feed-forward part. Mistral adds a
sliding window in every layer, Qwen2 biases of queries, keys and values, Qwen3 norms of queries
and keys; both Qwens can give windows to their upper layers. Left out: ``pretraining_tp``, dropout.
Sources: arXiv 2302.13971, 2407.21783 (Llama), 2310.06825 (Mistral), 2407.10671 (Qwen2),
2505.09388 (Qwen3).

Legend: T tokens, C width of the residual stream.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from plimsoll.models.context import Context
from plimsoll.models.decoder_stack import DecoderStack
from plimsoll.models.dimensions import layer_windows, read_dimensions
from plimsoll.models.grouped_attention import GroupedAttention, kv_shapes
from plimsoll.models.layers import GatedMlp, RmsNorm
from plimsoll.models.rope import Rotary, read_rope

__all__ = ["Llama", "Mistral", "PreNormDecoder", "PreNormLayer", "Qwen2", "Qwen3", "qwen_windows"]


class PreNormLayer(nn.Module):
    """x + attention(norm(x)), then the same with ``mlp``; families bring the two parts."""

    def __init__(self, attention: nn.Module, mlp: nn.Module, hidden: int, eps: float) -> None:
        super().__init__()
        self.self_attn = attention
        self.mlp = mlp
        self.input_layernorm = RmsNorm(hidden, eps)
        self.post_attention_layernorm = RmsNorm(hidden, eps)

    def forward(self, hidden_TC: Tensor, positions_T: Tensor, context: Context) -> Tensor:
        """[T, C]"""
        normed_TC = self.input_layernorm(hidden_TC)
        hidden_TC = hidden_TC + self.self_attn(normed_TC, positions_T, context)
        return hidden_TC + self.mlp(self.post_attention_layernorm(hidden_TC))


class PreNormDecoder(DecoderStack):
    """Pre-norm layers, all alike but for their windows."""

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        windows: list[int],
        qkv_bias: bool = False,
        output_bias: bool = False,
        mlp_bias: bool = False,
        qk_norm: bool = False,
        head_dim: int = 0,
    ) -> None:
        dims = read_dimensions(config, head_dim=head_dim)
        rotary = Rotary(read_rope(config, dims.head_dim))
        layers = [
            PreNormLayer(
                GroupedAttention(
                    index,
                    dims,
                    rotary,
                    qkv_bias=qkv_bias,
                    output_bias=output_bias,
                    qk_norm=qk_norm,
                    window=window,
                ),
                GatedMlp(dims.hidden, dims.intermediate, dims.activation, bias=mlp_bias),
                dims.hidden,
                dims.eps,
            )
            for index, window in enumerate(windows)
        ]
        super().__init__(config, dims, layers, kv_shapes(dims))


class Llama(PreNormDecoder):
    """Llama 1 to 3, and what uses its layout."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        bias = bool(config.get("attention_bias"))
        super().__init__(
            config,
            windows=[0] * read_dimensions(config).num_layers,
            qkv_bias=bias,
            output_bias=bias,
            mlp_bias=bool(config.get("mlp_bias")),
        )


class Mistral(PreNormDecoder):
    """Llama with a window of ``sliding_window`` tokens; null means none, absence 4,096."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        window = config.get("sliding_window", 4096) or 0
        super().__init__(config, windows=[window] * read_dimensions(config).num_layers)


class Qwen2(PreNormDecoder):
    """Llama with biases of queries, keys and values; Qwen2.5 is the same."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config, windows=qwen_windows(config), qkv_bias=True)


class Qwen3(PreNormDecoder):
    """Llama with norms of each head's queries and keys."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        bias = bool(config.get("attention_bias"))
        super().__init__(
            config,
            windows=qwen_windows(config),
            qkv_bias=bias,
            output_bias=bias,
            qk_norm=True,
            head_dim=128,
        )


def qwen_windows(config: Mapping[str, Any]) -> list[int]:
    """Each layer's window: from ``max_window_layers`` up where ``use_sliding_window``."""
    num_layers = read_dimensions(config).num_layers
    window = (config.get("sliding_window", 4096) or 0) if config.get("use_sliding_window") else 0
    first = config.get("max_window_layers", 28)
    types = ["sliding_attention" if i >= first else "full_attention" for i in range(num_layers)]
    return layer_windows(config, types, window)
