"""Attention of requests part of whose KV is on other workers: asked there, joined here.

Queries go out first, this worker's own pages are attended to meanwhile, then the answers are
joined with them. A request whose creditor is gone is left ``unread``: what comes out for it counts
for nothing. Lent pages hold whole blocks that lie before every query, so only own pages are
causal. Positions are absolute in every piece.
Source: arXiv 2401.02669 (DistAttention).

Legend: T queries of one request, N own tokens, H query heads, K key heads, D and E widths.
"""

import torch
from torch import Tensor

from plimsoll.models.dist_attention import Partial, merge_partials, partial_attention
from plimsoll.serving.executors.torch.kv_store import KvStore
from plimsoll.serving.executors.torch.messages import Work
from plimsoll.serving.executors.torch.peers import Peers
from plimsoll.spec.errors import ExecutionError

__all__ = ["LentContext"]


class LentContext:
    """The requests of a pass with KV elsewhere; ``unread`` collects those that were not served."""

    def __init__(self, store: KvStore, peers: Peers) -> None:
        self._store = store
        self._peers = peers
        self._items: list[tuple[int, int, Work, Tensor, Tensor]] = []
        self.unread: set[int] = set()

    def add(self, first: int, last: int, work: Work) -> None:
        """A request whose tokens are rows ``first`` to ``last`` of the pass."""
        size, total = self._store.block_tokens, work.start + len(work.tokens)
        own = [i for i in range(-(-total // size)) if work.blocks[i] >= 0]
        numbers = torch.tensor([work.blocks[i] for i in own], dtype=torch.long)
        positions = torch.tensor(own)[:, None] * size + torch.arange(size)
        self._items.append((first, last, work, numbers, positions.flatten()))

    def attend(self, layer: int, q_THD: Tensor, out_THE: Tensor, scale: float) -> None:
        """Fill the rows of these requests; their new keys and values are in the pages."""
        asked = [item for item in self._items if item[2].request not in self.unread]
        for first, last, work, _, _ in asked:
            self._peers.ask(layer, work.held, q_THD[first:last], scale)
        for first, last, work, numbers, positions in asked:
            own = self._own(layer, q_THD[first:last], work, numbers, positions, scale)
            try:
                size = (last - first, out_THE.shape[1], out_THE.shape[2])
                parts = self._peers.hear(work.held, size)
            except ExecutionError:
                self.unread.add(work.request)
                continue
            out_THE[first:last] = merge_partials([own, *parts]).to(out_THE.dtype)
        self._peers.heard()

    def _own(
        self,
        layer: int,
        q_THD: Tensor,
        work: Work,
        numbers: Tensor,
        positions: Tensor,
        scale: float,
    ) -> Partial:
        keys, values = self._store.keys[layer], self._store.values[layer]
        assert values is not None
        return partial_attention(
            q_THD,
            keys[numbers].transpose(1, 2).flatten(0, 1),
            values[numbers].transpose(1, 2).flatten(0, 1),
            query_positions_T=torch.arange(work.start, work.start + len(work.tokens)),
            key_positions_N=positions,
            scale=scale,
        )
