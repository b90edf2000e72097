"""pass@n, majority, frontiers and budgets of graded generations."""

from itertools import combinations

import numpy as np
import pytest

from plimsoll.catalog.kinetics_setting import qwen3_shapes, table
from plimsoll.cost.testtime import DecodeShape, eflops_dense
from plimsoll.laws.testtime import (
    Traces,
    allocate,
    cheapest,
    choices,
    frontier,
    majority_at_n,
    pass_at_n,
)
from plimsoll.spec.errors import InfeasibleError, SpecError

SHAPE = DecodeShape(name="toy", params=1e6, total_params=1e6, kv_width=256.0, query_width=256.0)


def traces(lengths, right, **options):
    lengths = np.asarray(lengths, dtype=float)
    return Traces(
        shape=SHAPE,
        prompt_tokens=np.full(len(lengths), 10.0),
        lengths=lengths,
        right=np.asarray(right, dtype=bool),
        **options,
    )


def test_pass_at_n_counts_subsets():
    for right in range(8):
        grades = [True] * right + [False] * (7 - right)
        for n in range(1, 8):
            subsets = [any(s) for s in combinations(grades, n)]
            assert pass_at_n([right], 7, n)[0] == pytest.approx(np.mean(subsets), abs=1e-12)


def test_more_than_there_are_is_refused():
    with pytest.raises(SpecError, match="pass@9 from 8 trials"):
        pass_at_n([1], 8, 9)
    with pytest.raises(SpecError, match="right answers from 9"):
        pass_at_n([9], 8, 1)
    with pytest.raises(SpecError, match="majority of 9 from 8"):
        majority_at_n(np.zeros((1, 8), dtype=int), np.zeros(1, dtype=int), 9, draws=1, seed=0)


def test_a_majority_tends_to_the_mode_and_not_to_one():
    rng = np.random.default_rng(0)
    answers = np.stack([rng.choice(3, 64, p=(0.5, 0.3, 0.2)), rng.choice(3, 64, p=(0.2, 0.7, 0.1))])
    truth = np.zeros(2, dtype=int)
    votes = majority_at_n(answers, truth, 33, draws=200, seed=0)
    assert votes[0] > 0.9 and votes[1] < 0.05
    right = (answers == truth[:, None]).sum(axis=1)
    assert (pass_at_n(right, 64, 33) > 0.99).all(), "at least one is another measure"


def test_what_is_cut_is_wrong_unless_graded_right():
    one = traces([[10, 30, 50, 50]], [[1, 1, 0, 1]], truncated=np.array([[0, 0, 1, 1]], dtype=bool))
    lengths, right = one.within(50)
    assert right.tolist() == [[True, True, False, True]]
    lengths, right = one.within(20)
    assert lengths.tolist() == [[10, 20, 20, 20]]
    assert right.tolist() == [[True, False, False, False]]


def test_cost_is_that_of_the_measured_lengths():
    one = traces([[10, 30]], [[1, 0]])
    single, pair = choices([one], trials=(1, 2), limits=(100,))
    each = [eflops_dense(SHAPE, prompt_tokens=10, tokens=n) for n in (10, 30)]
    assert single.flops == pytest.approx(np.mean([c.flops for c in each]))
    assert single.bytes == pytest.approx(np.mean([c.bytes for c in each]))
    alone = [float(eflops_dense(SHAPE, prompt_tokens=0, tokens=n).bytes) for n in (10, 30)]
    prompt = 10 * 30 * SHAPE.kv_bytes_per_token  # read until the longer one ends
    assert pair.bytes == pytest.approx(sum(alone) + prompt)
    assert pair.flops == pytest.approx(2 * single.flops)
    assert (single.accuracy, pair.accuracy) == (0.5, 1.0)


def test_a_sparse_trace_is_costed_by_its_budget():
    dense, sparse = (traces([[400.0]], [[1]], kv_budget=b, block=0) for b in (None, 16))
    [a], [b] = (choices([t], trials=(1,), limits=(1000,)) for t in (dense, sparse))
    assert b.bytes < a.bytes / 5 and b.kv_budget == 16


def test_a_frontier_rises_in_cost_and_accuracy():
    found = choices(table(0), trials=(1, 2, 4, 8), limits=(8192, 32_768))
    best = frontier(found, intensity=562.5)
    costs = [c.eflops(562.5) for c in best]
    accuracies = [c.accuracy for c in best]
    assert costs == sorted(costs) and accuracies == sorted(set(accuracies))
    for one in found:
        assert any(
            c.eflops(562.5) <= one.eflops(562.5) and c.accuracy >= one.accuracy for c in best
        )


def test_budgets_and_targets_agree():
    found = choices(table(0), trials=(1, 2, 4, 8), limits=(8192, 32_768))
    one = cheapest(found, 0.6, intensity=562.5)
    assert one.accuracy >= 0.6
    assert allocate(found, one.eflops(562.5), intensity=562.5) == one
    with pytest.raises(InfeasibleError, match="the cheapest choice takes"):
        allocate(found, 1.0, intensity=562.5)
    with pytest.raises(InfeasibleError, match=r"accuracy 1.1: the best choice reaches"):
        cheapest(found, 1.1, intensity=562.5)


def test_without_traffic_both_choices_are_one():
    found = choices(table(1), trials=(1, 2, 4, 8), limits=(8192, 32_768))
    for target in (0.3, 0.6):
        assert cheapest(found, target, intensity=0) == min(
            (c for c in found if c.accuracy >= target), key=lambda c: c.flops
        )


@pytest.mark.parametrize(
    ("lengths", "right", "options", "why"),
    [
        (np.empty((0, 0)), np.empty((0, 0)), {}, "none; expected"),
        ([[1.0, 2.0]], [[True]], {}, "the same"),
        ([[0.0]], [[True]], {}, "not positive"),
        ([[1.0]], [[True]], {"truncated": np.zeros((2, 1), dtype=bool)}, "truncations"),
    ],
)
def test_bad_traces_are_one_clear_sentence(lengths, right, options, why):
    with pytest.raises(SpecError, match=why):
        traces(lengths, right, **options)


def test_models_are_compared_at_equal_cost():
    """Equal tokens would call the largest best for free."""
    shapes = qwen3_shapes()
    costs = [
        float(eflops_dense(s, prompt_tokens=256, tokens=8192).eflops(562.5))
        for s in shapes.values()
    ]
    assert costs == sorted(costs) and costs[-1] / costs[0] < 4


def test_generations_without_an_answer_do_not_vote():
    """Cut ones are each an answer of their own to nobody: one right vote beats two of them."""
    answers, truth = np.array([[-1, -1, 0], [-1, -1, 1]]), np.zeros(2, dtype=int)
    assert majority_at_n(answers, truth, 3, draws=8, seed=0).tolist() == [1.0, 0.0]
    nobody = majority_at_n(np.full((1, 3), -1), np.full(1, -1), 3, draws=8, seed=0)
    assert nobody.tolist() == [0.0], "no answer is right, even where none is expected"
