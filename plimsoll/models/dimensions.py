"""The sizes nearly every decoder's ``config.json`` states, read and checked once.

Left out: what only one family has; its file reads that from the same dict.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from plimsoll.spec.errors import SpecError
from plimsoll.spec.hf.fields import Fields

__all__ = ["Dimensions", "layer_windows", "read_dimensions"]

_FULL, _SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimensions:
    """Sizes of a decoder with grouped-query attention; ``tied``: the embedding is the head."""

    vocab_size: int
    hidden: int
    intermediate: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    eps: float
    activation: str
    tied: bool


def read_dimensions(
    config: Mapping[str, Any], *, tied: bool = False, head_dim: int = 0
) -> Dimensions:
    """Read ``config``; ``tied`` and ``head_dim`` hold where it is silent.

    ``head_dim`` 0: the width over the number of heads.

    Raises:
        SpecError: fields are missing or do not fit together.
    """
    fields = Fields(config, where="config.json")
    hidden = fields.required("hidden_size")
    heads = fields.required("num_attention_heads")
    vocab_size = fields.required("vocab_size")
    intermediate = fields.required("intermediate_size")
    num_layers = fields.required("num_hidden_layers")
    fields.check_missing()
    kv_heads = fields.optional("num_key_value_heads", default=heads, least=1)
    head_dim = fields.optional("head_dim", default=head_dim or hidden // heads, least=1)
    if heads % kv_heads:
        raise SpecError(
            f"config.json: num_attention_heads {heads} is not a multiple of "
            f"num_key_value_heads {kv_heads}"
        )
    return Dimensions(
        vocab_size=vocab_size,
        hidden=hidden,
        intermediate=intermediate,
        num_layers=num_layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        eps=fields.number("rms_norm_eps") if fields.has("rms_norm_eps") else 1e-6,
        activation=fields.text("hidden_activation", "hidden_act", default="silu"),
        tied=fields.flag("tie_word_embeddings", default=tied),
    )


def layer_windows(config: Mapping[str, Any], default_types: list[str], window: int) -> list[int]:
    """The window of each layer, 0 for none: ``window`` where ``layer_types`` says so.

    ``default_types`` hold where the configuration lists none.
    """
    num_layers = len(default_types)
    types = config.get("layer_types") or default_types
    unknown = sorted({str(t) for t in types} - {_FULL, _SLIDING})
    if unknown:
        raise SpecError(f"config.json: layer_types: {', '.join(unknown)} is not expected here")
    if len(types) != num_layers:
        raise SpecError(f"config.json: layer_types: {len(types)} entries for {num_layers} layers")
    return [window if t == _SLIDING else 0 for t in types]
