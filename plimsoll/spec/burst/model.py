"""A model of bursty traffic: Gamma gaps per window, joint lengths, sessions, failures.

In each window the gaps between requests follow a Gamma distribution of shape ``alpha`` and scale
``beta_s`` (CV = 1/sqrt(alpha)); both drift from window to window. Two additions that real traces
ask for: *drift*, a mean-one factor on the rate that changes in short steps inside a window
(lognormal, first-order autoregressive), and *idle*, rare pauses that no Gamma makes. Gaps are
drawn in operational time, the integral of the rate, so windows have no seams.
Lengths are drawn per kind of request (conversation, API) and tied by a rank correlation. Sessions
assign requests to earlier ones; failed requests come in runs.
Left out: dependence of lengths on the time of day.
Source: arXiv 2401.17644.
"""

import heapq
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from plimsoll.spec.errors import SpecError
from plimsoll.spec.generators.arrivals import NotNegative, Positive
from plimsoll.spec.generators.lengths import (
    Lengths,
    Level,
    check_quantiles,
    draw_lengths,
    interpolate_quantiles,
)
from plimsoll.spec.generators.streams import stream
from plimsoll.spec.io import PLAIN
from plimsoll.spec.workload import Workload

__all__ = [
    "BurstModel",
    "BurstWindow",
    "Drift",
    "Failures",
    "Idle",
    "RequestKind",
    "SessionHabit",
]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Share = Annotated[float, Field(ge=0, le=1)]

