"""The prefix tree of a batch, and the best single level of sharing in it."""

import itertools
import resource
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.serving.one_level import (
    computed_tokens,
    one_level_exact,
    one_level_greedy,
    saved_tokens,
)
from plimsoll.serving.plan_groups import plan_groups
from plimsoll.serving.prefix_tree import PrefixTree
from plimsoll.spec.errors import InfeasibleError, SpecError

PROMPTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=20)


def random_prompts(rng, most=8, longest=7, vocabulary=2):
    return [
        rng.integers(0, vocabulary, rng.integers(1, longest + 1)).tolist()
        for _ in range(rng.integers(1, most + 1))
    ]


def levels(rng, depth=4):
    """Prompts of a tree of ``depth`` levels with random lengths and numbers of children."""
    prompts, fresh = [], itertools.count()

    def more(n):
        return [next(fresh) for _ in range(n)]

    todo = [([], 0)]
    while todo:
        prefix, level = todo.pop()
        if level == depth:
            prompts.append(prefix + more(int(rng.integers(1, 60))))
            continue
        for _ in range(int(rng.integers(1, 5))):
            todo.append((prefix + more(int(rng.integers(5, 120))), level + 1))
    return prompts


def best_saving(tree):
    """By trying every set of nodes: each prompt goes to its deepest chosen ancestor."""
    inner = range(1, len(tree))
    best = 0
    for size in range(len(tree)):
        for chosen in itertools.combinations(inner, size):
            members = dict.fromkeys(chosen, 0)
            for node in tree.node_of.tolist():
                while node > 0 and node not in members:
                    node = int(tree.parent[node])
                if node > 0:
                    members[node] += 1
            saving = sum((n - 1) * int(tree.depth[v]) for v, n in members.items() if n)
            best = max(best, saving)
    return best


def test_exact_equals_brute_force_on_500_trees():
    rng = np.random.default_rng(1)
    done = shared = 0
    while done < 500:
        tree = PrefixTree.of(random_prompts(rng, most=14))
        if len(tree) > 11:  # the root and ten more
            continue
        best = best_saving(tree)
        assert saved_tokens(one_level_exact(tree)) == best
        done += 1
        shared += best > 0
    assert shared > 300


def test_exact_is_never_worse_than_the_published_rule_and_often_better():
    rng = np.random.default_rng(2)
    exact, greedy, every, worse = [], [], [], 0
    for _ in range(200):
        tree = PrefixTree.of(levels(rng))
        ours, theirs = saved_tokens(one_level_exact(tree)), saved_tokens(one_level_greedy(tree))
        assert ours >= theirs
        worse += ours > theirs
        exact.append(ours / tree.total_tokens)
        greedy.append(theirs / tree.total_tokens)
        every.append(1 - tree.distinct_tokens / tree.total_tokens)
    assert worse > 100
    assert np.mean(greedy) < np.mean(exact) < np.mean(every)


@given(prompts=PROMPTS, unit=st.sampled_from([1, 2, 3]))
def test_groups_are_what_they_say(prompts, unit):
    tree = PrefixTree.of(prompts)
    for groups in (one_level_exact(tree, unit_tokens=unit), one_level_greedy(tree)):
        seen = [member for group in groups for member in group.members]
        assert len(seen) == len(set(seen))
        tokens = sum(map(len, prompts))
        for group in groups:
            assert len(group.members) > 1
            assert len({tuple(prompts[m][: group.prefix_tokens]) for m in group.members}) == 1
            assert all(len(prompts[m]) > group.prefix_tokens > 0 for m in group.members)
            tokens -= (len(group.members) - 1) * group.prefix_tokens
        assert computed_tokens(tree, groups) == tokens >= tree.distinct_tokens
    assert all(g.prefix_tokens % unit == 0 for g in one_level_exact(tree, unit_tokens=unit))
    fine, coarse = one_level_exact(tree), one_level_exact(tree, unit_tokens=unit)
    assert saved_tokens(fine) >= saved_tokens(coarse)
    assert saved_tokens(fine) >= saved_tokens(one_level_greedy(tree))


@given(prompts=PROMPTS)
def test_tree_counts_every_distinct_prefix_once(prompts):
    tree = PrefixTree.of(prompts)
    prefixes = {tuple(p[:i]) for p in prompts for i in range(1, len(p))}
    assert tree.distinct_tokens == len(prefixes) + len(prompts)
    assert (tree.parent[1:] < np.arange(1, len(tree))).all()
    assert (tree.depth[1:] > tree.depth[tree.parent[1:]]).all()
    for node in range(1, len(tree)):
        below = tree.order[tree.first[node] : tree.stop[node]]
        assert len(below) >= 2
        assert len({tuple(prompts[i][: tree.depth[node]]) for i in below}) == 1


