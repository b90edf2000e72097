"""What the machines are: devices, the nodes that hold them, and the fleet in hand.

Peaks are dense: a data sheet's "with sparsity" figure is halved before it is written down.
All rates are per device and per direction. Every value group names its source.
"""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import UnsupportedError
from plimsoll.spec.io import PLAIN
from plimsoll.spec.measured import Measured

__all__ = [
    "Device",
    "Fleet",
    "FleetPart",
    "Link",
    "MemoryTier",
    "Node",
    "PowerEnvelope",
    "Price",
    "Source",
    "ValueGroup",
]

Rate = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]
ValueGroup = Literal["memory", "compute", "links", "tiers", "power"]
"""Parts of a device that come from different places; the price names its own source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A connection of one device: bytes/s in one direction, and the latency of a message."""

    __pydantic_config__: ClassVar = PLAIN
    kind: str
    """nvlink, nvswitch, infinity-fabric, ici, hccs, ethernet, infiniband, pcie."""
    bytes_per_s: Rate
    latency_s: Annotated[float, Field(ge=0)] = 5e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryTier:
    """Memory beyond the device's own, per device: DDR, CXL, NVMe."""

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["ddr", "cxl", "nvme"]
    capacity_bytes: Rate
    bytes_per_s: Rate
    latency_s: Annotated[float, Field(ge=0)] = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerEnvelope:
    """Watts of one device: idle, reading memory at full rate, multiplying at full rate."""

    __pydantic_config__: ClassVar = PLAIN
    idle_w: Annotated[float, Field(ge=0)]
    peak_w: Rate
    memory_bound_w: Annotated[float, Field(ge=0)] = 0.0
    """0: not measured; taken as 70 % of the way from idle to peak, and marked modeled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a group of values was printed, and when it was read or published."""

    __pydantic_config__: ClassVar = PLAIN
    source: str
    as_of: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What one device costs to rent for an hour, as listed publicly on ``as_of``."""

    __pydantic_config__: ClassVar = PLAIN
    usd_per_hour: Rate
    source: str
    as_of: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One accelerator (or one CPU socket) as its data sheet gives it.

    ``peak_flops_per_s`` maps a number format to dense FLOP/s; formats not listed are not
    supported natively. ``family`` groups devices whose calibration is alike (ampere, ada,
    hopper, blackwell, cdna3, ...). ``scale_up`` joins the devices of a node (or rack),
    ``scale_out`` the nodes, ``host`` the CPU.
    """

    __pydantic_config__: ClassVar = PLAIN
    FORMAT_VERSION: ClassVar[int] = 1
    format_version: Literal[1] = 1
    name: str
    aliases: tuple[str, ...] = field(default=())
    vendor: str
    family: str
    kind: Literal["gpu", "tpu", "npu", "cpu"] = "gpu"
    memory_bytes: Rate
    """Usable bytes as the driver reports them where known, else the data sheet's."""
    memory_bytes_per_s: Rate
    peak_flops_per_s: dict[DType, Rate]
    num_cores: Count = 1
    """Streaming multiprocessors, compute units or cores: sets how work fills the device."""
    clock_hz: Annotated[float, Field(ge=0)] = 0.0
    """Boost clock of the cores, which fixed latencies follow; 0: not listed."""
    l2_bytes: Annotated[float, Field(ge=0)] = 0.0
    scale_up: Link | None = None
    devices_per_node: Count = 8
    """Devices joined by ``scale_up``; 72 for an NVL72 rack."""
    scale_out: Link | None = None
    host: Link
    tiers: tuple[MemoryTier, ...] = field(default=())
    power: PowerEnvelope
    price: Price | None = None
    source: str
    as_of: str
    sources: dict[ValueGroup, Source] = field(default_factory=dict)
    """A source per value group; a group not listed has the device's own ``source``."""
    assumptions: tuple[str, ...] = field(default=())
    """What was not known and had to be assumed, one sentence each; shown with every answer."""
    notes: str = ""
    measured: Measured | None = None
    """Times and rates of this very machine, as `plimsoll calibrate` writes them."""

    def flops_per_s(self, dtype: DType) -> float:
        """Dense peak for matrix multiplies in ``dtype``.

        Raises:
            UnsupportedError: the device lists no rate for it. Rates are never derived
                from another format's.
        """
        peak = self.peak_flops_per_s.get(dtype)
        if peak is None:
            listed = ", ".join(sorted(self.peak_flops_per_s))
            raise UnsupportedError(
                f"{self.name} lists no peak for {dtype.value}; it lists {listed}"
            )
        return peak


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """``num_devices`` equal devices joined by their scale-up link."""

    __pydantic_config__: ClassVar = PLAIN
    device: Device
    num_devices: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPart:
    """``num_nodes`` equal nodes."""

    __pydantic_config__: ClassVar = PLAIN
    node: Node
    num_nodes: Count = 1

    @property
    def device(self) -> Device:
        """The device of every node of this part."""
        return self.node.device

    @property
    def num_devices(self) -> int:
        """Devices in all nodes."""
        return self.node.num_devices * self.num_nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Everything in hand; parts may differ in device. ``text`` is how the user wrote it."""

    __pydantic_config__: ClassVar = PLAIN
    parts: tuple[FleetPart, ...]
    text: str = ""

    @property
    def num_devices(self) -> int:
        """Devices in all parts."""
        return sum(part.num_devices for part in self.parts)
