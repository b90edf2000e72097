"""Runs whose loss is higher than that of a like run on fewer tokens.

No form of a surface lets the loss rise with tokens seen once, so such a pair is noise, a run that
went wrong, or losses of two units in one table. Pairs are shown and stay in every fit.
"""

from dataclasses import dataclass

import numpy as np

from plimsoll.laws.table import LossTable

__all__ = ["Rise", "rises"]

_BIT = 1 / float(np.log(2.0))
_NEAR = 0.1


@dataclass(frozen=True, slots=True)
class Rise:
    """From point ``fewer`` to point ``more`` tokens the loss grows ``factor`` times, > 1."""

    fewer: int
    more: int
    factor: float

    @property
    def like_bits(self) -> bool:
        """Whether the step is about that from nats to bits."""
        return abs(self.factor / _BIT - 1) < _NEAR


def rises(table: LossTable) -> list[Rise]:
    """Neighbours along tokens, all other inputs equal; largest rise first, [] without tokens."""
    if "tokens" not in table.columns:
        return []
    others = [values for name, values in table.columns.items() if name != "tokens"]
    tokens = table.columns["tokens"]
    order = np.lexsort((tokens, *others)).tolist()
    found = []
    for before, after in zip(order, order[1:], strict=False):
        alike = all(values[before] == values[after] for values in others)
        if alike and tokens[after] > tokens[before] and table.loss[after] > table.loss[before]:
            factor = float(table.loss[after] / table.loss[before])
            found.append(Rise(fewer=before, more=after, factor=factor))
    return sorted(found, key=lambda one: -one.factor)
