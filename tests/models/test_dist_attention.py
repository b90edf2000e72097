"""Attention over pieces equals one softmax over the whole; arXiv 2401.02669."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from plimsoll.catalog.split_attention import (
    mean_of_partials,
    merged_in_bfloat16,
    random_case,
    whole_softmax,
    worst_error,
)
from plimsoll.models.dist_attention import (
    join_partials,
    merge_partials,
    partial_attention,
)
from plimsoll.spec.errors import SpecError


def test_a_thousand_random_splits_are_exact() -> None:
    cases = [random_case(seed) for seed in range(1000)]
    lengths = {piece.numel() for case in cases for piece in case.pieces}
    assert {0, 1} <= lengths and {len(case.pieces) for case in cases} == set(range(1, 17))
    assert max(case.largest_score for case in cases) > 1e4
    assert worst_error(range(1000)) <= 1e-5
    assert worst_error(range(300), dtype=torch.bfloat16) <= 2e-3


def test_an_average_without_maxima_and_sums_is_wrong() -> None:
    assert worst_error(range(100), merge=mean_of_partials) > 0.1


def test_a_join_in_bfloat16_is_wrong() -> None:
    assert worst_error(range(100), dtype=torch.bfloat16, merge=merged_in_bfloat16) > 0.05


def test_positions_that_restart_in_each_piece_are_wrong() -> None:
    """Then a query sees keys of later pieces that lie after it."""
    case = random_case(4)
    n, early = case.k_NKD.shape[0], case.query_positions_T - 3
    assert n > 16

    def attended(restart: bool) -> Tensor:
        parts = []
        for piece in torch.arange(n).tensor_split(4):
            positions = torch.arange(len(piece)) if restart else piece
            parts.append(
                partial_attention(
                    case.q_THD,
                    case.k_NKD[piece],
                    case.v_NKE[piece],
                    query_positions_T=early,
                    key_positions_N=positions,
                    scale=1 / 64,
                )
            )
        return merge_partials(parts)

    whole = partial_attention(
        case.q_THD,
        case.k_NKD,
        case.v_NKE,
        query_positions_T=early,
        key_positions_N=torch.arange(n),
        scale=1 / 64,
    )
    expected = merge_partials([whole])
    assert torch.allclose(attended(False), expected, atol=1e-5)
    assert not torch.allclose(attended(True), expected, atol=1e-3)


def test_leading_dims_are_a_batch() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 3, 4, 8), torch.randn(2, 10, 2, 8), torch.randn(2, 10, 2, 5)
    at, keys = torch.tensor([[3, 5, 9], [0, 1, 2]]), torch.arange(10)

    def attended(row: slice | int, positions: Tensor) -> Tensor:
        parts = [
            partial_attention(
                q[row],
                k[row][..., piece, :, :],
                v[row][..., piece, :, :],
                query_positions_T=positions,
                key_positions_N=piece,
                scale=0.3,
            )
            for piece in keys.tensor_split([0, 4, 5])
        ]
        return merge_partials(parts)

    together = attended(slice(None), at)
    assert together.shape == (2, 3, 4, 5)
    for row in range(2):
        assert torch.allclose(together[row], attended(row, at[row]), atol=1e-6)


@given(st.integers(0, 10_000), st.integers(0, 16))
def test_pieces_may_be_joined_on_the_way(seed: int, cut: int) -> None:
    parts = random_case(seed).partials()
    joined = [join_partials(group) for group in (parts[:cut], parts[cut:]) if group]
    assert torch.allclose(merge_partials(joined), merge_partials(parts), atol=1e-5)


def test_a_query_that_sees_nothing_gets_zero() -> None:
    case = random_case(3)
    nothing = partial_attention(
        case.q_THD,
        case.k_NKD,
        case.v_NKE,
        query_positions_T=torch.full_like(case.query_positions_T, -1),
        key_positions_N=torch.arange(case.k_NKD.shape[0]),
        scale=1.0,
    )
    assert torch.equal(merge_partials([nothing]), torch.zeros_like(nothing.weighted_THE))
    together = merge_partials([nothing, *case.partials()])
    assert float((together - whole_softmax(case)).abs().max()) < 1e-5


def test_what_travels_does_not_grow_with_the_piece() -> None:
    heads, width = 8, 64
    sizes = set()
    for num_keys in (0, 1, 500):
        part = partial_attention(
            torch.randn(1, heads, width),
            torch.randn(num_keys, 2, width),
            torch.randn(num_keys, 2, width),
            query_positions_T=torch.tensor([600]),
            key_positions_N=torch.arange(num_keys),
            scale=0.1,
        )
        sizes.add(part.num_bytes)
    assert sizes == {4 * (heads * width + 2 * heads)}


def test_bad_input_is_named() -> None:
    q, k = torch.zeros(1, 3, 4), torch.zeros(2, 2, 4)
    at, keys = torch.tensor([5]), torch.arange(2)
    with pytest.raises(SpecError, match="3 query heads are not a multiple of 2"):
        partial_attention(q, k, k, query_positions_T=at, key_positions_N=keys, scale=1.0)
    with pytest.raises(SpecError, match="1 key positions for 1 queries and 2 keys"):
        partial_attention(q[:, :2], k, k, query_positions_T=at, key_positions_N=keys[:1], scale=1.0)
    with pytest.raises(SpecError, match="no piece"):
        merge_partials([])
