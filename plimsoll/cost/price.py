"""What capacity costs: dollars an hour of devices, fleets and plans, dollars a million tokens.

A device's price is what its file says it rents for; there is no price without a source, and
none is guessed. Leaves out networks, storage, idle discounts and electricity billed apart.
"""

import math
from collections.abc import Mapping

from plimsoll.spec.errors import SpecError, UnsupportedError
from plimsoll.spec.hardware import Device, Fleet
from plimsoll.spec.plan import ServingPlan

__all__ = [
    "device_usd_per_hour",
    "fleet_usd_per_hour",
    "plan_usd_per_hour",
    "usd_per_million_tokens",
]


def device_usd_per_hour(device: Device) -> float:
    """Dollars one device costs an hour.

    Raises:
        UnsupportedError: its description has no price.
    """
    if device.price is None:
        raise UnsupportedError(
            f"{device.name} has no price; copy its description to a file, add "
            "`price: {usd_per_hour: ..., source: ..., as_of: ...}` and name that file as the device"
        )
    return device.price.usd_per_hour


def fleet_usd_per_hour(fleet: Fleet) -> float:
    """Dollars all devices of a fleet cost an hour, used or not."""
    return sum(part.num_devices * device_usd_per_hour(part.device) for part in fleet.parts)


def plan_usd_per_hour(plan: ServingPlan, devices: Mapping[str, Device]) -> float:
    """Dollars the devices a plan uses cost an hour; ``devices`` maps the names in its pools."""
    total = 0.0
    for pool in plan.pools:
        device = devices.get(pool.device)
        if device is None:
            raise SpecError(
                f"plan names device {pool.device!r}; expected one of {', '.join(devices)}"
            )
        total += pool.num_devices * device_usd_per_hour(device)
    return total


def usd_per_million_tokens(usd_per_hour: float, tokens_per_s: float) -> float:
    """Dollars a million tokens at a steady rate; which tokens count is the caller's choice.

    Raises:
        SpecError: a rate that is not above zero, or a negative price.
    """
    if not (math.isfinite(tokens_per_s) and tokens_per_s > 0):
        raise SpecError(f"tokens_per_s is {tokens_per_s}; expected a finite rate above zero")
    if not (math.isfinite(usd_per_hour) and usd_per_hour >= 0):
        raise SpecError(f"usd_per_hour is {usd_per_hour}; expected a finite price, zero or more")
    return usd_per_hour / 3600.0 / tokens_per_s * 1e6
