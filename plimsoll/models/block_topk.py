"""Block top-k attention: a step reads only the blocks of the cache that its query scores highest.

The cache is cut into blocks of ``block`` positions; the mean of a block's keys stands for it. A
query scores the means, the heads of a group adding up, and attends to the ``budget / block`` best
blocks, the newest always among them. A whole pass over several tokens chooses for each of them.
With a budget no smaller than the cache this is plain attention.
This is the arithmetic, for judging quality: all scores are computed and those not chosen masked.
What a kernel would cost is ``cost/testtime.py``'s to say. Leaves out: windows, caps, sinks.
Source: arXiv 2506.05333, section 5.

Legend: B sequences, n new tokens, m cached, H heads, K key heads, D head width, N blocks.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from plimsoll.models.context import States
from plimsoll.spec.errors import SpecError, UnsupportedError

__all__ = ["BlockTopK"]


class BlockTopK:
    """A ``Context`` of ``batch`` sequences that grow in step. ``budget`` None: all positions.

    ``blind`` draws the blocks beside the newest at random instead of scoring them, to show what
    scores are worth.

    Raises:
        SpecError: a budget that is no positive multiple of the block.
    """

    def __init__(
        self,
        batch: int,
        *,
        budget: int | None = None,
        block: int = 16,
        blind: torch.Generator | None = None,
    ) -> None:
        if block < 1 or (budget is not None and (budget < block or budget % block)):
            raise SpecError(
                f"a budget of {budget} positions in blocks of {block}; expected a multiple of the "
                "block, one block or more"
            )
        self._batch = batch
        self._budget = budget
        self._block = block
        self._blind = blind
        self._kv: dict[int, tuple[Tensor, Tensor]] = {}
        self._length = 0
        self._new = 0

    def begin(self, tokens: int) -> Tensor:
        """Start a pass of that many tokens a sequence; [B·n] their positions."""
        self._new = tokens
        first, self._length = self._length, self._length + tokens
        return torch.arange(first, first + tokens).repeat(self._batch)

    @property
    def bounds(self) -> Sequence[tuple[int, int]]:
        """See ``Context``."""
        n = self._new
        return [(i * n, (i + 1) * n) for i in range(self._batch)]

    def states(self, layer: int) -> Sequence[States]:
        """See ``Context``; there are none."""
        raise UnsupportedError(f"layer {layer} asks for states of fixed size")

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
        if window or softcap or sinks is not None or latent_dim or v_TKE is None:
            raise UnsupportedError("block top-k runs plain attention only")
        q, k, v = (x.unflatten(0, (self._batch, -1)).transpose(1, 2) for x in (q_THD, k_TKD, v_TKE))
        if layer in self._kv:
            before = self._kv[layer]
            k, v = torch.cat([before[0], k], dim=2), torch.cat([before[1], v], dim=2)
        self._kv[layer] = k, v
        new, total, groups = q.shape[2], k.shape[2], q.shape[1] // k.shape[1]
        seen_nm = torch.ones(new, total, dtype=torch.bool).tril(diagonal=total - new)
        mask = seen_nm.expand(self._batch, k.shape[1], new, total)
        if self._budget is not None and self._budget < total:
            mask = mask & self._chosen(q.unflatten(1, (-1, groups)).sum(dim=2), k, seen_nm)
        k, v, mask = (x.repeat_interleave(groups, dim=1) for x in (k, v, mask))
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
        return out.transpose(1, 2).flatten(0, 1)

    def _chosen(self, q_BKnD: Tensor, k_BKmD: Tensor, seen_nm: Tensor) -> Tensor:
        """[B, K, n, m]: the positions of the blocks that each query reads."""
        assert self._budget is not None
        total, block = k_BKmD.shape[2], self._block
        count = -(-total // block)
        owner_m = torch.arange(total) // block
        inside_Nm = functional.one_hot(owner_m, count).T.to(k_BKmD.dtype)
        # a query sees a block's keys up to itself, and their mean is over those
        seen_nNm = seen_nm[:, None].to(k_BKmD.dtype) * inside_Nm
        share_nNm = seen_nNm / seen_nNm.sum(dim=-1, keepdim=True).clamp(min=1)
        scores = torch.einsum("bknd,bkmd->bknm", q_BKnD, k_BKmD)
        block_scores = torch.einsum("bknm,nim->bkni", scores, share_nNm)
        if self._blind is not None:
            block_scores = torch.rand(block_scores.shape, generator=self._blind)
        visible_nN = seen_nNm.sum(dim=-1) > 0
        block_scores = block_scores.masked_fill(~visible_nN, -torch.inf)
        newest_n = seen_nm.sum(dim=-1).sub(1) // block
        block_scores = block_scores.masked_fill(
            functional.one_hot(newest_n, count).bool(), torch.inf
        )
        best = block_scores.topk(min(self._budget // block, count), dim=-1).indices
        kept = torch.zeros_like(block_scores, dtype=torch.bool).scatter_(-1, best, True)
        return kept[..., owner_m]
