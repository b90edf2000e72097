"""Decode attention that reads a prefix once for all sequences that share its blocks.

Sequences whose block tables begin alike hold the same keys and values there. Their queries attend
to the shared blocks in one product, each to its own rest as ever, and the two are joined by maximum
and sum (log-sum-exp). Which sequences go together is read off the tables: the single level of
sharing that saves most blocks. Layers with a window, soft-caps, sinks or latent keys go as before.
Source: arXiv 2412.03594, section 6; 2402.05099 (attention over a shared prefix).

Legend: S sequences of a group, m tokens gathered, H query heads, K key heads, G = H / K, D and E
key and value widths.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from plimsoll.models.dist_attention import Partial, merge_partials
from plimsoll.serving.executors.torch.kv_store import KvStore
from plimsoll.serving.executors.torch.messages import Work
from plimsoll.serving.executors.torch.paged_context import PagedContext, page_pairs

__all__ = ["SharedPrefixContext", "shared_runs"]

_LEAST_BLOCKS = 2
"""A shorter prefix is not worth a product of its own."""
_MOST_LEVELS = 64
"""Of prefixes inside prefixes; what is nested deeper stays together."""


def shared_runs(tables: Sequence[Sequence[int]]) -> list[tuple[int, list[int]]]:
    """(blocks shared, places in ``tables``) of groups that share ``_LEAST_BLOCKS`` or more, each
    place at most once; of all single levels of sharing the one that saves most blocks."""
    if len(tables) < 2:
        return []
    order = sorted(range(len(tables)), key=lambda i: tables[i])
    common = [_common(tables[a], tables[b]) for a, b in zip(order, order[1:], strict=False)]
    _, groups, _ = _Levels(common).best(0, len(order), 0, 0)
    return [(depth, sorted(order[i] for i in members)) for depth, members in groups]


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    limit = min(len(a), len(b))
    for i in range(limit):
        if a[i] != b[i]:
            return i
    return limit


_Found = tuple[int, list[tuple[int, list[int]]], list[int]]
"""(blocks saved, groups, members left to the group above)."""


class _Levels:
    """The choice of levels over sorted tables; ``common[i]``: blocks that neighbors i and i + 1
    share. A stretch of tables is a node of their prefix tree; each table joins the nearest node
    above it that is chosen."""

    def __init__(self, common: Sequence[int]) -> None:
        self._common = common
        self._known: dict[tuple[int, int, int], _Found] = {}

    def best(self, first: int, end: int, above: int, level: int) -> _Found:
        """Of tables ``first`` to ``end`` under a chosen node of ``above`` blocks, 0 for none."""
        if end - first == 1:
            return above, [], [first]
        found = self._known.get((first, end, above))
        if found is None:
            depth = min(self._common[first : end - 1])
            found = self._joined(first, end, depth, above, level)
            if depth > above and depth >= _LEAST_BLOCKS:
                saved, groups, members = self._joined(first, end, depth, depth, level)
                if saved - depth > found[0]:
                    found = saved - depth, [*groups, (depth, members)], []
            self._known[first, end, above] = found
        return found

    def _joined(self, first: int, end: int, depth: int, above: int, level: int) -> _Found:
        """The parts of a stretch under ``above``, each at its best."""
        if level == _MOST_LEVELS:
            return above * (end - first), [], list(range(first, end))
        saved, groups, left, start = 0, [], [], first
        for i in range(first, end):
            if i == end - 1 or self._common[i] == depth:
                more, inner, members = self.best(start, i + 1, above, level + 1)
                saved, groups, left = saved + more, groups + inner, left + members
                start = i + 1
        return saved, groups, left


@dataclass(frozen=True, slots=True)
class _Shared:
    """``places_S`` in the pass; ``prefix`` block numbers [blocks], ``own`` [S, pages]; ``bias``
    [S, 1, 1, m] of the own tokens."""

    places_S: Tensor
    prefix: Tensor
    own: Tensor
    bias: Tensor


class SharedPrefixContext(PagedContext):
    """One pass over ``work``, as ``PagedContext``; prefixes that decodes share are read once."""

    def __init__(self, store: KvStore, work: Sequence[Work]) -> None:
        super().__init__(store, work)
        size = store.block_tokens
        whole = [
            list(blocks[: (total - 1) // size]) for total, _, blocks in self._decodes
        ]  # never the block of the new token: it is no one else's
        runs = shared_runs(whole)
        together = {i for _, members in runs for i in members}
        alone = [d for i, d in enumerate(self._decodes) if i not in together]
        self._ways = (alone, dict(self._groups)), (self._decodes, dict(self._groups))
        """What the base class attends to one by one, and its groups: without those in
        ``_shared``, and all."""
        self._shared = [self._group_of(depth, members) for depth, members in runs]

    def _group_of(self, depth: int, members: Sequence[int]) -> _Shared:
        size, device = self._store.block_tokens, self._store.device
        mine = [self._decodes[i] for i in members]
        pages = max(-(-total // size) for total, _, _ in mine) - depth
        own = torch.full((len(mine), pages), self._store.spare_block)
        seen = torch.zeros(len(mine), pages * size, dtype=torch.bool)
        for i, (total, _, blocks) in enumerate(mine):
            used = blocks[depth : -(-total // size)]
            own[i, : len(used)] = torch.tensor(used)
            seen[i, : total - depth * size] = True
        bias = torch.zeros(seen.shape).masked_fill(~seen, float("-inf"))[:, None, None]
        return _Shared(
            torch.tensor([at for _, at, _ in mine], device=device),
            torch.tensor(mine[0][2][:depth], device=device),
            own.to(device),
            bias.to(device),
        )

    def attend(
        self,
        layer: int,
        q_THD: Tensor,
        k_TKD: Tensor,
        v_TKE: Tensor | None,
        *,
        scale: float,
        window: int = 0,
        softcap: float = 0.0,
        sinks: Tensor | None = None,
        latent_dim: int = 0,
    ) -> Tensor:
        """See ``Context``."""
        special = bool(window or softcap or latent_dim) or sinks is not None or v_TKE is None
        self._decodes, self._groups = self._ways[special]
        out = super().attend(
            layer,
            q_THD,
            k_TKD,
            v_TKE,
            scale=scale,
            window=window,
            softcap=softcap,
            sinks=sinks,
            latent_dim=latent_dim,
        )
        if not special:
            for group in self._shared:
                out[group.places_S] = self._joined(layer, q_THD[group.places_S], group, scale)
        return out

    def _joined(self, layer: int, q_SHD: Tensor, group: _Shared, scale: float) -> Tensor:
        """[S, H, E] of the sequences of a group."""
        store = self._store
        keys, values = store.keys[layer], store.values[layer]
        assert values is not None
        seqs, (_, heads, _, width) = len(q_SHD), keys.shape
        q_KSGD = q_SHD.reshape(seqs, heads, -1, width).transpose(0, 1)
        pairs = page_pairs(group.prefix[None], heads)
        k_KmD = store.gather(keys, pairs, "k").view(heads, -1, width)
        v_KmE = store.gather(values, pairs, "v").view(heads, -1, values.shape[-1])
        prefix = _partial(q_KSGD.reshape(heads, -1, width), k_KmD, v_KmE, None, scale)
        prefix = tuple(
            part.view(heads, seqs, -1, part.shape[-1]).transpose(0, 1) for part in prefix
        )
        pairs = page_pairs(group.own, heads)
        k = store.gather(keys, pairs, "k").view(seqs * heads, -1, width)
        v = store.gather(values, pairs, "v").view(seqs * heads, -1, values.shape[-1])
        bias = group.bias.expand(seqs, heads, 1, -1).reshape(seqs * heads, 1, -1)
        rest = _partial(q_SHD.reshape(seqs * heads, -1, width), k, v, bias, scale)
        own = [part.view(seqs, heads, -1, part.shape[-1]) for part in rest]
        merged = merge_partials([_as_partial(*prefix), _as_partial(*own)])
        return merged.to(q_SHD.dtype)


def _partial(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(weighted values [B, n, E], maximum [B, n, 1], sum [B, n, 1]) of q [B, n, D], k [B, m, D]."""
    scores = (q @ k.transpose(1, 2)).float().mul_(scale)
    if bias is not None:
        scores = scores + bias
    highest = scores.amax(-1, keepdim=True)
    weights = torch.exp(scores - highest)
    return (weights.to(v.dtype) @ v).float(), highest, weights.sum(-1, keepdim=True)


def _as_partial(weighted: Tensor, highest: Tensor, total: Tensor) -> Partial:
    """From [S, K, G, ...] to what is merged, heads in order."""
    return Partial(
        weighted_THE=weighted.flatten(1, 2),
        max_TH=highest.flatten(1),
        sum_TH=total.flatten(1),
    )
