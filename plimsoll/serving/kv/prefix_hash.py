"""Keys of a prompt's leading blocks: equal keys mean equal tokens up to the end of the block.

Each key is a 128-bit hash of the block's tokens and the key before it.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

__all__ = ["prefix_hashes"]


def prefix_hashes(tokens: Sequence[int], block_tokens: int) -> list[int]:
    """One key for every whole block of ``tokens``."""
    whole = len(tokens) // block_tokens
    data = np.asarray(tokens[: whole * block_tokens], dtype=np.int64)
    keys: list[int] = []
    before = b""
    for block in data.reshape(whole, block_tokens):
        before = hashlib.blake2b(before + block.tobytes(), digest_size=16).digest()
        keys.append(int.from_bytes(before, "little"))
    return keys
