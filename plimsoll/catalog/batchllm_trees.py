"""Prefix trees to judge the planner on: small ones by brute force, deep ones, a large batch.

Source: arXiv 2412.03594, section 4; the random trees are ours.
"""

import itertools
import multiprocessing
import resource
import time

import numpy as np

from plimsoll.serving.one_level import one_level_exact, one_level_greedy, saved_tokens
from plimsoll.serving.plan_groups import plan_groups
from plimsoll.serving.prefix_tree import PrefixTree
from plimsoll.spec.generators import stream

__all__ = ["best_saving", "deep_tree", "large_plan", "small_trees"]

_MOST_INNER = 10
_LEVELS = 4
_LARGE, _PREFIX, _SUFFIX, _PREFIXES, _ROOTS = 100_000, 800, 200, 5000, 50


def small_trees(count: int, seed: int) -> list[PrefixTree]:
    """Trees of short random prompts, with 1 to 10 inner nodes below the root."""
    rng = stream(seed, "batchllm small trees")
    found: list[PrefixTree] = []
    while len(found) < count:
        lengths = rng.integers(1, 8, int(rng.integers(2, 15)))
        tree = PrefixTree.of([rng.integers(0, 2, n) for n in lengths])
        if 1 < len(tree) <= _MOST_INNER + 1:
            found.append(tree)
    return found


def best_saving(tree: PrefixTree) -> int:
    """Most tokens one level can save, by trying every set of nodes."""
    own, best = tree.node_of.tolist(), 0
    parent, depth = tree.parent.tolist(), tree.depth.tolist()
    for size in range(len(tree)):
        for chosen in itertools.combinations(range(1, len(tree)), size):
            members = dict.fromkeys(chosen, 0)
            for prompt_node in own:
                node = prompt_node
                while node > 0 and node not in members:
                    node = parent[node]
                if node > 0:
                    members[node] += 1
            best = max(best, sum((n - 1) * depth[v] for v, n in members.items() if n))
    return best


def deep_tree(seed: int) -> tuple[float, float, float]:
    """Shares of prompt tokens saved in a random tree of four levels: all levels, exact, greedy."""
    rng = stream(seed, "batchllm deep trees")
    prompts: list[np.ndarray] = []
    todo = [(np.zeros(0, dtype=np.int64), 0)]
    fresh = 0
    while todo:
        prefix, level = todo.pop()
        last = level == _LEVELS
        for _ in range(1 if last else int(rng.integers(1, 5))):
            length = int(rng.integers(1, 60)) if last else int(rng.integers(5, 120))
            longer = np.concatenate([prefix, fresh + np.arange(length)])
            fresh += length
            if last:
                prompts.append(longer)
            else:
                todo.append((longer, level + 1))
    tree = PrefixTree.of(prompts)
    total = tree.total_tokens
    return (
        1 - tree.distinct_tokens / total,
        saved_tokens(one_level_exact(tree)) / total,
        saved_tokens(one_level_greedy(tree)) / total,
    )


def large_plan(seed: int) -> tuple[float, float]:
    """(CPU seconds, bytes of memory) to plan 100,000 prompts of 1,000 tokens, in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_plan_large, (seed,))


def _plan_large(seed: int) -> tuple[float, float]:
    rng = stream(seed, "batchllm large batch")
    prefixes = rng.integers(0, 32_000, (_PREFIXES, _PREFIX))
    roots = rng.integers(0, 32_000, (_ROOTS, _PREFIX // 2))
    prefixes[:, : _PREFIX // 2] = roots[rng.integers(0, _ROOTS, _PREFIXES)]
    rows = rng.integers(0, _PREFIXES, _LARGE)
    prompts = (np.concatenate([prefixes[r], rng.integers(0, 32_000, _SUFFIX)]) for r in rows)
    started_s = time.process_time()
    plan_groups(prompts, 100.0)
    spent_s = time.process_time() - started_s
    return spent_s, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
