"""One level of sharing: each prompt is in one group at most, and a group computes its prefix once.

A group is a node of the prefix tree; with n members and a prefix of D tokens it saves (n - 1) D.
``one_level_exact`` finds the best choice of nodes: below the nearest chosen ancestor of depth u,

    cost(v, u) = min( sum over children cost(c, u),  D(v) + sum over children cost(c, D(v)) )

and a prompt of n tokens costs n - u. The first term falls as u grows, the second does not depend on
u, so a node is chosen for all ancestors up to some depth, and one number a node keeps the choice.
``one_level_greedy`` is the published rule: from the leaves up, lift a grandchild g over its parent
c if (leaves(g) - 1) len(g) > len(c).
Leaves out: memory; a group larger than it is cut later (``serving.group_plan``).
Source: arXiv 2412.03594, section 4.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from plimsoll.serving.group_plan import PrefixGroup
from plimsoll.serving.prefix_tree import PrefixTree
from plimsoll.spec.errors import SpecError

__all__ = ["computed_tokens", "one_level_exact", "one_level_greedy", "saved_tokens"]

Ints = npt.NDArray[np.int64]


def saved_tokens(groups: Sequence[PrefixGroup]) -> int:
    """Prompt tokens that need not be computed: (n - 1) D over the groups."""
    return sum((len(group.members) - 1) * group.prefix_tokens for group in groups)


def computed_tokens(tree: PrefixTree, groups: Sequence[PrefixGroup]) -> int:
    """Prompt tokens left to compute."""
    return tree.total_tokens - saved_tokens(groups)


def one_level_exact(tree: PrefixTree, *, unit_tokens: int = 1) -> tuple[PrefixGroup, ...]:
    """The groups that save most; ``unit_tokens``: prefixes are shared in whole units of so many.

    Takes O(nodes x levels of the tree).

    Raises:
        SpecError: ``unit_tokens`` is below 1.
    """
    if unit_tokens < 1:
        raise SpecError(f"unit_tokens is {unit_tokens}; expected 1 or more")
    depth = tree.depth // unit_tokens * unit_tokens
    children = _children(tree)
    own_count = np.bincount(tree.node_of, minlength=len(tree))
    own_tokens = np.bincount(tree.node_of, weights=tree.prompt_tokens, minlength=len(tree))
    chosen_for = [0] * len(tree)  # by how many of its ancestors, from the root, a node is chosen
    path: list[int] = []
    path_depths = np.zeros(16, dtype=np.int64)
    sums: dict[int, Ints] = {}  # of the children done so far, by ancestor and the node itself
    todo = [0]
    while todo:
        node = todo[-1]
        level = len(path)
        if path and path[-1] == node:  # its children are done
            todo.pop()
            path.pop()
            level -= 1
            costs = sums.pop(node, None)
            if costs is None:
                costs = np.zeros(level + 1, dtype=np.int64)
            costs += int(own_tokens[node]) - own_count[node] * path_depths[: level + 1]
            if level == 0:
                break
            alone = int(depth[node]) + int(costs[-1])
            above = costs[:-1]
            chosen = int(np.count_nonzero(above > alone))
            chosen_for[node] = chosen
            above[:chosen] = alone
            parent = path[-1]
            if parent in sums:
                sums[parent] += above
            else:
                sums[parent] = above
            continue
        if level == len(path_depths):
            path_depths = np.concatenate([path_depths, np.zeros(level, dtype=np.int64)])
        path_depths[level] = depth[node]
        path.append(node)
        todo.extend(reversed(children[node]))
    return _groups(tree, _nearest_chosen(tree, chosen_for), depth)


def _children(tree: PrefixTree) -> list[list[int]]:
    """Of each node, that with most prompts first: few sums are then open at once."""
    found: list[list[int]] = [[] for _ in range(len(tree))]
    for node, parent in enumerate(tree.parent.tolist()[1:], start=1):
        found[parent].append(node)
    leaves = tree.leaves
    for row in found:
        row.sort(key=lambda node: (-leaves[node], node))
    return found


def _nearest_chosen(tree: PrefixTree, chosen_for: Sequence[int]) -> Ints:
    """The chosen node that each node's own prompts belong to, 0 for none."""
    level = [0] * len(tree)
    nearest = np.zeros(len(tree), dtype=np.int64)
    for node, parent in enumerate(tree.parent.tolist()[1:], start=1):
        level[node] = level[parent] + 1
        above = int(nearest[parent])
        nearest[node] = node if level[above] < chosen_for[node] else above
    return nearest


def _groups(tree: PrefixTree, nearest: Ints, depth: Ints) -> tuple[PrefixGroup, ...]:
    """Groups in order of their first prompt; those that save nothing are left out."""
    of_prompt = nearest[tree.node_of[tree.order]]
    found: dict[int, list[int]] = {}
    for prompt, node in zip(tree.order.tolist(), of_prompt.tolist(), strict=True):
        if depth[node]:
            found.setdefault(node, []).append(prompt)
    return tuple(
        PrefixGroup(prefix_tokens=int(depth[node]), members=tuple(members))
        for node, members in found.items()
        if len(members) > 1
    )


def one_level_greedy(tree: PrefixTree) -> tuple[PrefixGroup, ...]:
    """The published bottom-up rule, which is not optimal: for comparison with the exact choice."""
    num = len(tree)
    length = tree.depth.copy()
    length[1:] -= tree.depth[tree.parent[1:]]
    leaves = tree.leaves.copy()
    own = np.bincount(tree.node_of, minlength=num)
    children = _children(tree)
    for top in range(num - 1, -1, -1):  # children come after their parents
        at = 0
        while at < len(children[top]):
            child = children[top][at]
            kept = []
            for grandchild in children[child]:
                gain = (leaves[grandchild] - 1) * length[grandchild] - length[child]
                if gain > 0:
                    length[grandchild] += length[child]
                    leaves[child] -= leaves[grandchild]
                    children[top].append(grandchild)
                else:
                    kept.append(grandchild)
            children[child] = kept
            if len(kept) == 1 and not own[child]:  # it is nothing but the way to its only child
                only = kept[0]
                length[only] += length[child]
                children[top][at] = only
                continue
            at += 1
    return _rooted_groups(tree, children, length)


def _rooted_groups(
    tree: PrefixTree, children: list[list[int]], length: Ints
) -> tuple[PrefixGroup, ...]:
    """What hangs below the root is a group each, with all that is left in it."""
    nearest = np.zeros(len(tree), dtype=np.int64)
    for node in children[0]:
        todo = [node]
        while todo:
            inner = todo.pop()
            nearest[inner] = node
            todo.extend(children[inner])
    return _groups(tree, nearest, length)
