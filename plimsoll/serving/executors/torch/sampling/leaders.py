"""The largest entries of each row in a fixed order: falling value, then rising token id.

A partial sort returns any of the tied entries at its border, so only entries above its last
value count as known; a row that needs more is sorted in full by whoever asks.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Leaders", "leaders", "sorted_rows"]


@dataclass(frozen=True, slots=True)
class Leaders:
    """Sorted entries, [rows, width], of which the first ``num_known`` of a row are right.

    ``complete`` rows have no finite entry besides those.
    """

    values_NM: NDArray[np.float64]
    ids_NM: NDArray[np.int64]
    num_known_N: NDArray[np.int64]
    complete_N: NDArray[np.bool_]


def leaders(x_NV: Tensor, width: int) -> Leaders:
    """The first ``width`` entries of each row, or fewer where ties cross the border."""
    vocab_size = x_NV.shape[1]
    values_NM, ids_NM = x_NV.topk(min(width, vocab_size), dim=-1)
    values = values_NM.double().cpu().numpy()
    ids = ids_NM.cpu().numpy()
    tied = np.flatnonzero((values[:, 1:] == values[:, :-1]).any(axis=1))
    if len(tied):
        order = np.lexsort((ids[tied], -values[tied]), axis=1)
        ids[tied] = np.take_along_axis(ids[tied], order, axis=1)
    whole = width >= vocab_size
    known = np.isfinite(values) if whole else values > values[:, -1:]
    complete = np.full(len(values), True) if whole else values[:, -1] == -np.inf
    return Leaders(values, ids, known.sum(axis=1), complete)


def sorted_rows(x_NV: Tensor) -> Leaders:
    """All entries of each row."""
    values_NV, ids_NV = torch.sort(x_NV, dim=-1, descending=True, stable=True)
    values = values_NV.double().cpu().numpy()
    whole = np.full(len(values), True)
    return Leaders(values, ids_NV.cpu().numpy(), np.isfinite(values).sum(axis=1), whole)
