"""Attention over keys and values that lie in several places, exact.

Each place answers with what its piece contributes: values summed with weights exp(score - m), the
row maximum m and the sum e of the weights. Pieces are joined by bringing all of them to the
largest maximum and divided by the sum at the very end. So what travels is as large as the query,
whatever the length of the piece. Positions are absolute: a piece may be any subset of a sequence's
tokens, also one that a query sees nothing of. Scores, maxima, sums and the join are float32 for
every input type; weighted values rounded to bfloat16 would be off by
up to 2**-8. Left out: sliding windows, soft-capped scores, sinks.
Source: arXiv 2401.02669 (DistAttention); 1805.02867 (the running maximum).

Legend: ... any leading dims, T queries, N keys of a piece, H query heads, K key heads, G = H / K,
D key width, E value width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from plimsoll.spec.errors import SpecError

__all__ = ["Partial", "join_partials", "merge_partials", "partial_attention"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Partial:
    """What one piece contributes to T queries; the maximum of a row that sees nothing is -inf.

    ``weighted_THE`` [..., T, H, E], ``max_TH`` and ``sum_TH`` [..., T, H].
    """

    weighted_THE: Tensor
    max_TH: Tensor
    sum_TH: Tensor

    @property
    def num_bytes(self) -> int:
        """Bytes of the three tensors."""
        tensors = (self.weighted_THE, self.max_TH, self.sum_TH)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def partial_attention(
    q_THD: Tensor,
    k_NKD: Tensor,
    v_NKE: Tensor,
    *,
    query_positions_T: Tensor,
    key_positions_N: Tensor,
    scale: float,
) -> Partial:
    """Attend from every query to one piece of keys, those at its own position and before.

    Leading dims of q, k, v and of both positions broadcast. A piece may be empty (N = 0).

    Raises:
        SpecError: query heads are not a multiple of key heads, or positions do not match.
    """
    num_queries, num_heads = q_THD.shape[-3:-1]
    num_keys, num_kv_heads = k_NKD.shape[-3:-1]
    if num_heads % num_kv_heads:
        raise SpecError(f"{num_heads} query heads are not a multiple of {num_kv_heads} key heads")
    if query_positions_T.shape[-1] != num_queries or key_positions_N.shape[-1] != num_keys:
        raise SpecError(
            f"{query_positions_T.shape[-1]} query and {key_positions_N.shape[-1]} key positions "
            f"for {num_queries} queries and {num_keys} keys"
        )
    if num_keys == 0:
        rows = (*torch.broadcast_shapes(q_THD.shape[:-3], k_NKD.shape[:-3]), num_queries, num_heads)
        return Partial(
            weighted_THE=q_THD.new_zeros((*rows, v_NKE.shape[-1]), dtype=torch.float32),
            max_TH=q_THD.new_full(rows, float("-inf"), dtype=torch.float32),
            sum_TH=q_THD.new_zeros(rows, dtype=torch.float32),
        )
    q_TKGD = q_THD.float().unflatten(-2, (num_kv_heads, -1))
    scores = torch.einsum("...tkgd,...nkd->...tkgn", q_TKGD, k_NKD.float()) * scale
    seen_TN = key_positions_N[..., None, :] <= query_positions_T[..., :, None]
    scores = scores.masked_fill(~seen_TN[..., :, None, None, :], float("-inf"))
    highest = scores.amax(-1)
    weights = torch.exp(scores - _finite(highest)[..., None])
    weighted = torch.einsum("...tkgn,...nke->...tkge", weights, v_NKE.float())
    return Partial(
        weighted_THE=weighted.flatten(-3, -2),
        max_TH=highest.flatten(-2),
        sum_TH=weights.sum(-1).flatten(-2),
    )


def join_partials(parts: Sequence[Partial]) -> Partial:
    """What all pieces contribute together; an instance joins its own before it answers.

    The order of the pieces changes rounding only.

    Raises:
        SpecError: there are no pieces.
    """
    if not parts:
        raise SpecError("no piece of keys and values was attended to")
    max_JTH = torch.stack([part.max_TH.float() for part in parts])
    highest = max_JTH.amax(0)
    factor_JTH = torch.exp(max_JTH - _finite(highest))
    sum_JTH = torch.stack([part.sum_TH.float() for part in parts])
    weighted_JTHE = torch.stack([part.weighted_THE.float() for part in parts])
    return Partial(
        weighted_THE=(factor_JTH[..., None] * weighted_JTHE).sum(0),
        max_TH=highest,
        sum_TH=(factor_JTH * sum_JTH).sum(0),
    )


def merge_partials(parts: Sequence[Partial]) -> Tensor:
    """[..., T, H, E] the attention output over all pieces, float32; 0 where a query sees nothing.

    Raises:
        SpecError: there are no pieces.
    """
    joined = join_partials(parts)
    divisor = torch.where(joined.sum_TH > 0, joined.sum_TH, 1.0)
    return joined.weighted_THE / divisor[..., None]


def _finite(highest: Tensor) -> Tensor:
    """The maximum to subtract: 0 for rows that see nothing, whose scores are -inf anyway."""
    return torch.where(torch.isinf(highest), 0.0, highest)