@settings(max_examples=30)
@given(prompts=PROMPTS, seed=st.integers(0, 1000))
def test_order_of_the_batch_does_not_matter(prompts, seed):
    order = np.random.default_rng(seed).permutation(len(prompts))
    shuffled = [prompts[i] for i in order]
    saving = saved_tokens(one_level_exact(PrefixTree.of(prompts)))
    assert saved_tokens(one_level_exact(PrefixTree.of(shuffled))) == saving


def test_duplicates_share_up_to_the_last_token():
    (group,) = one_level_exact(PrefixTree.of([[1, 2, 3]] * 5))
    assert (group.prefix_tokens, len(group.members)) == (2, 5)
    assert one_level_exact(PrefixTree.of([[1], [1]])) == ()


def test_a_prompt_that_is_the_beginning_of_another():
    (group,) = one_level_exact(PrefixTree.of([[1, 2, 3], [1, 2, 3, 4, 5]]))
    assert group.prefix_tokens == 2


def test_no_recursion_on_long_chains():
    chain = list(range(3000))
    prompts = [chain[: n + 1] for n in range(1, 3000)]
    tree = PrefixTree.of(prompts)
    assert len(tree) > 2900
    assert saved_tokens(one_level_exact(tree)) >= saved_tokens(one_level_greedy(tree)) > 0


def test_prefixes_in_whole_blocks():
    a = list(range(40))
    plan = plan_groups([[*a, 100], [*a, 101], [*a, 102]], 10)
    assert [g.prefix_tokens for g in plan.groups] == [32]
    assert plan.prefill_tokens == 32 + 3 * 9
    short = plan_groups([[1, 2, 3], [1, 2, 4]], 10)
    assert [g.prefix_tokens for g in short.groups] == [0, 0]
    assert short.saved_fraction == 0


def test_blocks_change_the_best_choice():
    """With 31 tokens in common two groups are best; in blocks of 16 all share the first one."""
    common = list(range(16))
    prompts = [[*common, *([k] * 15), 1000 + i] for k in (100, 200) for i in range(3)]
    assert [g.prefix_tokens for g in one_level_exact(PrefixTree.of(prompts))] == [31, 31]
    (whole,) = one_level_exact(PrefixTree.of(prompts), unit_tokens=16)
    assert (whole.prefix_tokens, len(whole.members)) == (16, 6)


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ([], "no prompt"),
        ([[1], []], "prompt 1 holds no token"),
        ([[0.5]], "expected token ids"),
        ([[-1]], "outside 0"),
        ([[2**32]], "outside 0"),
    ],
)
def test_bad_prompts_are_named(prompts, words):
    with pytest.raises(SpecError, match=words):
        PrefixTree.of(prompts)


def test_bad_hints_and_units_are_named():
    with pytest.raises(SpecError, match="both must be positive"):
        plan_groups([[1, 2]], 0)
    with pytest.raises(SpecError, match="2 prompts and 1 predicted"):
        plan_groups([[1], [2]], [3.0])
    with pytest.raises(SpecError, match="unit_tokens is 0"):
        one_level_exact(PrefixTree.of([[1]]), unit_tokens=0)


def test_prefix_larger_than_memory_is_an_answer():
    prompts = [[*range(64), 100 + i] for i in range(3)]
    with pytest.raises(InfeasibleError, match="shared prefix of 64 tokens is larger"):
        plan_groups(prompts, 1, kv_tokens=48)
    with pytest.raises(InfeasibleError, match="request 0 takes 80 tokens"):
        plan_groups(prompts, 1, kv_tokens=64)


@pytest.mark.slow
def test_100_000_prompts_of_1000_tokens():
    rng = np.random.default_rng(3)
    prefixes = rng.integers(0, 32_000, (5000, 800))
    nested = prefixes[:, :300] * 0 + rng.integers(0, 32_000, (50, 300))[rng.integers(0, 50, 5000)]
    prefixes[:, :300] = nested
    rows = rng.integers(0, 5000, 100_000)

    def prompts():
        for row in rows:
            yield np.concatenate([prefixes[row], rng.integers(0, 32_000, 200)])

    started = time.process_time()
    plan = plan_groups(prompts(), 100.0)
    assert time.process_time() - started < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 * 2**20  # KiB
    assert plan.saved_fraction > 0.7
