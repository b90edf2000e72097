"""A rank's part of a decoder: some layers (pipeline), and in them some heads and widths (tensor).

Queries, keys, values, gates and ups are cut by output, the projections behind them by input, so
that a layer needs two sums over the ranks of a stage. Keys and values are copied where there are
more ranks than KV heads; experts are cut by width, the head by vocabulary where it is not tied.
Models know nothing of this: parameters of a model without memory are cut here, filled by
``loading``, and the places where ranks must add up are wrapped by ``connect``.
Left out: states (state-space layers), experts spread whole. Sources: arXiv 1909.08053 (tensor),
1811.06965 (pipeline).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, distributed, nn

from plimsoll.models.context import Decoder
from plimsoll.models.decoder_stack import DecoderStack
from plimsoll.models.deepseek import LatentAttention
from plimsoll.models.gpt_oss import SinkAttention
from plimsoll.models.grouped_attention import GroupedAttention
from plimsoll.models.layers import GatedMlp
from plimsoll.models.moe import Experts
from plimsoll.spec.errors import UnsupportedError

__all__ = ["Cut", "Shard", "connect", "cut_model", "own_part", "stage_layers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Rank ``tp_rank`` of the ``tp`` ranks of stage ``stage`` of ``num_stages``."""

    tp_rank: int = 0
    tp: int = 1
    stage: int = 0
    num_stages: int = 1

    @property
    def is_first(self) -> bool:
        """It embeds tokens."""
        return self.stage == 0

    @property
    def is_last(self) -> bool:
        """It has the head."""
        return self.stage == self.num_stages - 1


class Cut(NamedTuple):
    """``size`` numbers from ``first`` along ``dim`` of a whole parameter."""

    dim: int
    first: int
    size: int


def stage_layers(num_layers: int, shard: Shard) -> range:
    """The layers of a stage; the first stages take those left over.

    Raises:
        UnsupportedError: fewer layers than stages.
    """
    if num_layers < shard.num_stages:
        raise UnsupportedError(
            f"plan: pp = {shard.num_stages} but the model has {num_layers} layers; lower pp"
        )
    each, more = divmod(num_layers, shard.num_stages)
    first = shard.stage * each + min(shard.stage, more)
    return range(first, first + each + (shard.stage < more))


def cut_model(model: Decoder, shard: Shard) -> dict[str, Cut]:
    """Leave only the rank's part of a model without memory; how its parameters are cut, by name.

    Raises:
        UnsupportedError: the model cannot be cut like this.
    """
    if model.has_states and shard.tp * shard.num_stages > 1:
        raise UnsupportedError("plan: state-space layers are not cut; use tp = pp = 1, or replicas")
    stack = cast(DecoderStack, model)
    mine = stage_layers(len(stack.layers), shard)
    kv_heads: dict[int, int] = {}
    cuts: dict[str, Cut] = {}
    for index in range(len(stack.layers)):
        if index not in mine:
            stack.layers[index] = nn.Identity()
            continue
        for name, module in stack.layers[index].named_modules():
            for own, cut in _cuts(module, shard):
                cuts[f"layers.{index}.{name}.{own}"] = cut
            if isinstance(module, GroupedAttention):
                kv_heads[index] = _kv_rows(module, shard).size // module.head_dim
    _cut_ends(stack, shard, cuts)
    for name, cut in cuts.items():
        owner_name, _, own = name.rpartition(".")
        owner = stack.get_submodule(owner_name)
        whole = getattr(owner, own)
        setattr(owner, own, nn.Parameter(whole.narrow(*cut), requires_grad=False))
    stack.kv_shapes = {
        i: replace(shape, num_heads=kv_heads.get(i, shape.num_heads))
        for i, shape in stack.kv_shapes.items()
        if i in mine
    }
    return cuts


def connect(model: Decoder, shard: Shard, group: Any) -> None:
    """Wrap what only the sum over the stage's ranks gives, and the head that was cut."""
    if shard.tp == 1:
        return
    stack = cast(DecoderStack, model)
    for module in list(stack.layers.modules()):
        if isinstance(module, GroupedAttention | LatentAttention):
            module.o_proj = _Summed(module.o_proj, group)  # type: ignore[assignment]
        elif isinstance(module, GatedMlp):
            module.down_proj = _Summed(module.down_proj, group)  # type: ignore[assignment]
        elif hasattr(module, "experts") and isinstance(module.experts, Experts):
            module.experts = _Summed(module.experts, group)
    head = stack.lm_head
    if isinstance(head, nn.Linear) and head.weight.shape[0] < head.out_features:  # it was cut
        cast(Any, stack).lm_head = _Joined(head, shard.tp, group)


class _Summed(nn.Module):
    """A module whose outputs are added over the ranks of ``group``."""

    def __init__(self, inner: nn.Module, group: Any) -> None:
        super().__init__()
        self.inner = inner
        self._group = group

    def forward(self, *inputs: Tensor) -> Tensor:
        """The sum."""
        out = self.inner(*inputs).contiguous()
        distributed.all_reduce(out, group=self._group)
        return cast(Tensor, out)


