"""Independent random streams, one a purpose.

The stream depends on the seed and on the name of the purpose only, so drawing more lengths
never moves an arrival. Source: numpy ``SeedSequence`` with a spawn key made from the name.
"""

import hashlib

import numpy as np

from plimsoll.spec.errors import SpecError

__all__ = ["stream"]


def stream(seed: int, purpose: str) -> np.random.Generator:
    """The generator of one purpose under one seed."""
    if seed < 0:
        raise SpecError(f"seed = {seed} must be zero or more")
    digest = hashlib.sha256(purpose.encode()).digest()
    key = tuple(int.from_bytes(digest[i : i + 4], "little") for i in range(0, 16, 4))
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))
