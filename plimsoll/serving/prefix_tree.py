"""A compact trie over the prompts of a batch: who shares how many leading tokens with whom.

Prompts are sorted as bytes, neighbors compared for their longest common prefix, and the intervals
of those lengths are the inner nodes; no recursion and no loop over tokens. The last token of a
prompt is never shared: it must run for the first output token, so a prompt of n tokens shares n - 1
at most, and two equal prompts meet there.
Leaves out: tokens themselves; the tree knows lengths and members only.
Source: arXiv 2412.03594, section 4 (compact prefix tree).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from plimsoll.spec.errors import SpecError

__all__ = ["PrefixTree"]

Ints = npt.NDArray[np.int64]
_TOP_TOKEN = 2**32 - 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PrefixTree:
    """Inner nodes of the trie; node 0 is the root, a parent comes before its children.

    order         [n] prompts in order of their tokens, which is depth-first order of the tree
    prompt_tokens [n] length of each prompt, by prompt
    node_of       [n] the deepest node whose prefix a prompt has, by prompt
    depth         [m] tokens from the root, which has 0; below the root at least 1
    parent        [m] -1 for the root
    first, stop   [m] a node's prompts are ``order[first:stop]``; below the root two or more
    """

    order: Ints
    prompt_tokens: Ints
    node_of: Ints
    depth: Ints
    parent: Ints
    first: Ints
    stop: Ints

    @classmethod
    def of(cls, prompts: Iterable[Sequence[int] | Ints]) -> "PrefixTree":
        """The tree of ``prompts`` (token ids of each; any iterable, read once).

        Raises:
            SpecError: there is no prompt, one is empty, or a token is no id of 32 bits.
        """
        rows = [_as_bytes(number, prompt) for number, prompt in enumerate(prompts)]
        if not rows:
            raise SpecError("the batch holds no prompt; expected at least one")
        lengths = np.array([len(row) // 4 for row in rows], dtype=np.int64)
        order = sorted(range(len(rows)), key=rows.__getitem__)
        shared = np.zeros(len(rows), dtype=np.int64)
        before = np.frombuffer(rows[order[0]], dtype=">u4")
        for at, prompt in enumerate(order[1:], start=1):
            here = np.frombuffer(rows[prompt], dtype=">u4")
            shared[at] = _common(before, here)
            before = here
        return cls._from_lengths(np.array(order, dtype=np.int64), lengths, shared)

    @classmethod
    def _from_lengths(cls, order: Ints, lengths: Ints, shared: Ints) -> "PrefixTree":
        """``shared[i]``: tokens that the i-th prompt in order has in common with the one before."""
        depths, parents, firsts, stops = [0], [-1], [0], [len(order)]
        at_node = [0] * len(order)
        path = [0]  # nodes that are open, from the root
        common = shared.tolist()
        for i in range(1, len(order)):
            depth = common[i]
            closed = -1
            while depths[path[-1]] > depth:
                closed = path.pop()
                stops[closed] = i
            if depths[path[-1]] < depth:
                parents.append(path[-1])
                depths.append(depth)
                stops.append(len(order))
                firsts.append(i - 1 if closed < 0 else firsts[closed])
                path.append(len(depths) - 1)
                if closed >= 0:
                    parents[closed] = path[-1]
                else:
                    at_node[i - 1] = path[-1]
            at_node[i] = path[-1]
        return cls._numbered(order, lengths, at_node, depths, parents, firsts, stops)

    @classmethod
    def _numbered(
        cls,
        order: Ints,
        lengths: Ints,
        at_node: list[int],
        depths: list[int],
        parents: list[int],
        firsts: list[int],
        stops: list[int],
    ) -> "PrefixTree":
        """Number the nodes in depth-first order: a node is found after some of its children."""
        first, depth = np.array(firsts, dtype=np.int64), np.array(depths, dtype=np.int64)
        rank = np.lexsort((depth, first))
        number = np.empty_like(rank)
        number[rank] = np.arange(len(rank))
        parent = np.array(parents, dtype=np.int64)[rank]
        parent[1:] = number[parent[1:]]
        node_of = np.empty(len(order), dtype=np.int64)
        node_of[order] = number[np.array(at_node, dtype=np.int64)]
        return cls(
            order=order,
            prompt_tokens=lengths,
            node_of=node_of,
            depth=depth[rank],
            parent=parent,
            first=first[rank],
            stop=np.array(stops, dtype=np.int64)[rank],
        )

    def __len__(self) -> int:
        """Inner nodes, the root among them."""
        return len(self.depth)

    @property
    def leaves(self) -> Ints:
        """Prompts below each node."""
        return self.stop - self.first

    @property
    def total_tokens(self) -> int:
        """Tokens of all prompts."""
        return int(self.prompt_tokens.sum())

    @property
    def distinct_tokens(self) -> int:
        """Tokens to compute if every level of the tree is shared: none can need fewer."""
        edges = self.depth[1:] - self.depth[self.parent[1:]]
        return int(edges.sum() + (self.prompt_tokens - self.depth[self.node_of]).sum())


def _as_bytes(number: int, prompt: Sequence[int] | Ints) -> bytes:
    """Big-endian, so that the order of bytes is that of tokens."""
    tokens = np.asarray(prompt)
    if tokens.ndim != 1 or len(tokens) == 0:
        raise SpecError(f"prompt {number} holds no token; expected a list of at least one")
    if tokens.dtype.kind not in "iu":
        raise SpecError(f"prompt {number} holds {tokens.dtype} values; expected token ids")
    if tokens.min() < 0 or tokens.max() > _TOP_TOKEN:
        raise SpecError(f"prompt {number} has a token outside 0 to {_TOP_TOKEN}")
    return tokens.astype(">u4").tobytes()


def _common(a: Ints, b: Ints) -> int:
    """Leading tokens in common, the last of either left out."""
    most = min(len(a), len(b)) - 1
    differ = a[:most] != b[:most]
    first = int(differ.argmax()) if most else 0
    return first if most and differ[first] else most
