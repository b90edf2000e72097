"""Layers that a search chose one by one: ``block_configs`` of nemotron-nas models.

Each block says how many query heads share a KV head, or that attention is skipped or replaced
by one matrix, and how wide its feed-forward is as a multiple of the hidden width. Widths are
rounded up to a multiple of 256 as the reference implementation does.
"""

from typing import Any

from plimsoll.spec.hf.fields import Fields
from plimsoll.spec.model import Attention, DenseFfn, Ffn, Layer, Mixer, NoFfn, NoMixer

__all__ = ["block_layers"]

_ROUND = 256


def _width(block: Fields, hidden: int) -> int:
    if block.has("intermediate_size"):
        return block.required("intermediate_size", most=2**24)
    multiple = block.number("ffn_mult")
    if not 0 < multiple <= 1024:
        raise block.fail("ffn_mult", f"{multiple} is out of range; expected above 0 to 1,024")
    width = int(2 * multiple * hidden / 3)
    return -(-width // _ROUND) * _ROUND


def _mixer(block: Fields, hidden: int, heads: int) -> tuple[Mixer, int]:
    """The mixer and the parameters of a matrix that stands in for it."""
    if block.flag("no_op"):
        return NoMixer(), 0
    if block.flag("replace_with_linear"):
        return NoMixer(), hidden * hidden
    group = block.required("n_heads_in_group", most=2**16)
    block.check_missing()
    if heads % group:
        raise block.fail("n_heads_in_group", f"{group} does not divide {heads} heads")
    window = block.optional("window_length", default=0)
    attention = Attention(
        num_heads=heads,
        num_kv_heads=heads // group,
        head_dim=hidden // heads,
        window=window,
    )
    return attention, 0


def _ffn(block: Fields, hidden: int) -> tuple[Ffn, int]:
    if block.flag("no_op"):
        return NoFfn(), 0
    if block.flag("replace_with_linear"):
        return NoFfn(), hidden * hidden
    return DenseFfn(intermediate=_width(block, hidden)), 0


def block_layers(fields: Fields, *, hidden: int, heads: int) -> list[Layer]:
    """The layers that ``block_configs`` list."""
    blocks: Any = fields.data["block_configs"]
    if not isinstance(blocks, list) or not blocks or len(blocks) > 10_000:
        raise fields.fail("block_configs", "expected a list of 1 to 10,000 blocks")
    if hidden % heads:
        raise fields.fail("num_attention_heads", f"{heads} does not divide {hidden}")
    layers = []
    for index, data in enumerate(blocks):
        where = f"{fields.where}: block_configs[{index}]"
        if not isinstance(data, dict):
            raise fields.fail(f"block_configs[{index}]", "expected a mapping")
        block = Fields(data, where=where)
        attention, ffn = block.section("attention"), block.section("ffn")
        if attention is None or ffn is None:
            raise fields.fail(f"block_configs[{index}]", "expected attention and ffn")
        mixer, mixer_matrix = _mixer(attention, hidden, heads)
        part, ffn_matrix = _ffn(ffn, hidden)
        skipped = attention.flag("no_op") + ffn.flag("no_op")
        layers.append(
            Layer(
                mixer=mixer,
                ffn=part,
                num_norms=2 - skipped,
                extra_parameters=mixer_matrix + ffn_matrix,
            )
        )
    return layers
