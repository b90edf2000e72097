"""From the prompts of a batch to groups that share a prefix, in the order in which they should run.

The prefix tree of all prompts, the best single level of sharing in it, then groups by predicted
decode over computed prompt tokens.
Source: arXiv 2412.03594, sections 4 and 5.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from plimsoll.serving.group_plan import GroupPlan, order_groups
from plimsoll.serving.one_level import one_level_exact
from plimsoll.serving.prefix_tree import PrefixTree

__all__ = ["plan_groups"]


def plan_groups(
    prompts: Iterable[Sequence[int] | npt.NDArray[np.int64]],
    decode_hint: float | Sequence[float],
    *,
    block_tokens: int = 16,
    kv_tokens: int = 0,
) -> GroupPlan:
    """Groups of ``prompts`` (token ids); requests are named by their place in it.

    ``decode_hint`` is the expected output in tokens, of each request or of all. ``block_tokens``
    are shared together; ``kv_tokens`` is the memory for KV, 0 for any.

    Raises:
        SpecError: a prompt is empty, or a hint is missing or not positive.
        InfeasibleError: a prefix, or a request with its prefix, is larger than the memory.
    """
    tree = PrefixTree.of(prompts)
    lengths = tree.prompt_tokens.tolist()
    hints = [decode_hint] * len(lengths) if isinstance(decode_hint, int | float) else decode_hint
    groups = one_level_exact(tree, unit_tokens=block_tokens)
    return order_groups(
        groups, lengths, list(hints), block_tokens=block_tokens, kv_tokens=kv_tokens
    )
