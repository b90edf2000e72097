"""Gemma 3, the language model: Gemma 2 with norms of queries and keys in place of soft-caps.

Five layers of six have a window, and turn heads by a shorter wave (``rope_local_base_freq``) that
is never stretched. Left out: the vision tower of the multimodal versions (their language model is
loaded), attention in both directions. Source: arXiv 2503.19786.
"""

from collections.abc import Mapping
from typing import Any

from plimsoll.models.decoder_stack import DecoderStack
from plimsoll.models.dimensions import layer_windows, read_dimensions
from plimsoll.models.gemma2 import SandwichLayer, gemma_defaults
from plimsoll.models.grouped_attention import GroupedAttention, kv_shapes
from plimsoll.models.rope import RopeSettings, Rotary, read_rope

__all__ = ["Gemma3"]


class Gemma3(DecoderStack):
    """Every sixth layer sees all tokens, unless the configuration says otherwise."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        given = gemma_defaults(
            config,
            vocab_size=262_208,
            max_position_embeddings=131_072,
            sliding_window=4096,
            sliding_window_pattern=6,
        )
        dims = read_dimensions(given, tied=True)
        every = given["sliding_window_pattern"]
        types = [
            "sliding_attention" if (i + 1) % every else "full_attention"
            for i in range(dims.num_layers)
        ]
        windows = layer_windows(given, types, given["sliding_window"] or 0)
        types = given.get("layer_types") or types
        rotaries = {
            "full_attention": Rotary(
                read_rope(given, dims.head_dim, layer_type="full_attention", theta=1e6)
            ),
            "sliding_attention": Rotary(_local_rope(given, dims.head_dim)),
        }
        bias = bool(given.get("attention_bias"))
        layers = [
            SandwichLayer(
                GroupedAttention(
                    index,
                    dims,
                    rotaries[types[index]],
                    qkv_bias=bias,
                    output_bias=bias,
                    qk_norm=True,
                    one_plus=True,
                    window=window,
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
            softcap=given.get("final_logit_softcapping") or 0.0,
        )


def _local_rope(config: Mapping[str, Any], head_dim: int) -> RopeSettings:
    """Of the layers with a window, in the old spelling or by type of layer."""
    if "sliding_attention" in (config.get("rope_parameters") or {}):
        return read_rope(config, head_dim, layer_type="sliding_attention")
    theta = config.get("rope_local_base_freq")
    local = {"rope_theta": theta, "max_position_embeddings": config["max_position_embeddings"]}
    return read_rope(local, head_dim)
