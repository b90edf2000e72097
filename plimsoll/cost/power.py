"""Watts and joules of devices, from how busy a step keeps their arithmetic and their memory.

    P = idle + u_memory (memory_bound - idle) + u_compute (peak - idle)

and at most the larger of ``peak`` and ``memory_bound``, the limit a device holds itself to.

Lowering the core clock to a fraction f of its maximum scales dynamic core power by f^k,
arithmetic speed by f, and leaves memory bandwidth as it is. With voltage proportional to
frequency C V^2 f gives k = 3, which is the default; at the voltage floor k is 1, so that
savings at very low clocks are overstated. A memory-bound device spends part of its dynamic
power in the core; that part follows the clock too, half of it where nothing else is known:
clock locking was measured to save up to 32 % of decode energy on H200 (arXiv 2605.11999) and
42 % on RTX PRO 6000 at 1-6 % latency (arXiv 2501.08219). Leaves out that fixed latencies of
kernels grow at low clocks, leakage that grows with temperature, host and network power, and the
time a clock change takes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from plimsoll.cost.step_demand import StepDemand
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import SpecError
from plimsoll.spec.hardware import Device, PowerEnvelope
from plimsoll.spec.origin import Origin
from plimsoll.spec.record import StepColumns

__all__ = [
    "CORE_POWER_EXPONENT",
    "MEMORY_CORE_FRACTION",
    "InstancePower",
    "RunPower",
    "at_clock",
    "memory_bound_w",
    "power_w",
    "run_power",
]

Floats = npt.NDArray[np.float64]

CORE_POWER_EXPONENT = 3.0
"""k of f^k: C V^2 f with voltage proportional to frequency."""

MEMORY_CORE_FRACTION = 0.5
"""Share of memory-bound dynamic power that is spent in the core and follows its clock."""

_MEMORY_BOUND_FRACTION = 0.7


def memory_bound_w(power: PowerEnvelope) -> float:
    """Watts while reading memory at full rate; 70 % of the way to peak where not measured."""
    if power.memory_bound_w:
        return power.memory_bound_w
    return power.idle_w + _MEMORY_BOUND_FRACTION * (power.peak_w - power.idle_w)


def power_w(
    power: PowerEnvelope, compute_fraction: npt.ArrayLike, memory_fraction: npt.ArrayLike
) -> Floats:
    """Watts of one device at these utilizations, each in [0, 1]; arrays broadcast."""
    compute = np.clip(np.asarray(compute_fraction, dtype=np.float64), 0.0, 1.0)
    memory = np.clip(np.asarray(memory_fraction, dtype=np.float64), 0.0, 1.0)
    dynamic = memory * (memory_bound_w(power) - power.idle_w)
    dynamic = dynamic + compute * (power.peak_w - power.idle_w)
    limit_w = max(power.peak_w, memory_bound_w(power))  # at low clocks memory draws the most
    watts: Floats = np.minimum(power.idle_w + dynamic, limit_w)
    return watts


def at_clock(
    device: Device,
    clock_fraction: float,
    *,
    exponent: float = CORE_POWER_EXPONENT,
    memory_core_fraction: float = MEMORY_CORE_FRACTION,
) -> Device:
    """``device`` with its core clock locked at a fraction of its maximum.

    What is computed from the result, times and watts alike, is for that clock; latencies that
    do not depend on size stay those of the full clock.

    Raises:
        SpecError: a fraction that is not above 0 and at most 1, or an exponent below 1.
    """
    if not (math.isfinite(clock_fraction) and 0 < clock_fraction <= 1):
        raise SpecError(f"clock_fraction is {clock_fraction}; expected above 0, at most 1")
    if not exponent >= 1 or not 0 <= memory_core_fraction <= 1:
        raise SpecError(
            f"exponent is {exponent} and memory_core_fraction {memory_core_fraction}; expected 1 "
            "or more, and between 0 and 1"
        )
    if clock_fraction == 1:
        return device
    scale = clock_fraction**exponent
    idle_w, power = device.power.idle_w, device.power
    memory_w = memory_bound_w(power) - idle_w
    kept = 1 - memory_core_fraction + memory_core_fraction * scale
    peaks: dict[DType, float] = {
        dtype: peak * clock_fraction for dtype, peak in device.peak_flops_per_s.items()
    }
    peak_w = idle_w + scale * (power.peak_w - idle_w)
    return replace(
        device,
        peak_flops_per_s=peaks,
        power=PowerEnvelope(
            idle_w=idle_w,
            peak_w=peak_w,
            memory_bound_w=idle_w + kept * memory_w,
        ),
        notes=f"core clock at {clock_fraction:.4g} of its maximum. {device.notes}".strip(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class InstancePower:
    """One instance of a run: its devices' envelope, how many, and what its steps ask."""

    power: PowerEnvelope
    num_devices: int
    demand: StepDemand


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunPower:
    """Power and energy of a whole run, all devices of its instances, idle time included.

    ``row_w`` is the mean power of a row's instance while the row runs; ``watts[i]`` the mean
    of all instances between ``edges_s[i]`` and ``edges_s[i + 1]``.
    """

    row_w: Floats
    idle_j: float
    dynamic_j: float
    edges_s: Floats
    watts: Floats
    output_tokens: int
    origin: Origin = Origin.MODELED

    @property
    def total_j(self) -> float:
        """Joules from the start of the run to its end."""
        return self.idle_j + self.dynamic_j

    @property
    def mean_w(self) -> float:
        """Mean power of the run."""
        return self.total_j / float(self.edges_s[-1] - self.edges_s[0])

    @property
    def j_per_output_token(self) -> float:
        """All joules of the run over the tokens it delivered; NaN if it delivered none."""
        return self.total_j / self.output_tokens if self.output_tokens else math.nan


