"""Where a number comes from: nothing is shown to a user without it.

measured      timed or counted on real hardware
calibrated    computed, with coefficients fitted to measurements of that device
derived       exact arithmetic on a specification (bytes of weights, blocks, prices)
modeled       computed, with coefficients of the device's class or of a data sheet
extrapolated  computed outside the range its coefficients were fitted on
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from plimsoll.spec.io import PLAIN

__all__ = ["Band", "Number", "Origin", "weakest"]


class Origin(StrEnum):
    """How a number was obtained, strongest first."""

    MEASURED = "measured"
    CALIBRATED = "calibrated"
    DERIVED = "derived"
    MODELED = "modeled"
    EXTRAPOLATED = "extrapolated"


_STRENGTH = (
    Origin.DERIVED,
    Origin.MEASURED,
    Origin.CALIBRATED,
    Origin.MODELED,
    Origin.EXTRAPOLATED,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A value with its unit and origin; ``error_fraction`` is the typical relative error.

    ``unit`` is the unit of ``value`` as shown ("req/s", "ms", "GiB", "" for a count).
    ``error_fraction`` None: not known, which is not the same as exact.
    """

    __pydantic_config__: ClassVar = PLAIN
    value: float
    unit: str
    origin: Origin
    error_fraction: Annotated[float, Field(ge=0)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """Factors on a prediction: P10 and P90 of measured over predicted, so 8 of 10 lie inside.

    ``reasons`` say in a few words each what widened it. A prediction that is biased lies
    outside its own band: ``low`` can be above 1, ``high`` below.
    """

    __pydantic_config__: ClassVar = PLAIN
    low: float
    high: float
    reasons: tuple[str, ...] = ()


def weakest(origins: Iterable[Origin]) -> Origin:
    """The origin of a number computed from numbers of these origins.

    Exact arithmetic adds no doubt, so "derived" gives way to every other; nothing at all is
    "derived".
    """
    return max(origins, key=_STRENGTH.index, default=Origin.DERIVED)
