"""Scores of difficulty and pruning by them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.data.prune import (
    prune,
    score_el2n,
    score_forgetting,
    score_margin,
    score_prototypes,
    score_random,
)
from plimsoll.spec.errors import SpecError


def blobs(seed=0, num=120, spread=0.15):
    rng = np.random.default_rng(seed)
    middles = np.eye(4)[np.arange(num) % 4] * 3
    return middles + rng.normal(0, spread, (num, 4)), np.arange(num) % 4


@settings(max_examples=40, deadline=None)
@given(
    num=st.integers(2, 60),
    keep=st.floats(0.01, 1),
    balance=st.floats(0, 1),
    groups=st.integers(1, 6),
    seed=st.integers(0, 99),
    hard=st.booleans(),
)
def test_as_many_are_kept_as_asked_each_once(num, keep, balance, groups, seed, hard):
    scores = score_random(num, seed=seed)
    labels = np.random.default_rng(seed).integers(0, groups, num)
    found = prune(
        scores, keep, direction="hard" if hard else "easy", balance=balance, groups=labels
    )
    assert len(found.indices) == max(1, round(keep * num))
    assert (np.diff(found.indices) > 0).all()
    left = np.bincount(labels[found.indices], minlength=groups)
    share = np.floor(balance * len(found.indices) * np.bincount(labels, minlength=groups) / num)
    assert (left >= share - 1e-9).all()
    present = set(labels.tolist())
    lost = present - set(labels[found.indices].tolist())
    assert bool(found.warnings) == bool(lost)
    assert all(str(name) in found.warnings[0] for name in lost)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 99), keep=st.floats(0.2, 1), groups=st.integers(1, 5))
def test_one_of_each_class_stays_when_asked(seed, keep, groups):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(groups), np.zeros(25, dtype=int)])
    scores = rng.random(len(labels))
    scores[:groups] -= 5  # the rare classes are easiest, so hard-only pruning loses them
    found = prune(scores, keep, direction="hard", groups=labels, balance=0.0, one_each=True)
    assert set(labels[found.indices].tolist()) == set(range(groups))
    assert len(found.indices) == max(1, round(keep * len(labels))) and not found.warnings


def test_without_balance_hard_examples_of_one_class_crowd_the_others_out():
    labels = np.array(["cat"] * 50 + ["dog"] * 50)
    scores = np.concatenate([np.linspace(1, 2, 50), np.linspace(0, 0.9, 50)])
    alone = prune(scores, 0.4, direction="hard", groups=labels, balance=0.0)
    assert set(labels[alone.indices].tolist()) == {"cat"}
    assert alone.warnings == ("no example is left of dog",)
    half = prune(scores, 0.4, direction="hard", groups=labels, balance=0.5)
    assert (labels[half.indices] == "dog").sum() == 10 and not half.warnings


def test_hard_and_easy_are_the_two_ends():
    scores = np.arange(10.0)
    assert prune(scores, 0.3, direction="hard").indices.tolist() == [7, 8, 9]
    assert prune(scores, 0.3, direction="easy").indices.tolist() == [0, 1, 2]
    assert prune(scores, 1.0, direction="easy").indices.tolist() == list(range(10))


def test_the_pilot_decides_and_is_told_of():
    seen = []

    def pilot(kept):
        seen.append(kept.tolist())
        return 0.2 if 0 in kept else 0.3

    found = prune(np.arange(10.0), 0.2, pilot=pilot)
    assert seen == [[8, 9], [0, 1]]
    assert found.direction == "easy" and found.pilot == {"hard": 0.3, "easy": 0.2}
    with pytest.raises(SpecError, match="direction auto without a pilot"):
        prune(np.arange(10.0), 0.2)


def test_prototypes_find_the_clusters_and_what_lies_between():
    points, kinds = blobs()
    points[0] = [1.5, 1.5, 0, 0]
    scores, cluster = score_prototypes(points, 4, seed=1)
    assert scores.argmax() == 0 and (scores >= 0).all()
    for kind in range(4):
        assert len(set(cluster[1:][kinds[1:] == kind].tolist())) == 1
    again, _ = score_prototypes(points, 4, seed=1)
    assert np.array_equal(scores, again)
    longer, _ = score_prototypes(points * 7, 4, seed=1)
    assert longer == pytest.approx(scores)


def test_early_errors_margins_and_forgetting():
    p = np.array([[[0.9, 0.1], [0.4, 0.6], [0.5, 0.5]], [[0.7, 0.3], [0.2, 0.8], [0.5, 0.5]]])
    labels = [0, 0, 1]
    expected = np.sqrt(2) * np.array([(0.1 + 0.3) / 2, (0.6 + 0.8) / 2, 0.5])
    assert score_el2n(p, labels) == pytest.approx(expected)
    assert score_margin(p, labels) == pytest.approx([-0.6, 0.4, 0.0])
    right = np.array([[1, 1, 0, 0], [0, 1, 0, 1], [1, 1, 0, 0], [0, 1, 0, 1]])
    assert score_forgetting(right).tolist() == [2, 0, 4, 1]


@pytest.mark.parametrize("keep", [0.0, -0.1, 1.1, float("nan")])
def test_fractions_that_cannot_be(keep):
    with pytest.raises(SpecError, match="a fraction kept of"):
        prune(np.arange(5.0), keep, direction="hard")


def test_bad_input_is_one_sentence():
    with pytest.raises(SpecError, match="all 3 scores are 2"):
        prune([2.0, 2.0, 2.0], 0.5, direction="hard")
    with pytest.raises(SpecError, match="one finite score"):
        prune([1.0, float("nan")], 0.5, direction="hard")
    with pytest.raises(SpecError, match="a balance of 2"):
        prune([1.0, 2.0], 0.5, direction="hard", balance=2)
    with pytest.raises(SpecError, match="expected one each"):
        prune([1.0, 2.0], 0.5, direction="hard", groups=[1])
    with pytest.raises(SpecError, match="1 examples kept of 2 groups"):
        prune([1.0, 2.0], 0.5, direction="hard", groups=[0, 1], one_each=True)
    with pytest.raises(SpecError, match="5 clusters of 3 examples"):
        score_prototypes(np.eye(3), 5)
    with pytest.raises(SpecError, match="no numbers"):
        score_prototypes([[1.0, float("nan")]], 1)
    with pytest.raises(SpecError, match="embedding 1 is all zeros"):
        score_prototypes([[1.0, 0.0], [0.0, 0.0]], 1)
    with pytest.raises(SpecError, match="do not sum to one"):
        score_el2n(np.ones((1, 2, 3)), [0, 1])
    with pytest.raises(SpecError, match=r"expected \[runs, n, classes\]"):
        score_el2n(np.ones((2, 3)) / 3, [0, 1])
    with pytest.raises(SpecError, match="labels from 0 to 3 for 3 classes"):
        score_margin(np.ones((1, 2, 3)) / 3, [0, 3])
    with pytest.raises(SpecError, match="of two or more"):
        score_forgetting(np.ones((1, 4)))
