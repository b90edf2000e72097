"""One uniform number for the n-th token of a seed, without a state to keep.

SplitMix64 as a counter: the seed is mixed into a starting point, the n-th output follows from
it directly. Tokens therefore do not depend on who shares the batch, on chunks or on restarts.
Seeds count modulo 2**64. Source: doi:10.1145/2660193.2660195 (the generator and its mixer).
"""

__all__ = ["uniform"]

_ALL = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _ALL
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _ALL
    return z ^ (z >> 31)


def uniform(seed: int, index: int) -> float:
    """A number in [0, 1), a multiple of 2**-53, that depends on both arguments alone."""
    start = _mix((seed + _STEP) & _ALL)
    return (_mix((start + (index + 1) * _STEP) & _ALL) >> 11) * 2.0**-53