_MAX_REQUESTS = 20_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class BurstWindow:
    """Arrivals of one window: requests per second and the Gamma shape of their gaps."""

    __pydantic_config__: ClassVar = PLAIN
    rate_per_s: NotNegative
    alpha: Annotated[float, Field(gt=0, le=1e6)]

    @property
    def beta_s(self) -> float:
        """Scale of the Gamma gaps in seconds; infinite in an empty window."""
        return 1 / (self.rate_per_s * self.alpha) if self.rate_per_s else float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """A factor on the rate inside windows: CV and correlation of successive steps."""

    __pydantic_config__: ClassVar = PLAIN
    step_s: Positive = 60.0
    cv: Annotated[float, Field(ge=0, le=10)] = 0.0
    correlation: Annotated[float, Field(ge=0, lt=1)] = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """Pauses: their share of all gaps, Gamma shape, and mean in units of the mean gap."""

    __pydantic_config__: ClassVar = PLAIN
    share: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    alpha: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    mean_gaps: Annotated[float, Field(gt=0, le=1e9)] = 1.0

    def __post_init__(self) -> None:
        if self.share * self.mean_gaps >= 1:
            raise SpecError("idle: share * mean_gaps must stay below 1, or no time is left")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestKind:
    """One kind of request, such as conversation or API; "" when there is only one."""

    __pydantic_config__: ClassVar = PLAIN
    name: str = ""
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    lengths: Lengths


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionHabit:
    """Turns of a session as a table of quantiles, and lognormal gaps between turns."""

    __pydantic_config__: ClassVar = PLAIN
    turn_levels: Annotated[tuple[Level, ...], Field(min_length=2)]
    turns: Annotated[tuple[Annotated[float, Field(ge=1, le=1e6)], ...], Field(min_length=2)]
    gap_median_s: Positive
    gap_sigma: Annotated[float, Field(ge=0, le=10)]

    def __post_init__(self) -> None:
        check_quantiles(self.turn_levels, self.turns, what="turn")


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """Share of failed requests and the mean length of their runs."""

    __pydantic_config__: ClassVar = PLAIN
    share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    mean_run: Annotated[float, Field(ge=1, le=1e6)] = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BurstModel:
    """Everything needed to make traffic like the trace it was fitted to."""

    __pydantic_config__: ClassVar = PLAIN
    FORMAT_VERSION: ClassVar[int] = 1
    format_version: Literal[1] = 1
    name: str
    source: str = ""
    window_s: Positive
    windows: Annotated[tuple[BurstWindow, ...], Field(min_length=1)]
    drift: Drift = field(default_factory=Drift)
    idle: Idle = field(default_factory=Idle)
    kinds: Annotated[tuple[RequestKind, ...], Field(min_length=1)]
    sessions: SessionHabit | None = None
    failures: Failures = field(default_factory=Failures)
    gap_ks: Share = 0.0
    """Largest distance between the distribution of the gaps fitted to and of the model's."""

    def __post_init__(self) -> None:
        if not any(window.rate_per_s for window in self.windows):
            raise SpecError(f"burst model {self.name}: every window is empty")

    @property
    def duration_s(self) -> float:
        """Time the windows cover; they repeat after it."""
        return self.window_s * len(self.windows)

    @property
    def rate_per_s(self) -> float:
        """Mean requests per second."""
        return float(np.mean([window.rate_per_s for window in self.windows]))

    def sample(
        self, seed: int, *, rate_per_s: float | None = None, duration_s: float | None = None
    ) -> Workload:
        """Traffic like the fitted one, for ``duration_s`` of result time.

        ``rate_per_s`` divides all times so that this is the mean rate; without either, the
        windows are played once at their own rate.

        Raises:
            SpecError: a rate or duration that is not above zero, too many or no requests.
        """
        factor = 1.0
        if rate_per_s is not None:
            if not 0 < rate_per_s < np.inf:
                raise SpecError(f"burst model {self.name}: rate {rate_per_s}/s is not above zero")
            factor = rate_per_s / self.rate_per_s
        span_s = self.duration_s
        if duration_s is not None:
            if not 0 < duration_s < np.inf:
                raise SpecError(f"burst model {self.name}: {duration_s} s is not above zero")
            span_s = duration_s * factor
        expected = span_s * self.rate_per_s
        if expected > _MAX_REQUESTS:
            raise SpecError(
                f"burst model {self.name}: about {expected:,.0f} requests; at most "
                f"{_MAX_REQUESTS:,}"
            )
        arrival_s = self._arrivals(span_s, seed)
        if not len(arrival_s):
            raise SpecError(f"burst model {self.name}: no request arrives within {span_s:g} s")
        arrival_s /= factor
        return Workload(
            name=self.name,
            arrival_s=arrival_s,
            source=self.source,
            notes=(f"drawn from a burst model, seed {seed}",),
            **self._requests(arrival_s, seed),
        )

    def _arrivals(self, span_s: float, seed: int) -> Floats:
        count = int(np.ceil(span_s / self.window_s))
        windows = [self.windows[k % len(self.windows)] for k in range(count)]
        edges_s, rates = self._rates(windows, seed)
        total = np.concatenate(([0.0], np.cumsum(np.diff(edges_s) * rates)))
        steps = (len(edges_s) - 1) // count
        rng = stream(seed, "burst gaps")
        points: list[Floats] = []
        at = 0.0
        for k, window in enumerate(windows):
            end = float(total[(k + 1) * steps])
            while at < end:
                draw = at + np.cumsum(self._unit_gaps(rng, window.alpha, int(end - at) + 64))
                inside = int(np.searchsorted(draw, end))
                # The gap that crosses the edge still has this window's shape.
                points.append(draw[: inside + 1])
                at = float(draw[min(inside, len(draw) - 1)])
        joined = np.concatenate(points) if points else np.zeros(0)
        arrival_s = np.interp(joined[joined < total[-1]], total, edges_s)
        return np.asarray(arrival_s[arrival_s < span_s])

    def _rates(self, windows: list[BurstWindow], seed: int) -> tuple[Floats, Floats]:
        """Edges and rates of the steps inside the windows, drift applied."""
        steps = max(1, round(self.window_s / self.drift.step_s)) if self.drift.cv else 1
        count = len(windows) * steps
        edges_s = np.arange(count + 1) * (self.window_s / steps)
        rates = np.repeat([window.rate_per_s for window in windows], steps).astype(np.float64)
        if self.drift.cv:
            sigma = np.sqrt(np.log1p(self.drift.cv**2))
            noise = stream(seed, "burst drift").standard_normal(count)
            rho = self.drift.correlation
            z = np.empty(count)
            state = noise[0]
            for i in range(count):
                state = noise[i] if i == 0 else rho * state + np.sqrt(1 - rho * rho) * noise[i]
                z[i] = state
            rates *= np.exp(sigma * z - sigma * sigma / 2)
        return np.asarray(edges_s, dtype=np.float64), rates

    def _unit_gaps(self, rng: np.random.Generator, alpha: float, n: int) -> Floats:
        """Gaps of mean 1: Gamma ones, with pauses among them."""
        idle = self.idle
        mean = (1 - idle.share * idle.mean_gaps) / (1 - idle.share)
        gaps = rng.standard_gamma(alpha, n) * (mean / alpha)
        if idle.share:
            pause = rng.random(n) < idle.share
            long = rng.standard_gamma(idle.alpha, int(pause.sum()))
            gaps[pause] = long * (idle.mean_gaps / idle.alpha)
        return gaps

    def _requests(self, arrival_s: Floats, seed: int) -> dict[str, Any]:
        """Every column but the arrivals."""
        n = len(arrival_s)
        shares = np.cumsum([kind.share for kind in self.kinds])
        u = stream(seed, "kinds of requests").random(n) * shares[-1]
        kind_of = np.minimum(np.searchsorted(shares, u, side="right"), len(self.kinds) - 1)
        prompt, output = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
        for k, kind in enumerate(self.kinds):
            rows = kind_of == k
            # Each kind has lengths of its own, whatever the others have.
            own_seed = int(stream(seed, f"lengths of kind {k}").integers(2**62))
            prompt[rows], output[rows] = draw_lengths(kind.lengths, int(rows.sum()), seed=own_seed)
        columns: dict[str, Any] = {"prompt_tokens": prompt, "output_tokens": output}
        if self.kinds[0].name:
            columns["class_index"] = kind_of.astype(np.int64)
            columns["classes"] = tuple(kind.name for kind in self.kinds)
        if self.sessions is not None:
            columns["session_id"] = self._session_ids(self.sessions, arrival_s, seed)
        if self.failures.share:
            failed = self._failed(n, seed)
            columns["cancel_after_s"] = np.where(failed, 0.0, np.inf)
            columns["output_tokens"] = np.where(failed, 1, output)
        return columns

    def _session_ids(self, habit: SessionHabit, arrival_s: Floats, seed: int) -> Ints:
        """The session due first takes a request; when none is due a new one starts."""
        n = len(arrival_s)
        drawn = interpolate_quantiles(
            habit.turn_levels, habit.turns, stream(seed, "session turns").random(n)
        )
        turns = np.rint(drawn).astype(np.int64).tolist()
        z = stream(seed, "session gaps").standard_normal(n)
        gap_s = (habit.gap_median_s * np.exp(habit.gap_sigma * z)).tolist()
        due: list[tuple[float, int, int]] = []
        session = np.empty(n, dtype=np.int64)
        started = 0
        for i, now_s in enumerate(arrival_s.tolist()):
            if due and due[0][0] <= now_s:
                _, which, left = heapq.heappop(due)
            else:
                which, left = started, turns[started]
                started += 1
            session[i] = which
            if left > 1:
                heapq.heappush(due, (now_s + gap_s[i], which, left - 1))
        return session

    def _failed(self, n: int, seed: int) -> npt.NDArray[np.bool_]:
        """Runs of failures and successes of geometric length."""
        share, run = self.failures.share, self.failures.mean_run
        good_run = max(run * (1 - share) / share, 1.0)
        pairs = int(1.5 * n / (run + good_run)) + 16
        rng = stream(seed, "failures")
        while True:
            good = rng.geometric(1 / good_run, pairs)
            bad = rng.geometric(1 / run, pairs)
            lengths = np.stack([good, bad], axis=1).ravel()
            if lengths.sum() >= n:
                return np.repeat(np.tile([False, True], pairs), lengths)[:n]
            pairs *= 2
