"""Attention of one mixed pass over paged KV: prompt chunks one by one, decodes together.

The chunks' tokens come first in the pass, then one token for each decode. Decodes of similar
length are gathered and attended in one call; a group is closed where padding it would waste
more than a third. Source of paging: arXiv 2309.06180.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from plimsoll.models.attention import attend_chunk, decode_mask, open_attention
from plimsoll.models.context import States
from plimsoll.serving.executors.torch.kv_store import KvStore
from plimsoll.serving.executors.torch.messages import Work

__all__ = ["PagedContext"]

_WASTE = 1.5


class PagedContext:
    """One pass over ``work``; every block table covers the pass's own tokens."""

    def __init__(self, store: KvStore, work: Sequence[Work]) -> None:
        self._store = store
        self._work = work
        self.bounds: list[tuple[int, int]] = []
        rows, at = [], 0
        self._chunks: list[tuple[int, int, Tensor]] = []
        decodes: list[tuple[int, int, Sequence[int]]] = []
        for item in work:
            total = item.start + len(item.tokens)
            all_rows = store.rows(item.blocks, total)
            rows.append(all_rows[item.start :])
            if len(item.tokens) == 1:
                decodes.append((total, at, item.blocks))
            else:
                self._chunks.append((at, at + len(item.tokens), all_rows))
            self.bounds.append((at, at + len(item.tokens)))
            at += len(item.tokens)
        self.num_tokens = at
        self._new_rows = torch.cat(rows)
        self._groups = [self._group(group) for group in _alike(decodes)]

    def _group(self, group: Sequence[tuple[int, int, Sequence[int]]]) -> tuple[Tensor, ...]:
        """(places in the pass [S], lengths [S], rows of their pages [S, m])."""
        size, device = self._store.block_tokens, self._store.device
        lengths = torch.tensor([total for total, _, _ in group])
        places = torch.tensor([at for _, at, _ in group])
        longest = int(lengths.max())
        most = -(-longest // size)
        tables = torch.zeros(len(group), most, dtype=torch.long)
        for i, (total, _, blocks) in enumerate(group):
            used = -(-total // size)
            tables[i, :used] = torch.tensor(blocks[:used])
        rows = (tables[:, :, None] * size + torch.arange(size)).flatten(1)[:, :longest]
        return places.to(device), lengths.to(device), rows.to(device)

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
        keys, values = self._store.keys[layer], self._store.values[layer]
        keys[self._new_rows] = k_TKD.to(keys.dtype)
        if v_TKE is not None:
            assert values is not None
            values[self._new_rows] = v_TKE.to(values.dtype)
        width = latent_dim if values is None else values.shape[-1]
        out = q_THD.new_empty(q_THD.shape[0], q_THD.shape[1], width)
        for first, last, rows in self._chunks:
            fresh = last - first == len(rows)
            k = k_TKD[first:last] if fresh else keys[rows]
            if v_TKE is None:
                v = k[..., :latent_dim]
            else:
                assert values is not None
                v = v_TKE[first:last] if fresh else values[rows]
            out[first:last] = attend_chunk(
                q_THD[first:last], k, v, scale=scale, window=window, softcap=softcap, sinks=sinks
            )
        for places, lengths, rows in self._groups:
            longest = rows.shape[1]
            if 0 < window < longest and len(places) == 1:  # only the window's pages are read
                rows = rows[:, longest - window :]
                mask = None
            elif len(places) == 1:
                mask = None
            else:
                mask = decode_mask(lengths, longest, window)[:, None, None]
            k = keys[rows]
            v = k[..., :latent_dim] if values is None else values[rows]
            out[places] = _decode(
                q_THD[places], k, v, mask, scale=scale, softcap=softcap, sinks=sinks
            )
        return out


def _decode(
    q_SHD: Tensor,
    k_SmKD: Tensor,
    v_SmKE: Tensor,
    mask: Tensor | None,
    *,
    scale: float,
    softcap: float,
    sinks: Tensor | None,
) -> Tensor:
    """[S, H, E]; the queries of a KV head take the place of query positions."""
    seqs, heads, width = q_SHD.shape
    kv_heads = k_SmKD.shape[2]
    k, v = k_SmKD.transpose(1, 2), v_SmKE.transpose(1, 2)
    if softcap or sinks is not None:
        groups = heads // kv_heads
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        out = open_attention(
            q_SHD[:, :, None], k, v, scale=scale, mask=mask, softcap=softcap, sinks=sinks
        )
        return out[:, :, 0]
    q = q_SHD.view(seqs, kv_heads, heads // kv_heads, width)
    out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    return out.reshape(seqs, heads, v.shape[-1])


def _alike(
    decodes: Sequence[tuple[int, int, Sequence[int]]],
) -> list[list[tuple[int, int, Sequence[int]]]]:
    """Groups of similar length, the longest first."""
    groups: list[list[tuple[int, int, Sequence[int]]]] = []
    for decode in sorted(decodes, key=lambda d: (-d[0], d[1])):
        if groups and groups[-1][0][0] <= _WASTE * decode[0] + 32:
            groups[-1].append(decode)
        else:
            groups.append([decode])
    return groups
