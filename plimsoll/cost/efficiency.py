"""Coefficients of the operator model by device class, and where each came from.

A class is a device family (ampere, ada, hopper, blackwell). Families with kernel measurements
have coefficients of their own. Other families share a fit: ``synchronous`` for devices whose
matrix units stall the threads that feed them (volta, rtx-class), ``pooled`` for all the rest.
Attention and quantization differ between engines, so those are kept per engine, and experts per
kernel. A device whose own kernels were measured is ``calibrated``; all others are ``modeled``.
Fixed latencies are at a clock of 1.8 GHz and scale with the device's.
Source: library/calibration/*.yaml, written by scripts/calibrate_kernels.py.
"""

import functools
from dataclasses import dataclass, field
from importlib import resources
from typing import Annotated, ClassVar, Literal

import yaml
from pydantic import Field

from plimsoll.spec.dtype import DType
from plimsoll.spec.hardware import Device
from plimsoll.spec.io import PLAIN, from_data

__all__ = [
    "Calibration",
    "CollectiveRates",
    "DecodeRates",
    "ElementwiseRates",
    "FitError",
    "GemmRates",
    "MoeRates",
    "PrefillRates",
    "StateRates",
    "calibration_for",
    "latency_scale",
]

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
_REFERENCE_CLOCK_HZ = 1.8e9
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmRates:
    """Dense multiplies.

    ``sharpness`` is the p of the soft corner; ``rounding_fraction`` how much of a last, partly
    filled wave of tiles is paid; ``wave_s`` the fixed part of a wave. Formats below 16 bits pay
    to quantize activations: ``quantize_s`` by engine and format, plus traffic at
    ``quantize_memory_fraction`` of bandwidth.
    """

    __pydantic_config__: ClassVar = PLAIN
    launch_s: NotNegative
    memory_fraction: Positive
    sharpness: Positive
    rounding_fraction: Fraction
    wave_s: NotNegative
    quantize_memory_fraction: Positive
    compute_fraction: dict[DType, Positive]
    quantize_s: dict[str, dict[DType, NotNegative]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillRates:
    """Prompt attention: matrix work beside exponentials, blocks of queries, the longest block.

    ``exponential_s`` is of one score on one core, ``block_s`` of one block of 128 queries;
    ``overlap`` is the p that joins matrix work and exponentials; ``imbalance`` the share of the
    longest block that stands alone; ``waste_tokens`` keys of each query read in vain;
    ``kv_fraction`` the share of bandwidth at which new keys and values are written and read;
    ``short_block_s`` of a whole block that a short chunk leaves idle.
    """

    __pydantic_config__: ClassVar = PLAIN
    launch_s: NotNegative
    compute_fraction: Positive
    gain_8bit: Positive
    exponential_s: NotNegative
    block_s: NotNegative
    imbalance: NotNegative
    overlap: Positive
    waste_tokens: NotNegative
    kv_fraction: Positive
    short_block_s: NotNegative


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeRates:
    """Decode attention: traffic, arithmetic over padded heads, and work per stream.

    A stream is one KV head of one sequence. ``padding_heads`` are added to the query heads of a
    stream; heads over 32 cost ``wide_penalty`` more each; ``stream_s`` and ``head_s`` occupy
    one core; ``serial_s`` is the part of a token of 128 values that no split hides.
    """

    __pydantic_config__: ClassVar = PLAIN
    launch_s: NotNegative
    memory_fraction: Positive
    memory_fraction_8bit: Positive
    compute_fraction: Positive
    compute_fraction_8bit: Positive
    padding_heads: NotNegative
    wide_penalty: NotNegative
    sharpness: Positive
    stream_s: NotNegative
    head_s: NotNegative
    serial_s: NotNegative


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeRates:
    """Grouped multiplies over experts, by one kernel.

    Rows of a hit expert are filled up to a tile of ``tile_least_tokens`` and ``tile_growth`` more
    a choice, ``tile_most_tokens`` at most. ``wave_s`` is the fixed part of a wave of tiles,
    ``depth_s`` the serial time of one value of a multiply's depth. ``activation_fraction`` is
    the share of bandwidth that rows move at, sorting them by expert included;
    ``foreign_share`` of a row is also handled for a choice that falls on another device.
    ``asynchronous`` is how far the kernel is from warp-wide instructions (0) to the device's own
    (1). ``compute_fraction`` is by weight format, ``expanded_fraction`` that of formats expanded
    before the multiply.
    """

    __pydantic_config__: ClassVar = PLAIN
    launch_s: NotNegative
    memory_fraction: Positive
    sharpness: Positive
    tile_least_tokens: NotNegative
    tile_growth: NotNegative
    tile_most_tokens: NotNegative
    wave_s: NotNegative
    depth_s: NotNegative
    activation_fraction: Positive
    foreign_share: NotNegative
    asynchronous: Fraction
    compute_fraction: dict[DType, Positive]
    expanded_fraction: dict[DType, Positive]


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveRates:
    """Messages between devices.

    Small all-reduces read every peer's copy (one shot), larger ones reduce and gather (two
    shots), the largest leave it to the library (``large_*``). ``contention`` is the power of
    half the group by which devices on a shared bus slow each other down. ``exchange_*`` are of
    all-gather, reduce-scatter and all-to-all: beside latency and rate, messages past
    ``exchange_ramp_bytes`` pay ``exchange_ramp_s`` to fill the channels of the large-message
    protocol.
    """

    __pydantic_config__: ClassVar = PLAIN
    launch_s: NotNegative
    member_s: NotNegative
    one_shot_fraction: Positive
    two_shot_s: NotNegative
    two_shot_fraction: Positive
    large_s: NotNegative
    large_fraction: Positive
    contention: NotNegative
    exchange_launch_s: NotNegative
    exchange_member_s: NotNegative
    exchange_ramp_s: NotNegative
    exchange_ramp_bytes: Positive
    exchange_fraction: Positive
    scale_out_fraction: Positive


@dataclass(frozen=True, slots=True, kw_only=True)
class StateRates:
    """Linear attention and state space, by phase."""

    __pydantic_config__: ClassVar = PLAIN
    decode_launch_s: NotNegative
    decode_memory_fraction: Positive
    prefill_launch_s: NotNegative
    prefill_compute_fraction: Positive
    prefill_memory_fraction: Positive


@dataclass(frozen=True, slots=True, kw_only=True)
class ElementwiseRates:
    """Norms, activations, rotary embedding, cache writes."""

    __pydantic_config__: ClassVar = PLAIN
    launch_s: NotNegative
    memory_fraction: Positive


@dataclass(frozen=True, slots=True, kw_only=True)
class FitError:
    """Median absolute relative error over shapes of 20 microseconds and more.

    ``left_out`` is of devices whose data took no part in the fit; 0 rows: not measured.
    """

    __pydantic_config__: ClassVar = PLAIN
    num_rows: int
    in_sample: NotNegative
    left_out: NotNegative


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """All coefficients of one device class; ``devices`` are those whose kernels were measured.

    Experts run in kernels that engines share: ``moe`` is by kernel, and ``moe_kernel`` says which
    one an engine runs a weight format with.
    """

    __pydantic_config__: ClassVar = PLAIN
    FORMAT_VERSION: ClassVar[int] = 1
    format_version: Literal[1] = 1
    name: str
    families: tuple[str, ...]
    devices: tuple[str, ...]
    gemm: GemmRates
    prefill: dict[str, PrefillRates]
    decode: dict[str, DecodeRates]
    latent_prefill: dict[str, PrefillRates]
    latent_decode: dict[str, DecodeRates]
    moe: dict[str, MoeRates]
    moe_kernel: dict[str, dict[DType, str]]
    collective: CollectiveRates
    state: dict[str, StateRates]
    elementwise: ElementwiseRates
    errors: dict[str, FitError]
    source: str
    as_of: str

    def moe_rates(self, engine: str, weight: DType) -> MoeRates:
        """The coefficients of the kernel that ``engine`` runs experts of a format with."""
        return self.moe[self.moe_kernel[engine][weight]]

    def origin_for(self, device: Device) -> Literal["calibrated", "modeled"]:
        """``calibrated`` if this very device was measured, else ``modeled``."""
        return "calibrated" if device.name in self.devices else "modeled"


@functools.cache
def _classes() -> tuple[Calibration, ...]:
    folder = resources.files("plimsoll.library") / "calibration" / "kernels"
    found = []
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if file.name.endswith(".yaml"):
            data = yaml.load(file.read_text(encoding="utf-8"), Loader=_LOADER)  # noqa: S506
            found.append(from_data(Calibration, data, where=f"library/calibration/{file.name}"))
    return tuple(found)


@functools.cache
def _by_family(family: str) -> Calibration:
    pooled = None
    for calibration in _classes():
        if family in calibration.families:
            return calibration
        if not calibration.families:
            pooled = calibration
    assert pooled is not None, "the pooled calibration is part of the package"
    return pooled


def calibration_for(device: Device) -> Calibration:
    """The coefficients of the device's family, or of its class if the family was not measured."""
    return _by_family(device.family)


def latency_scale(device: Device) -> float:
    """Fixed latencies of this device over those at the reference clock."""
    return _REFERENCE_CLOCK_HZ / device.clock_hz if device.clock_hz else 1.0
