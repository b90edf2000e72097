"""What "best" means: one score, larger is better, from a plan's capacity and the load on it.

goodput    requests/s within the SLO per device of the plan
cost       output tokens per dollar; at the load the plan must carry, else at its capacity
energy     output tokens per joule, likewise; devices draw idle power plus their busy share
latency    minus the mean time from arrival to last token, at the load, else unloaded
size       requests/s of the load per device: the fewest devices first, then the most headroom
Only device power and device price are counted: hosts, cooling and network are left out.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from plimsoll.spec.errors import UnsupportedError
from plimsoll.spec.hardware import Device

__all__ = ["Objective", "Scale", "busy_w", "scale_of", "score"]

Floats = npt.NDArray[np.float64]
Objective = Literal["goodput", "cost", "energy", "latency", "size"]
_BUSY_SHARE = 0.7
_TIE = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """What a plan takes: devices, watts idle and busy, dollars an hour; numbers or arrays."""

    num_devices: Floats
    idle_w: Floats
    busy_w: Floats
    usd_per_hour: Floats

    def times(self, count: Floats) -> "Scale":
        """That many of it."""
        return Scale(
            num_devices=self.num_devices * count,
            idle_w=self.idle_w * count,
            busy_w=self.busy_w * count,
            usd_per_hour=self.usd_per_hour * count,
        )

    def plus(self, other: "Scale") -> "Scale":
        """Both together."""
        return Scale(
            num_devices=self.num_devices + other.num_devices,
            idle_w=self.idle_w + other.idle_w,
            busy_w=self.busy_w + other.busy_w,
            usd_per_hour=self.usd_per_hour + other.usd_per_hour,
        )


def busy_w(device: Device) -> float:
    """Watts of a device that serves at capacity: mostly bound by memory."""
    power = device.power
    return power.memory_bound_w or power.idle_w + _BUSY_SHARE * (power.peak_w - power.idle_w)


def scale_of(device: Device, count: float, objective: Objective) -> Scale:
    """The scale of ``count`` devices.

    Raises:
        UnsupportedError: the objective is cost and no price is known.
    """
    if device.price is None and objective == "cost":
        raise UnsupportedError(
            f"the objective is cost, but no price is known for {device.name}; "
            "add a price to the device file"
        )
    dollars = device.price.usd_per_hour if device.price is not None else 0.0
    one = Scale(
        num_devices=np.asarray(1.0),
        idle_w=np.asarray(device.power.idle_w),
        busy_w=np.asarray(busy_w(device)),
        usd_per_hour=np.asarray(dollars),
    )
    return one.times(np.asarray(count))


def score(
    objective: Objective,
    scale: Scale,
    *,
    capacity_per_s: Floats,
    load_per_s: float,
    output_tokens: float,
    e2e_s: Floats | None = None,
) -> Floats:
    """Scores of plans of one scale that sustain ``capacity_per_s``; -inf where none is.

    ``load_per_s`` 0: no load is given. ``e2e_s`` is needed for latency only.
    """
    served = np.minimum(capacity_per_s, load_per_s) if load_per_s else capacity_per_s
    if objective == "goodput":
        value = capacity_per_s / scale.num_devices
    elif objective == "cost":
        value = served * output_tokens * 3600 / np.maximum(scale.usd_per_hour, 1e-12)
    elif objective == "energy":
        share = served / np.maximum(capacity_per_s, 1e-12)
        value = served * output_tokens / (scale.idle_w + share * (scale.busy_w - scale.idle_w))
    elif objective == "size":
        headroom = capacity_per_s / np.maximum(served, 1e-12)
        value = (served + _TIE * np.minimum(headroom, 1 / _TIE) * served) / scale.num_devices
    else:
        value = -np.asarray(e2e_s)
    return np.asarray(np.where(capacity_per_s > 0, value, -np.inf))
