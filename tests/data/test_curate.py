"""Pools from scores, thresholds from pools."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.data.curate import rank_pools
from plimsoll.laws.quality import QualityPool, RepeatUtility, best_pool
from plimsoll.spec.errors import SpecError


@settings(max_examples=40, deadline=None)
@given(scores=st.lists(st.integers(-50, 50), min_size=8, max_size=60), pools=st.integers(1, 8))
def test_pools_are_equal_ordered_and_complete(scores, pools):
    if len(set(scores)) == 1:
        scores = [*scores, scores[0] + 1]
    found = rank_pools(scores, pools)
    sizes = found.sizes
    assert sum(sizes) == len(scores) and max(sizes) - min(sizes) <= 1
    assert (np.diff(found.edges) <= 0).all() and (found.tops >= found.edges).all()
    for kept in range(1, pools + 1):
        try:
            threshold = found.threshold(kept)
        except SpecError:
            assert found.tops[kept] == found.edges[kept - 1]
            continue
        assert np.array_equal(np.array(scores) >= threshold, found.keeps(kept))


def test_a_budget_becomes_a_threshold():
    scores = np.random.default_rng(0).normal(size=1000)
    ranked = rank_pools(scores, 4)
    law = RepeatUtility(a=0.025, d=0.1, normaliser=0.5)
    pools = [
        QualityPool(name=str(i), samples=n, b=b, tau=6.0)
        for i, (n, b) in enumerate(zip(ranked.sizes, (-0.16, -0.125, -0.10, -0.085), strict=True))
    ]
    kept = [len(best_pool(law, pools, n).pools) for n in (500.0, 30_000.0)]
    few, many = (ranked.threshold(k) for k in kept)
    assert kept[0] < kept[1] and few > many
    assert (scores >= few).sum() == 250 * kept[0]


def test_ties_at_the_edge_are_refused_and_pools_part_them():
    ranked = rank_pools([3, 2, 2, 1], 2)
    with pytest.raises(SpecError, match="share the score 2"):
        ranked.threshold(1)
    assert ranked.keeps(1).tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    ("scores", "pools", "message"),
    [
        ([1.0, float("nan")], 2, "not a column of numbers"),
        ([[1.0], [2.0]], 1, "not a column of numbers"),
        ([1.0, 2.0], 3, "3 pools of 2 examples"),
        ([1.0, 2.0], 0, "0 pools of 2 examples"),
        ([5.0, 5.0, 5.0], 2, "all 3 scores are 5"),
    ],
)
def test_scores_that_rank_nothing(scores, pools, message):
    with pytest.raises(SpecError, match=message):
        rank_pools(scores, pools)


def test_more_pools_than_there_are_cannot_be_kept():
    ranked = rank_pools([3, 2, 1, 0], 2)
    with pytest.raises(SpecError, match="3 pools kept of 2"):
        ranked.threshold(3)
    assert ranked.threshold(2) == 0
