"""Coefficients of the operator model by device class, and where each came from.

A class is a device family (ampere, ada, hopper, blackwell). Families with kernel measurements
have their own fitted coefficients; every other device takes the pooled ones, which were fitted on
all families at once, and answers that use them say ``modeled``. A device whose own kernels were
measured says ``calibrated``.
Source: library/calibration/*.yaml, written by scripts/calibrate_kernels.py.
"""

import functools
from dataclasses import dataclass
from importlib import resources
from typing import Annotated, ClassVar, Literal

import yaml
from pydantic import Field

from plimsoll.spec.dtype import DType
from plimsoll.spec.hardware import Device
from plimsoll.spec.io import PLAIN, from_data

__all__ = [
    "AttentionRates",
    "Calibration",
    "CollectiveRates",
    "ElementwiseRates",
    "GemmRates",
    "MoeRates",
    "StateRates",
    "calibration_for",
]

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmRates:
    """Dense multiplies: reachable share of peak by format, share of bandwidth, fixed latency."""

    __pydantic_config__: ClassVar = PLAIN
    launch_s: NotNegative
    compute_fraction: dict[DType, Positive]
    memory_fraction: Positive
    sharpness: Positive


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionRates:
    """Attention: shares of peak and bandwidth, and latency of a launch, by phase."""

    __pydantic_config__: ClassVar = PLAIN
    prefill_launch_s: NotNegative
    prefill_compute_fraction: Positive
    prefill_memory_fraction: Positive
    decode_launch_s: NotNegative
    decode_compute_fraction: Positive
    decode_memory_fraction: Positive
    sharpness: Positive


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeRates:
    """Grouped multiplies over experts."""

    __pydantic_config__: ClassVar = PLAIN
    launch_s: NotNegative
    compute_fraction: Positive
    memory_fraction: Positive
    sharpness: Positive


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveRates:
    """Messages between devices: share of the link's rate, latency of a call and of a hop."""

    __pydantic_config__: ClassVar = PLAIN
    launch_s: NotNegative
    hop_s: NotNegative
    link_fraction: Positive
    scale_out_fraction: Positive


@dataclass(frozen=True, slots=True, kw_only=True)
class StateRates:
    """Linear attention and state space: shares of peak and bandwidth, latency of a layer."""

    __pydantic_config__: ClassVar = PLAIN
    launch_s: NotNegative
    compute_fraction: Positive
    memory_fraction: Positive


@dataclass(frozen=True, slots=True, kw_only=True)
class ElementwiseRates:
    """Norms, activations, rotary embedding, cache writes."""

    __pydantic_config__: ClassVar = PLAIN
    launch_s: NotNegative
    memory_fraction: Positive


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """All coefficients of one device class; ``devices`` are those whose kernels were measured."""

    __pydantic_config__: ClassVar = PLAIN
    FORMAT_VERSION: ClassVar[int] = 1
    format_version: Literal[1] = 1
    family: str
    devices: tuple[str, ...]
    gemm: GemmRates
    attention: AttentionRates
    moe: MoeRates
    collective: CollectiveRates
    state: StateRates
    elementwise: ElementwiseRates
    source: str
    as_of: str

    def origin_for(self, device: Device) -> Literal["calibrated", "modeled"]:
        """``calibrated`` if this very device was measured, else ``modeled``."""
        names = {device.name.lower(), *(alias.lower() for alias in device.aliases)}
        return "calibrated" if names & set(self.devices) else "modeled"


@functools.cache
def _load(family: str) -> Calibration | None:
    file = resources.files("plimsoll.library") / "calibration" / f"{family}.yaml"
    if not file.is_file():
        return None
    data = yaml.safe_load(file.read_text(encoding="utf-8"))
    return from_data(Calibration, data, where=f"library/calibration/{family}.yaml")


def calibration_for(device: Device) -> Calibration:
    """The coefficients of the device's family, or the pooled ones if none was measured."""
    found = _load(device.family) or _load("pooled")
    assert found is not None, "the pooled calibration file is part of the package"
    return found
