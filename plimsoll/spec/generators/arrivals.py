"""When requests come: arrival processes as plain data.

Processes with a changing rate are made by warping time: points of a unit-rate renewal process
with Gamma gaps are sent through the inverse of the cumulative rate, which keeps the coefficient
of variation (CV) of the gaps inside each stretch and has no seams between stretches. Gamma gaps
have shape 1/CV^2. Scaling a rate divides all times, which keeps the shape of bursts.
Left out: arrivals that react to the service (closed loops do, through the executor).
Source of the Gamma windows: arXiv 2401.17644.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from plimsoll.spec.errors import SpecError
from plimsoll.spec.generators.lengths import (
    Level,
    check_quantiles,
    interpolate_quantiles,
    stratified_uniform,
)
from plimsoll.spec.generators.streams import stream
from plimsoll.spec.io import PLAIN

__all__ = [
    "Arrivals",
    "AtOnce",
    "ClosedLoop",
    "ConstantArrivals",
    "DiurnalArrivals",
    "GammaArrivals",
    "GapQuantiles",
    "NotNegative",
    "OnOffArrivals",
    "PoissonArrivals",
    "Positive",
    "SpikeArrivals",
    "WindowArrivals",
]

Floats = npt.NDArray[np.float64]
AnyFloats = npt.NDArray[np.floating[Any]]
Positive = Annotated[float, Field(gt=0, le=1e12)]
NotNegative = Annotated[float, Field(ge=0, le=1e12)]
Cv = Annotated[float, Field(gt=0, le=100)]


def _unit_points(n: int, cv: float, seed: int) -> Floats:
    """The first ``n`` points of a renewal process with mean gap 1 and Gamma gaps."""
    rng = stream(seed, "arrivals")
    if cv == 1.0:
        return np.cumsum(rng.standard_exponential(n))
    shape = cv**-2
    return np.cumsum(rng.standard_gamma(shape, n) / shape)


def _warp(points: Floats, edges_s: AnyFloats, rates_per_s: AnyFloats) -> Floats:
    """Times at which the cumulative rate, repeated every ``edges_s[-1]``, reaches ``points``."""
    total = np.concatenate(([0.0], np.cumsum(np.diff(edges_s) * rates_per_s)))
    cycles = np.floor(points / total[-1])
    inside = points - cycles * total[-1]
    return np.asarray(cycles * edges_s[-1] + np.interp(inside, total, edges_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class PoissonArrivals:
    """Independent arrivals at a constant mean rate."""

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["poisson"] = "poisson"
    rate_per_s: Positive
    source: str = ""
    as_of: str = ""

    @property
    def mean_rate_per_s(self) -> float:
        """Long-run arrivals per second."""
        return self.rate_per_s

    def sample(self, n: int, seed: int) -> Floats:
        """The first ``n`` arrival times in seconds."""
        return _unit_points(n, 1.0, seed) / self.rate_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class GammaArrivals:
    """Independent Gamma gaps; ``cv`` 1 is Poisson, above 1 bursty, below 1 regular."""

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["gamma"] = "gamma"
    rate_per_s: Positive
    cv: Cv
    source: str = ""
    as_of: str = ""

    @property
    def mean_rate_per_s(self) -> float:
        """Long-run arrivals per second."""
        return self.rate_per_s

    def sample(self, n: int, seed: int) -> Floats:
        """The first ``n`` arrival times in seconds."""
        return _unit_points(n, self.cv, seed) / self.rate_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstantArrivals:
    """One request every ``1 / rate_per_s`` seconds, the first at 0."""

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["constant"] = "constant"
    rate_per_s: Positive
    source: str = ""
    as_of: str = ""

    @property
    def mean_rate_per_s(self) -> float:
        """Long-run arrivals per second."""
        return self.rate_per_s

    def sample(self, n: int, seed: int) -> Floats:
        """The first ``n`` arrival times in seconds."""
        return np.arange(n) / self.rate_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class OnOffArrivals:
    """Poisson arrivals at ``on_rate_per_s`` in bursts, at ``off_rate_per_s`` between them.

    Bursts and pauses last exponential times with the stated means.
    """

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["on-off"] = "on-off"
    on_rate_per_s: Positive
    off_rate_per_s: NotNegative = 0.0
    mean_on_s: Positive
    mean_off_s: Positive
    source: str = ""
    as_of: str = ""

    @property
    def mean_rate_per_s(self) -> float:
        """Long-run arrivals per second."""
        per_cycle = self.on_rate_per_s * self.mean_on_s + self.off_rate_per_s * self.mean_off_s
        return per_cycle / (self.mean_on_s + self.mean_off_s)

    def sample(self, n: int, seed: int) -> Floats:
        """The first ``n`` arrival times in seconds."""
        points = _unit_points(n, 1.0, seed)
        per_cycle = self.mean_rate_per_s * (self.mean_on_s + self.mean_off_s)
        cycles = int(1.2 * points[-1] / per_cycle) + 16
        while True:
            rng = stream(seed, "bursts")
            lasts_s = rng.standard_exponential((cycles, 2)) * (self.mean_on_s, self.mean_off_s)
            rates = np.tile([self.on_rate_per_s, self.off_rate_per_s], cycles)
            edges_s = np.concatenate(([0.0], np.cumsum(lasts_s.ravel())))
            if np.sum(lasts_s.ravel() * rates) > points[-1]:
                return _warp(points, edges_s, rates)
            cycles *= 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SpikeArrivals:
    """A base rate that jumps by ``factor`` for ``spike_s`` at the end of every ``period_s``."""

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["spikes"] = "spikes"
    rate_per_s: Positive
    factor: Annotated[float, Field(ge=1, le=1e6)]
    period_s: Positive
    spike_s: Positive
    cv: Cv = 1.0
    source: str = ""
    as_of: str = ""

    def __post_init__(self) -> None:
        if self.spike_s >= self.period_s:
            raise SpecError(
                f"spikes: spike_s = {self.spike_s} must be shorter than period_s = {self.period_s}"
            )

    @property
    def mean_rate_per_s(self) -> float:
        """Long-run arrivals per second, spikes included."""
        return self.rate_per_s * (1 + (self.factor - 1) * self.spike_s / self.period_s)

    def sample(self, n: int, seed: int) -> Floats:
        """The first ``n`` arrival times in seconds."""
        edges_s = np.array([0.0, self.period_s - self.spike_s, self.period_s])
        rates = np.array([self.rate_per_s, self.rate_per_s * self.factor])
        return _warp(_unit_points(n, self.cv, seed), edges_s, rates)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiurnalArrivals:
    """A sine over the day: mean ``rate_per_s``, swinging by ``amplitude`` of it."""

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["diurnal"] = "diurnal"
    rate_per_s: Positive
    amplitude: Annotated[float, Field(ge=0, le=1)]
    period_s: Positive = 86_400.0
    peak_at_s: NotNegative = 43_200.0
    cv: Cv = 1.0
    source: str = ""
    as_of: str = ""

    @property
    def mean_rate_per_s(self) -> float:
        """Long-run arrivals per second."""
        return self.rate_per_s

    def sample(self, n: int, seed: int) -> Floats:
        """The first ``n`` arrival times in seconds."""
        edges_s = np.arange(1441) * (self.period_s / 1440)
        middle = (edges_s[:-1] + edges_s[1:]) / 2
        phase = 2 * np.pi * (middle - self.peak_at_s) / self.period_s
        rates = self.rate_per_s * (1 + self.amplitude * np.cos(phase))
        return _warp(_unit_points(n, self.cv, seed), edges_s, rates)


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowArrivals:
    """Measured rates of successive windows, repeated after the last; Gamma gaps inside.

    ``tick_s`` above 0 says that arrivals are only known, and come, at multiples of it.
    """

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["windows"] = "windows"
    window_s: Positive
    rates_per_s: Annotated[tuple[NotNegative, ...], Field(min_length=1)]
    cv: Cv = 1.0
    tick_s: NotNegative = 0.0
    source: str = ""
    as_of: str = ""

    def __post_init__(self) -> None:
        if not sum(self.rates_per_s) > 0:
            raise SpecError("windows: at least one of rates_per_s must be above zero")

    @property
    def mean_rate_per_s(self) -> float:
        """Long-run arrivals per second."""
        return sum(self.rates_per_s) / len(self.rates_per_s)

    def sample(self, n: int, seed: int) -> Floats:
        """The first ``n`` arrival times in seconds."""
        edges_s = self.window_s * np.arange(len(self.rates_per_s) + 1)
        times_s = _warp(_unit_points(n, self.cv, seed), edges_s, np.array(self.rates_per_s))
        if self.tick_s:
            return np.asarray(np.floor(times_s / self.tick_s) * self.tick_s)
        return times_s


@dataclass(frozen=True, slots=True, kw_only=True)
class GapQuantiles:
    """Independent gaps from a table of quantiles: for tails no Gamma has, such as idle minutes.

    Stratified: n gaps hold each 1/n of the table once in random order, so the rate and the CV of
    the gaps are the table's and only the order is random.
    """

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["gap-quantiles"] = "gap-quantiles"
    levels: Annotated[tuple[Level, ...], Field(min_length=2)]
    gaps_s: Annotated[tuple[NotNegative, ...], Field(min_length=2)]
    source: str = ""
    as_of: str = ""

    def __post_init__(self) -> None:
        check_quantiles(self.levels, self.gaps_s, what="gap")
        if not self.gaps_s[-1] > 0:
            raise SpecError("gap quantiles: the largest gap must be above zero")

    @property
    def mean_rate_per_s(self) -> float:
        """Long-run arrivals per second."""
        gaps_s = np.array(self.gaps_s)
        return float(1 / np.sum(np.diff(self.levels) * (gaps_s[1:] + gaps_s[:-1]) / 2))

    def sample(self, n: int, seed: int) -> Floats:
        """The first ``n`` arrival times in seconds."""
        u = stratified_uniform(n, seed, "arrivals")
        return np.cumsum(interpolate_quantiles(self.levels, self.gaps_s, u))


@dataclass(frozen=True, slots=True, kw_only=True)
class AtOnce:
    """All requests are there at the start: offline work."""

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["at-once"] = "at-once"
    source: str = ""
    as_of: str = ""

    @property
    def mean_rate_per_s(self) -> float:
        """0: there is no rate to speak of."""
        return 0.0

    def sample(self, n: int, seed: int) -> Floats:
        """``n`` zeros."""
        return np.zeros(n)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedLoop:
    """``num_in_flight`` clients, each sending ``think_s`` after its last answer ended."""

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["closed-loop"] = "closed-loop"
    num_in_flight: Annotated[int, Field(ge=1, le=10**7)]
    think_s: NotNegative = 0.0
    source: str = ""
    as_of: str = ""

    @property
    def mean_rate_per_s(self) -> float:
        """0: the rate follows from the service."""
        return 0.0

    def sample(self, n: int, seed: int) -> Floats:
        """``n`` zeros: the executor decides."""
        return np.zeros(n)


Arrivals = Annotated[
    PoissonArrivals
    | GammaArrivals
    | ConstantArrivals
    | OnOffArrivals
    | SpikeArrivals
    | DiurnalArrivals
    | WindowArrivals
    | GapQuantiles
    | AtOnce
    | ClosedLoop,
    Field(discriminator="kind"),
]
