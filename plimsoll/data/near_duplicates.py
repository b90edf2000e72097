"""Texts that are nearly the same: runs of 13 words, their Jaccard similarity, MinHash to find them.

A text's grams are all its runs of 13 words (a shorter text is one gram of its own). Two texts are
near-duplicates if |A ∩ B|/|A ∪ B| > 0.8 of their grams. MinHash with banding proposes pairs, the
true similarity decides, so nothing is dropped by chance; with 32 bands of 4 a pair at 0.8 is
missed once in 10^7.
Left out: duplicates in other words.
Sources: doi:10.1109/SEQUEN.1997.666900 (MinHash); arXiv 2407.12854, appendix (13 words, 0.8).
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from plimsoll.data.embed import words_of

__all__ = ["GRAM_WORDS", "SIMILAR", "grams", "jaccard", "representatives"]

GRAM_WORDS = 13
SIMILAR = 0.8
_BANDS, _ROWS = 32, 4

Grams = frozenset[int]


def grams(text: str, num_words: int = GRAM_WORDS) -> Grams:
    """Hashes of all runs of ``num_words`` words; a shorter text gives the hash of the whole."""
    words = words_of(text)
    if not words:
        return frozenset()
    last = max(1, len(words) - num_words + 1)
    return frozenset(_hash(" ".join(words[at : at + num_words])) for at in range(last))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest())


def jaccard(one: Grams, other: Grams) -> float:
    """Shared grams over all; 0 of two empty texts."""
    union = len(one | other)
    return len(one & other) / union if union else 0.0


def representatives(texts: Sequence[str], *, similar: float = SIMILAR) -> npt.NDArray[np.int64]:
    """For each text the position of what stands for it: itself, or the first representative that
    it is similar to. Fixed on all texts given, so a later choice among them changes nothing."""
    all_grams = [grams(text) for text in texts]
    signatures = _signatures(all_grams)
    buckets: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    found = np.arange(len(texts), dtype=np.int64)
    for at, mine in enumerate(all_grams):
        if not mine:
            continue
        keys = [
            (band, signatures[at, band * _ROWS : (band + 1) * _ROWS].tobytes())
            for band in range(_BANDS)
        ]
        near = sorted({other for key in keys for other in buckets[key]})
        stands = next((o for o in near if jaccard(mine, all_grams[o]) > similar), None)
        if stands is not None:
            found[at] = stands
            continue
        for key in keys:
            buckets[key].append(at)
    return found


def _signatures(all_grams: Iterable[Grams]) -> npt.NDArray[np.uint64]:
    """[n, bands * rows] least values of hashes (a·x + b) mod 2^64, high bits mixed in first."""
    rng = np.random.default_rng(0)
    factor = rng.integers(1, 2**63, _BANDS * _ROWS, dtype=np.uint64) | np.uint64(1)
    shift = rng.integers(0, 2**63, _BANDS * _ROWS, dtype=np.uint64)
    rows = []
    for mine in all_grams:
        values = np.fromiter(mine, dtype=np.uint64, count=len(mine))
        mixed = factor * values[:, None] + shift
        mixed ^= mixed >> np.uint64(29)
        mixed *= np.uint64(0xBF58476D1CE4E5B9)
        top = np.full(len(factor), np.iinfo(np.uint64).max)
        rows.append(mixed.min(axis=0, initial=np.iinfo(np.uint64).max) if len(mine) else top)
    return np.array(rows, dtype=np.uint64).reshape(-1, len(factor))
