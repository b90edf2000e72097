"""Bamba: Mamba-2 layers with an attention layer here and there, each with a feed-forward part.

``attn_layer_indices`` name the layers of rotary grouped-query attention, which turn half of each
head; all others are state spaces. Left out: the z-loss of training.
Source: ibm-ai-platform/Bamba-9B model card; arXiv 2405.21060 (Mamba-2).

Legend: T tokens, C width of the residual stream.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from plimsoll.models.checkpoint_names import Part, plain_export, plain_place
from plimsoll.models.context import Context
from plimsoll.models.decoder_stack import DecoderStack
from plimsoll.models.dimensions import Dimensions, read_dimensions
from plimsoll.models.grouped_attention import GroupedAttention, kv_shapes
from plimsoll.models.layers import GatedMlp, RmsNorm
from plimsoll.models.mamba2 import Mamba2Mixer, Mamba2Sizes, export_mixer, place_mixer
from plimsoll.models.rope import Rotary, read_rope
from plimsoll.spec.errors import UnsupportedError
from plimsoll.spec.hf.fields import Fields

__all__ = ["Bamba", "BambaLayer", "export_bamba", "place_bamba"]

_MIXER = ".mamba."


class BambaLayer(nn.Module):
    """x + mixer(norm(x)), then the same with the feed-forward part."""

    def __init__(
        self, mixer: GroupedAttention | Mamba2Mixer, dims: Dimensions, *, mlp_bias: bool
    ) -> None:
        super().__init__()
        self.mixer_name = "self_attn" if isinstance(mixer, GroupedAttention) else "mamba"
        self.add_module(self.mixer_name, mixer)
        self.feed_forward = GatedMlp(dims.hidden, dims.intermediate, dims.activation, bias=mlp_bias)
        self.input_layernorm = RmsNorm(dims.hidden, dims.eps)
        self.pre_ff_layernorm = RmsNorm(dims.hidden, dims.eps)

    def forward(self, hidden_TC: Tensor, positions_T: Tensor, context: Context) -> Tensor:
        """[T, C]"""
        mixer = self.get_submodule(self.mixer_name)
        hidden_TC = hidden_TC + mixer(self.input_layernorm(hidden_TC), positions_T, context)
        return hidden_TC + self.feed_forward(self.pre_ff_layernorm(hidden_TC))


class Bamba(DecoderStack):
    """``kv_shapes`` hold only the layers that attend."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        dims = read_dimensions(config)
        fields = Fields(config, where="config.json")
        if dims.activation != "silu":
            raise UnsupportedError(
                f"config.json: hidden_act {dims.activation!r} is not supported for bamba; "
                "only silu is"
            )
        attending = set(fields.counts("attn_layer_indices", most=dims.num_layers - 1))
        bias, mlp_bias = fields.flag("attention_bias"), fields.flag("mlp_bias")
        sizes = _sizes(config)
        rotary = Rotary(read_rope({"partial_rotary_factor": 0.5} | dict(config), dims.head_dim))

        def mixer(index: int) -> GroupedAttention | Mamba2Mixer:
            if index in attending:
                return GroupedAttention(index, dims, rotary, qkv_bias=bias, output_bias=bias)
            return Mamba2Mixer(index, dims.hidden, sizes, dims.eps)

        layers = [
            BambaLayer(mixer(index), dims, mlp_bias=mlp_bias) for index in range(dims.num_layers)
        ]
        shapes = {i: shape for i, shape in kv_shapes(dims).items() if i in attending}
        super().__init__(config, dims, layers, shapes, has_states=True)


def place_bamba(name: str, tensor: Tensor, config: Mapping[str, Any]) -> Iterator[Part]:
    """Stacked input projections and convolutions taken apart; the final norm is ``norm``."""
    for part in plain_place(name, tensor, config):
        layer, found, inner = part.name.partition(_MIXER)
        if found:
            yield from place_mixer(layer + _MIXER, inner, tensor, _sizes(config))
        else:
            yield Part(part.name.replace("final_layernorm.", "norm."), tensor)


def export_bamba(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The way back."""
    mixers: dict[str, dict[str, Tensor]] = {}
    stored: dict[str, Tensor] = {}
    for name, tensor in plain_export(tensors, config).items():
        layer, found, inner = name.partition(_MIXER)
        if found:
            mixers.setdefault(layer, {})[inner] = tensor
        else:
            stored[name.replace("model.norm.", "model.final_layernorm.")] = tensor
    for layer, parts in mixers.items():
        stored |= {layer + _MIXER + name: part for name, part in export_mixer(parts).items()}
    return stored


def _sizes(config: Mapping[str, Any]) -> Mamba2Sizes:
    fields = Fields(config, where="config.json")
    heads = fields.required("mamba_n_heads")
    hidden = fields.required("hidden_size")
    state_dim = fields.required("mamba_d_state")
    fields.check_missing()
    expand = fields.optional("mamba_expand", default=2, least=1)
    given = (
        dict(config) | {"mamba_d_head": None} if config.get("mamba_d_head") == "auto" else config
    )
    fields = Fields(given, where="config.json")
    least, most = config.get("time_step_limit") or (0.0, math.inf)
    return Mamba2Sizes(
        num_heads=heads,
        head_dim=fields.optional("mamba_d_head", default=expand * hidden // heads, least=1),
        num_groups=fields.optional("mamba_n_groups", default=1, least=1),
        state_dim=state_dim,
        conv_kernel=fields.optional("mamba_d_conv", default=4, least=1),
        conv_bias=fields.flag("mamba_conv_bias", default=True),
        projection_bias=fields.flag("mamba_proj_bias"),
        least_step=float(least),
        most_step=float(most) if isinstance(most, int | float) else math.inf,
    )
