"""What an exporter is given, what it returns, and how it refuses.

An exporter is a pure function of a plan and the few facts the plan alone does not hold: the
path the engine loads, the model's context, and for each pool the memory answer per device
and how many devices one host has. The same plan gives the same bytes. What a target cannot
express is refused by field, never dropped.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NoReturn

from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import SpecError, UnsupportedError
from plimsoll.spec.hardware import Device
from plimsoll.spec.plan import ServingPlan
from plimsoll.spec.workload import Workload

__all__ = [
    "ExportContext",
    "ExportedFile",
    "Exporter",
    "PoolFacts",
    "check_text",
    "pool_facts",
    "refuse",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolFacts:
    """What the plan does not say of one pool; bytes are per device, 0 where not known.

    ``devices_per_host`` counts the devices one operating system sees (4 for a GB200 tray,
    whatever the size of its NVLink domain). ``activation_bytes`` holds peak activations and
    captured graphs, ``runtime_bytes`` what the driver and libraries take before the model loads.
    """

    devices_per_host: int
    vendor: str = ""
    product: str = ""
    """The driver's name of the device, as ``nvidia-smi`` prints it; "" where not known."""
    device_memory_bytes: float = 0.0
    weight_bytes: float = 0.0
    activation_bytes: float = 0.0
    runtime_bytes: float = 0.0

    def kv_bytes(self, memory_fraction: float) -> float:
        """Bytes left for KV blocks when the engine takes ``memory_fraction`` in all."""
        return (
            memory_fraction * self.device_memory_bytes
            - self.weight_bytes
            - self.activation_bytes
            - self.runtime_bytes
        )


def pool_facts(
    device: Device,
    *,
    weight_bytes: float = 0.0,
    activation_bytes: float = 0.0,
    runtime_bytes: float = 0.0,
) -> PoolFacts:
    """The facts of a pool of this device; a rack-wide scale-up domain is hosts of 4 devices."""
    rack = device.devices_per_node > 16
    names = [alias for alias in device.aliases if alias.startswith(("NVIDIA ", "Tesla "))]
    return PoolFacts(
        devices_per_host=4 if rack else device.devices_per_node,
        vendor=device.vendor.lower(),
        product=names[0] if len(names) == 1 else "",
        device_memory_bytes=device.memory_bytes,
        weight_bytes=weight_bytes,
        activation_bytes=activation_bytes,
        runtime_bytes=runtime_bytes,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportContext:
    """The facts beside the plan. ``pools`` are in the order of ``plan.pools``.

    ``model`` is what the engine loads (a hub id or a path on the serving machine);
    ``checkpoint_dtype`` the format its weights are stored in; ``context_tokens`` the model's
    own context, used where the plan says 0. ``node_selector`` maps a device of the plan to the
    node label, written ``key=value``, that a Kubernetes target finds it by. ``workload`` is the
    load for ``bench``.
    """

    model: str
    context_tokens: int
    pools: tuple[PoolFacts, ...]
    checkpoint_dtype: DType | None = None
    served_name: str = ""
    node_selector: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    workload: Workload | None = None

    @property
    def name(self) -> str:
        """The model name in requests."""
        return self.served_name or self.model


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedFile:
    """One file of a deployment; ``name`` is relative to the folder it is written to."""

    name: str
    text: str
    executable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Exporter:
    """A target and the versions whose documentation and source its flags were checked with."""

    target: str
    versions: tuple[str, ...]
    export: Callable[[ServingPlan, ExportContext], tuple[ExportedFile, ...]]


def refuse(target: str, where: str, found: object, why: str, instead: str) -> NoReturn:
    """Say which field of the plan ``target`` cannot express, why, and what to do instead.

    Raises:
        UnsupportedError: always.
    """
    raise UnsupportedError(f"export to {target}: {where} = {found}: {why}; {instead}")


def check_text(where: str, text: str) -> str:
    """``text`` unchanged, or a SpecError if it could break out of a line of a script.

    Raises:
        SpecError: it is empty or holds a control character.
    """
    if not text or any(ord(c) < 32 or ord(c) == 127 for c in text):
        raise SpecError(f"{where}: {text!r} must be one line of printable text")
    if text.startswith("-"):
        raise SpecError(f"{where}: {text!r} starts with '-' and would be read as an option")
    return text
