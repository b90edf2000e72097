"""What a serving run amounted to, as plain data: what reports show and searches compare.

A value that is undefined (no request finished, no target stated, capacity not known) is None,
never 0 and never NaN. Every quantity is defined once in docs/metrics.md.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from plimsoll.spec.io import PLAIN
from plimsoll.spec.origin import Origin
from plimsoll.spec.slo import SloTarget

__all__ = [
    "ClassSummary",
    "Distribution",
    "InstanceUse",
    "Saturation",
    "StatusCounts",
    "Summary",
    "TargetVerdict",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """Nearest-rank percentiles of ``num_samples`` values: each is a value that occurred."""

    __pydantic_config__: ClassVar = PLAIN
    num_samples: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusCounts:
    """Requests that arrived in the window, by how they ended."""

    __pydantic_config__: ClassVar = PLAIN
    finished: int
    cancelled: int
    rejected: int
    failed: int
    unfinished: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.finished + self.cancelled + self.rejected + self.failed + self.unfinished


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetVerdict:
    """One target of the SLO against the run.

    ``observed_s`` is the target's percentile over ``num_requests``, of which those that never
    got a value count as infinitely late; None if the percentile falls among these or there
    is no request. ``within_fraction`` of the requests are at or below the bound.
    """

    __pydantic_config__: ClassVar = PLAIN
    target: SloTarget
    num_requests: int
    observed_s: float | None
    within_fraction: float | None
    met: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassSummary:
    """The requests of one class; ``good_fraction`` None if none arrived."""

    __pydantic_config__: ClassVar = PLAIN
    request_class: str
    num_requests: int
    good_fraction: float | None
    goodput_requests_per_s: float
    ttft_s: Distribution | None
    tpot_s: Distribution | None
    e2e_s: Distribution | None


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceUse:
    """How one instance spent the window; KV fractions are None where its blocks are not known."""

    __pydantic_config__: ClassVar = PLAIN
    instance: int
    num_steps: int
    busy_fraction: float
    mean_decodes_per_step: float | None
    kv_mean_blocks: float
    kv_peak_blocks: int
    kv_mean_fraction: float | None
    kv_peak_fraction: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Saturation:
    """Whether the queue grew over the second half of the arrivals.

    ``demand_ratio`` is arrivals over first tokens in that half: 1.3 says that demand is 1.3
    times what the plan sustains. ``saturated`` is set when the ratio exceeds 1.05 and the
    growth is more than the queue's own fluctuation.
    """

    __pydantic_config__: ClassVar = PLAIN
    demand_ratio: float
    queue_growth_per_s: float
    saturated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One run, over the window [``start_s``, ``end_s``].

    Latencies are of the requests that *arrived* in the window; rates count what *happened* in
    it. ``good_fraction`` is of all requests that arrived, however they ended; ``slo_met`` is
    None when the SLO states no target. ``instance_up_s`` is summed over instances, starts
    included; None where all were up all the time.
    """

    __pydantic_config__: ClassVar = PLAIN
    FORMAT_VERSION: ClassVar[int] = 1
    format_version: Literal[1] = 1
    origin: Origin
    start_s: float
    end_s: float
    num_devices: int
    status: StatusCounts

    ttft_s: Distribution | None
    tpot_s: Distribution | None
    itl_s: Distribution | None
    e2e_s: Distribution | None
    queue_s: Distribution | None

    requests_per_s: float
    output_tokens_per_s: float
    total_tokens_per_s: float
    output_tokens_per_s_per_device: float
    tokens_per_s_per_user: float | None

    goodput_requests_per_s: float
    goodput_requests_per_s_per_device: float
    good_fraction: float | None
    slo_met: bool | None
    targets: tuple[TargetVerdict, ...] = field(default=())
    classes: tuple[ClassSummary, ...] = field(default=())

    prefix_hit_fraction: float | None
    preemptions: int
    preempted_fraction: float | None
    mean_waiting: float
    peak_waiting: int
    instances: tuple[InstanceUse, ...] = field(default=())
    instance_up_s: float | None = None
    saturation: Saturation | None

    energy_j_per_output_token: float | None = None
    usd_per_million_output_tokens: float | None = None
