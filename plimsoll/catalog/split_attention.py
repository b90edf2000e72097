"""Random sequences cut into pieces, attended to piece by piece and held against one softmax.

Queries and keys are small multiples of 1/8, so every product and sum of a score is exact in
float32 and in bfloat16 inputs; scores then reach thousands and what differs is the softmax alone.
The reference is one softmax over all keys in float64.

Legend: T queries, N keys, H query heads, K key heads, D key width, E value width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from plimsoll.models.dist_attention import Partial, merge_partials, partial_attention

__all__ = [
    "SplitCase",
    "bytes_moved",
    "mean_of_partials",
    "merged_in_bfloat16",
    "random_case",
    "whole_softmax",
    "worst_error",
]

Merge = Callable[[Sequence[Partial]], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitCase:
    """One sequence and where its tokens lie: ``pieces`` index its keys, together all of them."""

    q_THD: Tensor
    k_NKD: Tensor
    v_NKE: Tensor
    query_positions_T: Tensor
    scale: float
    pieces: tuple[Tensor, ...]

    def partials(self) -> list[Partial]:
        """What each piece contributes."""
        return [
            partial_attention(
                self.q_THD,
                self.k_NKD[piece],
                self.v_NKE[piece],
                query_positions_T=self.query_positions_T,
                key_positions_N=piece,
                scale=self.scale,
            )
            for piece in self.pieces
        ]

    @property
    def largest_score(self) -> float:
        """Largest absolute score of any query with any key, seen or not."""
        groups = self.q_THD.shape[1] // self.k_NKD.shape[1]
        keys = self.k_NKD.double().repeat_interleave(groups, dim=1)
        scores = torch.einsum("thd,nhd->thn", self.q_THD.double(), keys)
        return float(scores.abs().max()) * self.scale


def random_case(seed: int, dtype: torch.dtype = torch.float32) -> SplitCase:
    """1 to 16 pieces, empty and one-token ones among them, in runs or scattered; 1 to 4 queries
    a key head; the last queries of the sequence attend. Scores reach from a few to 1e4."""
    rng = torch.Generator().manual_seed(seed)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=rng))

    num_keys, kv_heads, groups, width = number(1, 96), number(1, 3), number(1, 4), 16
    num_queries = number(1, min(num_keys, 6))
    reach = 2 ** number(2, 7)
    q = torch.randint(-reach, reach + 1, (num_queries, kv_heads * groups, width), generator=rng) / 8
    k = torch.randint(-reach, reach + 1, (num_keys, kv_heads, width), generator=rng) / 8
    if number(0, 1):  # half of the keys lie along one query: large scores of either sign
        sign = torch.randint(0, 2, (num_keys, kv_heads, 1), generator=rng) * 2 - 1
        along = q[number(0, num_queries - 1), ::groups] * sign
        k = torch.where(torch.rand(num_keys, kv_heads, 1, generator=rng) < 0.5, along, k)
    v = torch.rand(num_keys, kv_heads, 8, generator=rng) * 2 - 1
    order = torch.arange(num_keys) if number(0, 1) else torch.randperm(num_keys, generator=rng)
    num_pieces = number(1, 16)
    cuts = torch.randint(0, num_keys + 1, (num_pieces - 1,), generator=rng).sort().values
    pieces = tuple(order.tensor_split(cuts.tolist()))
    return SplitCase(
        q_THD=q.to(dtype),
        k_NKD=k.to(dtype),
        v_NKE=v.to(dtype),
        query_positions_T=torch.arange(num_keys - num_queries, num_keys),
        scale=2.0 ** number(-2, 3),
        pieces=pieces,
    )


def whole_softmax(case: SplitCase) -> Tensor:
    """[T, H, E] attention over the uncut sequence, float64."""
    groups = case.q_THD.shape[1] // case.k_NKD.shape[1]
    k = case.k_NKD.double().repeat_interleave(groups, dim=1)
    v = case.v_NKE.double().repeat_interleave(groups, dim=1)
    scores = torch.einsum("thd,nhd->thn", case.q_THD.double(), k) * case.scale
    hidden = torch.arange(k.shape[0]) > case.query_positions_T[:, None]
    weights = scores.masked_fill(hidden[:, None], float("-inf")).softmax(-1)
    return torch.einsum("thn,nhe->the", weights, v)


def mean_of_partials(parts: Sequence[Partial]) -> Tensor:
    """The wrong join: the outputs of the pieces averaged, as if all weighed the same."""
    outputs = [merge_partials([part]) for part in parts]
    return torch.stack(outputs).mean(0)


def worst_error(
    seeds: Sequence[int],
    *,
    dtype: torch.dtype = torch.float32,
    merge: Merge = merge_partials,
) -> float:
    """Largest absolute distance from the whole softmax over random cases; NaN if any is NaN.

    In bfloat16 the inputs and the output are bfloat16.
    """
    worst = 0.0
    for seed in seeds:
        case = random_case(seed, dtype)
        merged = merge(case.partials()).to(dtype)
        error = float((merged.double() - whole_softmax(case)).abs().max())
        if error != error:
            return error
        worst = max(worst, error)
    return worst


def merged_in_bfloat16(parts: Sequence[Partial]) -> Tensor:
    """The wrong join: the right formula with every number rounded to bfloat16."""
    maxima = torch.stack([part.max_TH for part in parts]).bfloat16()
    highest = maxima.amax(0)
    factors = torch.exp(maxima - torch.where(torch.isinf(highest), 0, highest))
    sums = torch.stack([part.sum_TH for part in parts]).bfloat16()
    weighted = torch.stack([part.weighted_THE for part in parts]).bfloat16()
    return (factors[..., None] * weighted).sum(0) / (factors * sums).sum(0)[..., None]


def bytes_moved(num_keys: int, *, ship_keys: bool) -> int:
    """Bytes between owner and creditor for one query over a piece of ``num_keys``, one layer:
    the query and what the piece contributes, or with ``ship_keys`` the keys and values."""
    q, k = torch.randn(1, 32, 128), torch.randn(num_keys, 8, 128)
    if ship_keys:
        return 2 * k.numel() * k.element_size()
    part = partial_attention(
        q,
        k,
        k,
        query_positions_T=torch.tensor([num_keys]),
        key_positions_N=torch.arange(num_keys),
        scale=128**-0.5,
    )
    return q.numel() * q.element_size() + part.num_bytes
