"""Attention of one mixed pass over paged KV: prompt chunks one by one, decodes together.

Decodes of similar length are gathered and attended in one call; a group is closed where padding
it would waste more than a third. Layers with a window read the window's pages alone. Scores of
decodes are in the open, float32. Source of paging: arXiv 2309.06180.

Legend: S sequences of a group, m tokens gathered (padded), H query heads, K key heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from plimsoll.models.attention import attend_chunk
from plimsoll.models.context import States
from plimsoll.serving.executors.torch.kv_store import KvStore
from plimsoll.serving.executors.torch.lent_context import LentContext
from plimsoll.serving.executors.torch.messages import Work
from plimsoll.serving.executors.torch.peers import Peers
from plimsoll.spec.errors import UnsupportedError

__all__ = ["PagedContext", "attend_decodes", "page_pairs"]

_WASTE = 1.5
_Decode = tuple[int, int, Sequence[int]]
"""Tokens in all, place in the pass, block table."""


@dataclass(frozen=True, slots=True)
class _Group:
    """``places_S`` in the pass (None: the group is the pass, in order), block numbers [S, pages],
    ``bias`` [S, 1, 1, m] or None."""

    places_S: Tensor | None
    tables: Tensor
    bias: Tensor | None


class PagedContext:
    """One pass over ``work``; every block table covers the pass's own tokens."""

    def __init__(self, store: KvStore, work: Sequence[Work], peers: Peers | None = None) -> None:
        self.lent = LentContext(store, peers) if peers and any(w.held for w in work) else None
        self._store = store
        self._work = work
        self.bounds: list[tuple[int, int]] = []
        self._chunks: list[tuple[int, int, int, Tensor]] = []
        self._decodes: list[_Decode] = []
        self._groups: dict[tuple[int, int], list[tuple[_Group, Tensor]]] = {}
        size, device = store.block_tokens, store.device
        blocks: list[int] = []
        offsets: list[int] = []
        at = 0
        for item in work:
            new = len(item.tokens)
            total = item.start + new
            for position in range(item.start, total):
                blocks.append(item.blocks[position // size])
                offsets.append(position % size)
            if item.held:
                assert self.lent is not None
                self.lent.add(at, at + new, item)
            elif new == 1:
                self._decodes.append((total, at, item.blocks))
            else:
                self._chunks.append((at, at + new, total, store.numbers(item.blocks, total)))
            self.bounds.append((at, at + new))
            at += new
        self._new_blocks = torch.tensor(blocks, device=device)
        self._new_offsets = torch.tensor(offsets, device=device)

    def states(self, layer: int) -> Sequence[States]:
        """See ``Context``."""
        held = self._store.states
        return [held.setdefault(w.request, {}).setdefault(layer, {}) for w in self._work]

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
        store = self._store
        keys, values = store.keys[layer], store.values[layer]
        keys[self._new_blocks, :, self._new_offsets] = k_TKD.to(keys.dtype)
        if v_TKE is not None:
            assert values is not None
            values[self._new_blocks, :, self._new_offsets] = v_TKE.to(values.dtype)
        width = latent_dim if values is None else values.shape[-1]
        heads = keys.shape[1]
        groups = self._grouped(window, heads)
        if self.lent is None and len(groups) == 1 and groups[0][0].places_S is None:
            return self._decoded(layer, q_THD, groups[0], scale, softcap, sinks, latent_dim)
        out = q_THD.new_empty(q_THD.shape[0], q_THD.shape[1], width)
        if self.lent is not None:
            if window or softcap or sinks is not None or latent_dim:
                raise UnsupportedError(
                    "KV on other workers is read by plain attention over all tokens only; this "
                    "model has windows, soft-caps, sinks or latent attention"
                )
            out.zero_()
            self.lent.attend(layer, q_THD, out, scale)
        for first, last, total, numbers in self._chunks:
            if last - first == total:
                k = k_TKD[first:last]
                v = k[..., :latent_dim] if v_TKE is None else v_TKE[first:last]
            else:
                pairs = page_pairs(numbers[None], heads)
                k = _joined(store.gather(keys, pairs, "k"), heads, total)
                v = (
                    k[..., :latent_dim]
                    if values is None
                    else _joined(store.gather(values, pairs, "v"), heads, total)
                )
            out[first:last] = attend_chunk(
                q_THD[first:last], k, v, scale=scale, window=window, softcap=softcap, sinks=sinks
            )
        for group, pairs in groups:
            places = group.places_S
            assert places is not None
            out[places] = self._decoded(
                layer, q_THD[places], (group, pairs), scale, softcap, sinks, latent_dim
            )
        return out

    def _decoded(
        self,
        layer: int,
        q_SHD: Tensor,
        grouped: tuple[_Group, Tensor],
        scale: float,
        softcap: float,
        sinks: Tensor | None,
        latent_dim: int,
    ) -> Tensor:
        """[S, H, E] of one group."""
        store, (group, pairs) = self._store, grouped
        keys, values = store.keys[layer], store.values[layer]
        rows = len(q_SHD) * keys.shape[1]
        k = store.gather(keys, pairs, "k").view(rows, -1, keys.shape[3])
        v = (
            k[..., :latent_dim]
            if values is None
            else store.gather(values, pairs, "v").view(rows, -1, values.shape[-1])
        )
        return attend_decodes(q_SHD, k, v, group.bias, scale=scale, softcap=softcap, sinks=sinks)

    def _grouped(self, window: int, heads: int) -> list[tuple[_Group, Tensor]]:
        """The decodes' groups for layers with this window and number of heads, made once."""
        key = (window, heads)
        if key not in self._groups:
            groups = [self._group(group, window) for group in _alike(self._decodes, window)]
            self._groups[key] = [(group, page_pairs(group.tables, heads)) for group in groups]
        return self._groups[key]

    def _group(self, group: Sequence[_Decode], window: int) -> _Group:
        size, device = self._store.block_tokens, self._store.device
        firsts = [max(0, total - window) // size if window else 0 for total, _, _ in group]
        pages = max(
            -(-total // size) - first for (total, _, _), first in zip(group, firsts, strict=True)
        )
        tables = torch.full((len(group), pages), self._store.spare_block)
        seen = torch.zeros(len(group), pages * size, dtype=torch.bool)
        for i, ((total, _, blocks), first) in enumerate(zip(group, firsts, strict=True)):
            used = blocks[first : -(-total // size)]
            tables[i, : len(used)] = torch.tensor(used)
            begin = max(0, total - window) if window else 0
            seen[i, begin - first * size : total - first * size] = True
        bias = None
        if not bool(seen.all()):
            bias = torch.zeros(seen.shape).masked_fill(~seen, float("-inf"))[:, None, None]
            bias = bias.to(device)
        order = [at for _, at, _ in group]
        alone = order == list(range(len(self._work))) and not self._chunks and not self.lent
        places = None if alone else torch.tensor(order, device=device)
        return _Group(places, tables.to(device), bias)


def page_pairs(tables: Tensor, heads: int) -> Tensor:
    """[S * K * pages] numbers of (block, head) pages, sequence by sequence, head by head."""
    head = torch.arange(heads, device=tables.device)[None, :, None]
    return (tables[:, None, :] * heads + head).flatten()


def _joined(pages: Tensor, heads: int, total: int) -> Tensor:
    """[total, K, width] of one sequence's gathered pages."""
    return pages.view(heads, -1, pages.shape[-1])[:, :total].transpose(0, 1)


def attend_decodes(
    q_SHD: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    *,
    scale: float,
    softcap: float,
    sinks: Tensor | None,
) -> Tensor:
    """[S, H, E]; k and v are [S * K, m, width]; the queries of a KV head go together."""
    seqs, heads, width = q_SHD.shape
    kv_heads = k.shape[0] // seqs
    q = q_SHD.reshape(seqs * kv_heads, heads // kv_heads, width)
    scores = (q @ k.transpose(1, 2)).float().mul_(scale)
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.view(seqs, kv_heads, heads // kv_heads, -1)
    if bias is not None:
        scores = scores + bias
    if sinks is not None:
        sink = sinks.float().view(1, kv_heads, -1, 1).expand(seqs, -1, -1, 1)
        weights = torch.cat([scores, sink], dim=-1).softmax(dim=-1)[..., :-1]
    else:
        weights = scores.softmax(dim=-1)
    weights = weights.to(v.dtype).reshape(seqs * kv_heads, heads // kv_heads, -1)
    return (weights @ v).view(seqs, heads, v.shape[-1])


def _place(decode: _Decode) -> int:
    return decode[1]


def _alike(decodes: Sequence[_Decode], window: int) -> list[list[_Decode]]:
    """Groups of similar length as far as it is read, the longest first."""

    def read(decode: _Decode) -> int:
        return min(decode[0], window) if window else decode[0]

    groups: list[list[_Decode]] = []
    for decode in sorted(decodes, key=lambda d: (-read(d), d[1])):
        if groups and read(groups[-1][0]) <= _WASTE * read(decode) + 32:
            groups[-1].append(decode)
        else:
            groups.append([decode])
    return [sorted(group, key=_place) for group in groups]