def _binned(start_s: Floats, end_s: Floats, watts: Floats, edges_s: Floats) -> Floats:
    """Mean of a sum of boxes of power between edges: exact, through cumulative energy."""
    times = np.concatenate([start_s, end_s])
    jumps = np.concatenate([watts, -watts])
    order = np.argsort(times, kind="stable")
    times, level = times[order], np.cumsum(jumps[order])
    energy = np.concatenate([[0.0], np.cumsum(level[:-1] * np.diff(times))])
    at_edges = np.interp(edges_s, times, energy)
    means: Floats = np.diff(at_edges) / np.diff(edges_s)
    return means


def run_power(
    steps: StepColumns,
    instances: Sequence[InstancePower],
    *,
    end_s: float,
    output_tokens: int,
    num_bins: int = 200,
    up_spans: Sequence[Sequence[float]] | None = None,
) -> RunPower:
    """Power over time and energy of the recorded ``steps``, after the fact.

    ``instances[i]`` describes the instance numbered i in ``steps``; instances without steps
    idle. ``end_s`` is when the run ends, ``output_tokens`` what it delivered. ``up_spans`` are the
    times (instance, from, to) in which an instance draws power at all; None: always.
    """
    if not (math.isfinite(end_s) and end_s > 0) or num_bins < 1:
        raise SpecError(f"end_s is {end_s} and num_bins {num_bins}; expected both above zero")
    if len(steps) and int(steps.instance.max()) >= len(instances):
        raise SpecError(
            f"steps name instance {int(steps.instance.max())}, but only {len(instances)} "
            "instance(s) are described"
        )
    running_s = np.maximum(steps.duration_s - steps.stall_s, 1e-12)
    row_w = np.zeros(len(steps))
    above_idle_w = np.zeros(len(steps))
    busy: dict[int, tuple[Floats, Floats]] = {}  # instances of a pool share one demand
    for index, instance in enumerate(instances):
        rows = steps.instance == index
        if not rows.any():
            continue
        key = id(instance.demand)
        if key not in busy:
            busy[key] = instance.demand.busy_s(steps)
        compute_s, memory_s = busy[key]
        span_s = running_s[rows] * instance.num_devices
        one = power_w(instance.power, compute_s[rows] / span_s, memory_s[rows] / span_s)
        row_w[rows] = one * instance.num_devices
        above_idle_w[rows] = (one - instance.power.idle_w) * instance.num_devices
    each_w = np.array([i.power.idle_w * i.num_devices for i in instances])
    edges_s = np.linspace(0.0, end_s, num_bins + 1)
    if up_spans is None:
        idle_j = float(each_w.sum() * end_s)
        watts = np.full(num_bins, float(each_w.sum()))
    else:
        which, begin, stop = np.array(up_spans).reshape(-1, 3).T
        span_w = each_w[which.astype(int)]
        idle_j = float(np.dot(span_w, stop - begin))
        watts = _binned(begin, stop, span_w, edges_s)
    if len(steps):
        begin_s = steps.start_s + steps.stall_s
        watts = watts + _binned(begin_s, begin_s + running_s, above_idle_w, edges_s)
    return RunPower(
        row_w=row_w,
        idle_j=idle_j,
        dynamic_j=float(np.sum(above_idle_w * running_s)),
        edges_s=edges_s,
        watts=watts,
        output_tokens=output_tokens,
    )