def own_part(module: nn.Module) -> nn.Module:
    """The rank's own part of a module that ``connect`` may have wrapped, without the sum."""
    return module.inner if isinstance(module, _Summed) else module


class _Joined(nn.Module):
    """A head whose scores are put together from the ranks of ``group``, in order."""

    def __init__(self, inner: nn.Module, tp: int, group: Any) -> None:
        super().__init__()
        self.inner = inner
        self._tp = tp
        self._group = group

    def forward(self, hidden_NC: Tensor) -> Tensor:
        """[N, V]"""
        own = self.inner(hidden_NC).contiguous()
        parts = [torch.empty_like(own) for _ in range(self._tp)]
        distributed.all_gather(parts, own, group=self._group)
        return torch.cat(parts, dim=-1)


def _cut_ends(stack: DecoderStack, shard: Shard, cuts: dict[str, Cut]) -> None:
    """Embedding, last norm and head: only where they are used."""
    tied = stack.lm_head is None
    if not shard.is_first and not (shard.is_last and tied):
        cast(Any, stack).embed_tokens = nn.Identity()
    if not shard.is_last:
        cast(Any, stack).norm = nn.Identity()
        stack.lm_head = None
    elif isinstance(stack.lm_head, nn.Linear):
        rows = stack.lm_head.weight.shape[0]
        if rows % shard.tp == 0:
            cuts["lm_head.weight"] = _share(0, rows, shard, "vocabulary")


def _cuts(module: nn.Module, shard: Shard) -> Iterator[tuple[str, Cut]]:
    """(parameter, cut) of one module; biases that are added once stay on the first rank."""
    if shard.tp == 1:
        return
    if isinstance(module, GroupedAttention):
        heads = _heads(module.q_proj.weight.shape[0] // module.head_dim, module.head_dim, shard)
        kv = _kv_rows(module, shard)
        for name, rows in (("q_proj", heads), ("k_proj", kv), ("v_proj", kv)):
            yield f"{name}.weight", rows
            if getattr(module, name).bias is not None:
                yield f"{name}.bias", rows
        yield "o_proj.weight", Cut(1, heads.first, heads.size)
        _once(module.o_proj, "bias", shard)
        if isinstance(module, SinkAttention):
            each = heads.size // module.head_dim
            yield "sinks", Cut(0, shard.tp_rank * each, each)
    elif isinstance(module, LatentAttention):
        q_dim, up_dim = module.nope_dim + module.rope_dim, module.nope_dim + module.v_dim
        name = "q_b_proj" if module.q_rank else "q_proj"
        num = getattr(module, name).weight.shape[0] // q_dim
        yield f"{name}.weight", _heads(num, q_dim, shard)
        yield "kv_b_proj.weight", _heads(num, up_dim, shard)
        out = _heads(num, module.v_dim, shard)
        yield "o_proj.weight", Cut(1, out.first, out.size)
        _once(module.o_proj, "bias", shard)
    elif isinstance(module, GatedMlp):
        rows = _share(0, module.gate_proj.weight.shape[0], shard, "feed-forward width")
        for name in ("gate_proj", "up_proj"):
            yield f"{name}.weight", rows
            if getattr(module, name).bias is not None:
                yield f"{name}.bias", rows
        yield "down_proj.weight", Cut(1, rows.first, rows.size)
        _once(module.down_proj, "bias", shard)
    elif isinstance(module, Experts):
        width = _share(1, module.gate_proj.shape[1], shard, "expert width")
        for name in ("gate_proj", "up_proj", "gate_bias", "up_bias"):
            if getattr(module, name) is not None:
                yield name, width
        yield "down_proj", Cut(2, width.first, width.size)
        _once(module, "down_bias", shard)


def _once(module: nn.Module, name: str, shard: Shard) -> None:
    """A bias behind a sum is added by one rank."""
    if shard.tp_rank:
        setattr(module, name, None)


def _share(dim: int, whole: int, shard: Shard, what: str) -> Cut:
    if whole % shard.tp:
        raise UnsupportedError(
            f"plan: tp = {shard.tp} does not divide the model's {what} of {whole}; lower tp"
        )
    each = whole // shard.tp
    return Cut(dim, shard.tp_rank * each, each)


def _heads(num: int, width: int, shard: Shard) -> Cut:
    share = _share(0, num, shard, "query heads")
    return Cut(0, share.first * width, share.size * width)


def _kv_rows(module: GroupedAttention, shard: Shard) -> Cut:
    """Rows of keys and of values: whole heads, one of them shared where ranks outnumber heads."""
    width = module.head_dim
    num = module.k_proj.weight.shape[0] // width
    if num >= shard.tp or shard.tp % num:
        share = _share(0, num, shard, "KV heads")
        return Cut(0, share.first * width, share.size * width)
    return Cut(0, shard.tp_rank // (shard.tp // num) * width, width)
