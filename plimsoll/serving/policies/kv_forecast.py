"""How much KV the requests of a batch will hold at most, from how long each is predicted to run.

All decode at the same pace, so a request that has l tokens left ends l steps from now. When it
ends, those with as many left or more still run, each longer by l tokens. The most over all ends is
the peak. Every request rounds up to a block.
Leaves out: requests that start later.
Source: arXiv 2412.03594, section 5 (memory-centric token batching).
"""

import numpy as np
import numpy.typing as npt

__all__ = ["peak_blocks"]

Ints = npt.NDArray[np.int64]


def peak_blocks(own_tokens: Ints, left_tokens: Ints, block_tokens: int) -> int:
    """Most blocks that requests hold together.

    ``own_tokens`` each has now, shared prefixes apart; ``left_tokens`` it will still add.
    """
    if not len(own_tokens):
        return 0
    longest_first = np.argsort(-left_tokens, kind="stable")
    left = left_tokens[longest_first]
    count = np.arange(1, len(left) + 1)
    tokens = np.cumsum(own_tokens[longest_first]) + count * (left + block_tokens - 1)
    return int(tokens.max()) // block_tokens
