"""What each picture shows, as plain data: the one input of terminal, SVG/PNG and HTML.

Nothing is computed here or in the renderers; whoever builds a picture has the numbers. Times
are seconds and sizes bytes as everywhere; renderers choose ms or GiB. A title states the claim
of the picture, not its kind.
"""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from plimsoll.report.law_pictures import (
    ExtrapolationPicture,
    IsoFlopPicture,
    IsoLossPicture,
    ResidualPicture,
)
from plimsoll.spec.io import PLAIN
from plimsoll.spec.origin import Origin

__all__ = [
    "BreakdownBar",
    "BreakdownPart",
    "CdfPicture",
    "CdfSeries",
    "LoadCurvePicture",
    "LoadPoint",
    "MemoryPart",
    "MemoryWaterfall",
    "ParetoPicture",
    "ParetoPoint",
    "Picture",
    "RequestTimeline",
    "RooflineDot",
    "RooflinePicture",
    "Spread",
    "TimeBreakdown",
    "TimelineRow",
    "TimelineSpan",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParetoPoint:
    """One plan. ``family`` groups the plans joined by a line, such as one parallel layout.

    ``frontier`` unset: some plan is at least as good on both axes, so it is drawn faint.
    """

    __pydantic_config__: ClassVar = PLAIN
    tokens_per_s_per_user: float
    tokens_per_s_per_gpu: float
    num_gpus: int
    family: str
    label: str
    frontier: bool
    meets_slo: bool
    chosen: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ParetoPicture:
    """Output tokens/s/user against output tokens/s/GPU of all plans judged.

    ``min_tokens_per_s_per_user`` bounds the shaded region where the SLO's TPOT holds; None
    where it states none.
    """

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["pareto"] = "pareto"
    title: str
    points: tuple[ParetoPoint, ...]
    min_tokens_per_s_per_user: float | None = None
    origin: Origin = Origin.MODELED
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CdfSeries:
    """``fractions[k]`` of ``num_samples`` values are at or below ``values_s[k]``, both rising.

    ``within_fraction`` are at or below the picture's bound; None without one. Fractions that
    end below 1 tell of requests that never got a value.
    """

    __pydantic_config__: ClassVar = PLAIN
    name: str
    values_s: tuple[float, ...]
    fractions: tuple[float, ...]
    num_samples: int
    within_fraction: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CdfPicture:
    """Cumulative distributions of one latency, one line a run."""

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["cdf"] = "cdf"
    title: str
    metric: Literal["ttft", "tpot", "itl", "e2e"]
    series: tuple[CdfSeries, ...]
    bound_s: float | None = None
    origin: Origin = Origin.MODELED
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A value over seeds: mean and extremes."""

    __pydantic_config__: ClassVar = PLAIN
    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPoint:
    """One offered rate. ``latency_s`` None: not defined at this load."""

    __pydantic_config__: ClassVar = PLAIN
    request_rate_per_s: float
    goodput_requests_per_s: Spread
    latency_s: Spread | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadCurvePicture:
    """Goodput and one latency statistic (``latency_name``) against the request rate.

    ``knee_rate_per_s`` is the highest rate that kept the promise; None: none of those tried.
    """

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["load-curve"] = "load-curve"
    title: str
    latency_name: str
    points: tuple[LoadPoint, ...]
    num_seeds: int
    knee_rate_per_s: float | None = None
    bound_s: float | None = None
    origin: Origin = Origin.MODELED
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineSpan:
    """What one request did for a while."""

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["queue", "prefill", "decode", "preempted"]
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineRow:
    """One request; ``late`` if it missed a bound or did not finish. ``tpot_s`` None: one token."""

    __pydantic_config__: ClassVar = PLAIN
    request_id: int
    late: bool
    spans: tuple[TimelineSpan, ...]
    tpot_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestTimeline:
    """A row a request, in order of arrival: ``rows`` of ``num_requests`` are shown."""

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["request-timeline"] = "request-timeline"
    title: str
    rows: tuple[TimelineRow, ...]
    num_requests: int
    num_late: int
    origin: Origin = Origin.MODELED
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPart:
    """One part of the memory of one GPU."""

    __pydantic_config__: ClassVar = PLAIN
    name: str
    size_bytes: Annotated[float, Field(ge=0)]
    origin: Origin = Origin.DERIVED


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryWaterfall:
    """Memory of the fullest GPU by part, against what the engine may take of it.

    ``limit_bytes`` is the engine's share, ``capacity_bytes`` the device's memory.
    """

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["memory"] = "memory"
    title: str
    parts: tuple[MemoryPart, ...]
    limit_bytes: float
    capacity_bytes: float
    notes: tuple[str, ...] = ()

    @property
    def used_bytes(self) -> float:
        """Sum of the parts."""
        return sum(part.size_bytes for part in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class RooflineDot:
    """One operator; ``bound`` names the resource that binds it."""

    __pydantic_config__: ClassVar = PLAIN
    name: str
    phase: Literal["prefill", "decode"]
    flops_per_byte: float
    flops_per_s: float
    bound: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RooflinePicture:
    """Operators against a device's limits; ``peaks`` are (dtype, dense FLOP/s)."""

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["roofline"] = "roofline"
    title: str
    device: str
    memory_bytes_per_s: float
    peaks: tuple[tuple[str, float], ...]
    dots: tuple[RooflineDot, ...]
    origin: Origin = Origin.MODELED
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakdownPart:
    """Time of one operator or collective in a step.

    ``seconds`` adds to the step; ``hidden_s`` runs behind other work and does not. ``bound_s``
    is what the hardware's limit alone would take; None where there is none.
    """

    __pydantic_config__: ClassVar = PLAIN
    name: str
    kind: Literal["compute", "memory", "collective", "host"]
    seconds: Annotated[float, Field(ge=0)]
    hidden_s: Annotated[float, Field(ge=0)] = 0.0
    bound_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakdownBar:
    """One kind of step, such as a decode step of 64 requests."""

    __pydantic_config__: ClassVar = PLAIN
    name: str
    parts: tuple[BreakdownPart, ...]

    @property
    def total_s(self) -> float:
        """Length of the step."""
        return sum(part.seconds for part in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeBreakdown:
    """Where the time of a step goes, a bar a kind of step."""

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["time-breakdown"] = "time-breakdown"
    title: str
    bars: tuple[BreakdownBar, ...]
    origin: Origin = Origin.MODELED
    notes: tuple[str, ...] = field(default=())


Picture = Annotated[
    ParetoPicture
    | CdfPicture
    | LoadCurvePicture
    | RequestTimeline
    | MemoryWaterfall
    | RooflinePicture
    | TimeBreakdown
    | IsoLossPicture
    | IsoFlopPicture
    | ResidualPicture
    | ExtrapolationPicture,
    Field(discriminator="kind"),
]
