"""What is known of each row of a batch when its next token is drawn.

A history holds the distinct tokens of a request with how often each was generated, so a step
costs what is distinct rather than what is long. Left out: order and text.
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plimsoll.serving.generation import SamplingParams

__all__ = ["History", "Row", "needs_history"]


class History:
    """Token counts of one request; only penalties read it."""

    __slots__ = ("_counts", "_ids", "_places")

    def __init__(self, prompt: Iterable[int], generated: Iterable[int] = ()) -> None:
        self._ids = array("q")
        self._counts = array("q")
        self._places: dict[int, int] = {}
        for token in prompt:
            self._place(token)
        for token in generated:
            self.push(token)

    def push(self, token: int) -> None:
        """Count one more generated token."""
        self._counts[self._place(token)] += 1

    def _place(self, token: int) -> int:
        place = self._places.setdefault(token, len(self._ids))
        if place == len(self._ids):
            self._ids.append(token)
            self._counts.append(0)
        return place

    def tokens(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Distinct tokens of prompt and output, and how often each was generated."""
        return np.array(self._ids, dtype=np.int64), np.array(self._counts, dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One request of a batch. ``index`` is how many tokens it has generated already.

    ``eos_ids`` are forbidden while ``min_tokens`` is not reached. ``allowed`` is a grammar's
    bitmask, int32 words, lowest bit first; tokens beyond its end are forbidden. ``history`` may
    be None where ``needs_history`` says so.
    """

    params: SamplingParams
    index: int
    eos_ids: tuple[int, ...] = ()
    history: History | None = None
    allowed: NDArray[np.int32] | None = None


def needs_history(params: SamplingParams) -> bool:
    """Whether a penalty is set."""
    return (
        params.repetition_penalty != 1
        or params.presence_penalty != 0
        or params.frequency_penalty != 0
    )
