"""What a law is: a loss as a function of a few inputs, with parameters to fit.

A form works on *coordinates*: parameters in the scale in which they are fitted (a positive factor
by its logarithm), so that bounds are a box and steps are well scaled. ``named`` gives them in the
scale in which papers print them. Everything is vectorised over points, and over many sets of
parameters at once: coordinates [..., k] and n points give [..., n].
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["MAY_BE_ZERO", "Coordinate", "Floats", "Inputs", "LossForm", "grid"]

Floats = npt.NDArray[np.float64]
Inputs = Mapping[str, Floats]
"""Columns by name, one value a point: ``params``, ``tokens``, ``streams``, …"""

MAY_BE_ZERO = frozenset({"datastore"})
"""Inputs that a run may do without; all others are above zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coordinate:
    """One parameter as it is fitted, between ``low`` and ``high``; ``meaning`` in words.

    ``unit`` is that of the parameter as papers print it: of E where ln E is fitted, "" for a bare
    number. Losses are in the unit of the points, nats or bits.
    """

    name: str
    low: float
    high: float
    meaning: str
    unit: str = ""


class LossForm(Protocol):
    """A law.

    ``inputs``: the columns it needs, raw counts (parameters, tokens). ``least``: distinct values
    each input must have before the parameters can be told apart. ``formula`` as text; ``source``
    where it was published; ``leaves_out`` when not to use it.
    """

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str: ...

    @property
    def formula(self) -> str: ...

    @property
    def source(self) -> str: ...

    @property
    def leaves_out(self) -> str: ...

    @property
    def inputs(self) -> tuple[str, ...]: ...

    @property
    def least(self) -> Mapping[str, int]: ...

    @property
    def coordinates(self) -> tuple[Coordinate, ...]: ...

    def log_loss(self, theta: Floats, x: Inputs) -> Floats:
        """ln of the loss, [..., n]."""
        ...

    def gradient(self, theta: Floats, x: Inputs) -> Floats:
        """Derivatives of ln of the loss by the coordinates, [..., n, k]."""
        ...

    def starts(self, x: Inputs, loss: Floats) -> Floats:
        """Coordinates to begin a fit from, [s, k]; deterministic."""
        ...

    def named(self, theta: Floats) -> dict[str, float]:
        """Parameters as papers print them."""
        ...

    def coordinates_of(self, named: Mapping[str, float]) -> Floats:
        """The inverse of ``named``."""
        ...


def grid(*axes: Sequence[float]) -> Floats:
    """All combinations of values, one a row."""
    return np.stack([a.ravel() for a in np.meshgrid(*axes, indexing="ij")], axis=-1)
