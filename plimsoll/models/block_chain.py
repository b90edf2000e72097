"""A decoder cut into blocks, and decoders put together from blocks of several models.

The blocks of a model of L layers, in order: ``embed``, then ``attention`` and ``mlp`` of each
layer (each with the norm before it), then ``head`` (the last norm and the output map; a tied head
is the embedding's own tensor). A chain runs such blocks one after the other; where widths differ
a stitch stands between. Tensors are shared, not copied: chains that use one block hold it once.
Left out: families other than Llama, whose layers differ by depth.
Source: arXiv 2404.18322 (blocks, chains, stitches).

Legend: B sequences, T tokens, C width of the residual stream, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from plimsoll.models.context import Context, Decoder, KvShape
from plimsoll.models.dimensions import Dimensions, read_dimensions
from plimsoll.models.llama import Llama, PreNormLayer
from plimsoll.models.lora import Lora, adapters_of, attach
from plimsoll.spec.errors import SpecError, UnsupportedError

__all__ = ["Block", "BlockChain", "Stitch", "cut", "half_layer", "make_layer"]

_MLP = ("mlp.", "post_attention_layernorm.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One part of a model: ``kind`` embed, attention, mlp or head; ``depth`` its layer.

    ``config`` is its model's. ``loras`` are adapters that come with it, by path in the layer.
    """

    name: str
    kind: str
    depth: int
    config: Mapping[str, Any]
    vocabulary: str
    tensors: Mapping[str, Tensor]
    loras: Mapping[str, Lora] = field(default_factory=dict)

    @property
    def dims(self) -> Dimensions:
        """Sizes of its model."""
        return read_dimensions(self.config)

    @property
    def shapes(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Names and shapes of its tensors; equal for blocks that can stand in for each other."""
        return tuple(sorted((name, tuple(t.shape)) for name, t in self.tensors.items()))


class Stitch(nn.Module):
    """A linear map from one width to another; the depth it stands at is one more input."""

    def __init__(self, weight_CK: Tensor, depth: float) -> None:
        """``weight_CK`` [outputs, inputs + 1]."""
        super().__init__()
        self.weight_CK = weight_CK
        self.depth = depth

    def forward(self, hidden_TC: Tensor) -> Tensor:
        """[T, width after]"""
        depth_T1 = hidden_TC.new_full((len(hidden_TC), 1), self.depth)
        return torch.cat([hidden_TC, depth_T1], dim=1) @ self.weight_CK.T


def cut(name: str, model: Decoder, *, vocabulary: str) -> tuple[Block, ...]:
    """The blocks of a model, in order, with its adapters; tensors are the model's own.

    ``vocabulary`` names the tokenizer: ids mean the same only under one name.

    Raises:
        UnsupportedError: the model is no Llama.
    """
    if not isinstance(model, Llama):
        raise UnsupportedError(
            f"{name}: blocks are cut from Llama models; this is a {type(model).__name__}"
        )

    def block(kind: str, depth: int, tensors: Mapping[str, Tensor], **more: Any) -> Block:
        label = f"{name}/{kind}" if kind in ("embed", "head") else f"{name}/{depth}.{kind}"
        return Block(
            name=label,
            kind=kind,
            depth=depth,
            config=model.config,
            vocabulary=vocabulary,
            tensors={k: t.detach() for k, t in tensors.items()},
            **more,
        )

    table = model.embed_tokens.weight
    found = [block("embed", 0, {"embed_tokens.weight": table})]
    for depth, layer in enumerate(model.layers):
        tensors = {k.replace(".base.", "."): t for k, t in layer.state_dict().items()}
        loras = adapters_of(layer)
        for kind in ("attention", "mlp"):
            own = {k: t for k, t in tensors.items() if k.startswith(_MLP) == (kind == "mlp")}
            adapters = {k: a for k, a in loras.items() if k.startswith(_MLP) == (kind == "mlp")}
            found.append(block(kind, depth, own, loras=adapters))
    head = table if model.lm_head is None else model.lm_head.weight
    tensors = {"norm.weight": model.norm.weight, "lm_head.weight": head}
    return (*found, block("head", len(model.layers), tensors))


def make_layer(attention: Block, mlp: Block, index: int) -> PreNormLayer:
    """A layer of these two blocks that caches under ``index``; tensors are shared.

    Raises:
        SpecError: their widths differ.
    """
    if attention.dims.hidden != mlp.dims.hidden:
        raise _unjoined(attention, mlp)
    layer = half_layer(attention)
    other = half_layer(mlp)
    layer.mlp = other.mlp
    layer.post_attention_layernorm = other.post_attention_layernorm
    layer.self_attn.index = index  # type: ignore[assignment]
    return layer


def half_layer(block: Block) -> PreNormLayer:
    """A layer of which only the half that ``block`` is has weights; the tensors are shared."""
    with torch.device("meta"):
        whole = Llama({**block.config, "num_hidden_layers": 1})
    layer = cast(PreNormLayer, whole.layers[0])
    layer.load_state_dict(dict(block.tensors), strict=False, assign=True)
    layer.requires_grad_(False)
    attach(layer, block.loras)
    return layer


class BlockChain(nn.Module):
    """A ``Decoder`` of blocks, in the order of ``cut``.

    ``stitches`` by (name before, name after), needed between blocks of different widths; one
    may stand between layers or before the head.

    Raises:
        SpecError: kinds are out of order, vocabularies or widths differ without a stitch.
    """

    def __init__(
        self, blocks: Sequence[Block], stitches: Mapping[tuple[str, str], Stitch] | None = None
    ) -> None:
        super().__init__()
        stitches = stitches or {}
        self.blocks = tuple(blocks)
        _check_order(self.blocks)
        embed, *middle, head = self.blocks
        self.config = dict(head.config)
        self.has_states = False
        self.layers = nn.ModuleList()
        self.kv_shapes: dict[int, KvShape] = {}
        self._before: dict[int, Stitch] = {}
        last = embed
        for index in range(len(middle) // 2):
            attention, mlp = middle[2 * index], middle[2 * index + 1]
            self._join(last, attention, index, stitches)
            self.layers.append(make_layer(attention, mlp, index))
            dims = attention.dims
            self.kv_shapes[index] = KvShape(
                num_heads=dims.num_kv_heads, key_dim=dims.head_dim, value_dim=dims.head_dim
            )
            last = mlp
        self._join(last, head, len(self.layers), stitches)
        self.table_VC = embed.tensors["embed_tokens.weight"]
        self.head_VC = head.tensors["lm_head.weight"]
        self.gain_C = head.tensors["norm.weight"]
        self.eps = head.dims.eps

    def _join(
        self, a: Block, b: Block, index: int, stitches: Mapping[tuple[str, str], Stitch]
    ) -> None:
        if a.vocabulary != b.vocabulary:
            raise SpecError(
                f"{a.name} and {b.name}: made for the vocabularies {a.vocabulary} and "
                f"{b.vocabulary}; a chain has one"
            )
        if (a.name, b.name) in stitches:
            self._before[index] = stitches[a.name, b.name]
        elif a.dims.hidden != b.dims.hidden:
            raise _unjoined(a, b)

    def embed(self, tokens_T: Tensor) -> Tensor:
        """See ``Decoder``."""
        return nn.functional.embedding(tokens_T, self.table_VC)

    def finish(self, hidden_TC: Tensor) -> Tensor:
        """See ``Decoder``."""
        if len(self.layers) in self._before:
            hidden_TC = self._before[len(self.layers)](hidden_TC)
        return nn.functional.rms_norm(hidden_TC, self.gain_C.shape, self.gain_C, self.eps)

    def logits(self, hidden_NC: Tensor) -> Tensor:
        """See ``Decoder``."""
        return nn.functional.linear(hidden_NC, self.head_VC)

    def forward(self, tokens_T: Tensor, positions_T: Tensor, context: Context) -> Tensor:
        """See ``Decoder``."""
        hidden_TC = self.embed(tokens_T)
        for index, layer in enumerate(self.layers):
            if index in self._before:
                hidden_TC = self._before[index](hidden_TC)
            hidden_TC = layer(hidden_TC, positions_T, context)
        return self.finish(hidden_TC)


def _check_order(blocks: Sequence[Block]) -> None:
    expected = ["embed", *["attention", "mlp"] * ((len(blocks) - 2) // 2), "head"]
    kinds = [block.kind for block in blocks]
    if kinds != expected:
        raise SpecError(
            f"a chain of {', '.join(kinds) or 'nothing'}; expected embed, then attention and mlp "
            "of each layer, then head"
        )


def _unjoined(a: Block, b: Block) -> SpecError:
    return SpecError(
        f"{a.name} is {a.dims.hidden} wide and {b.name} {b.dims.hidden}; "
        "learn a stitch between the two or use blocks of one width"
    )
