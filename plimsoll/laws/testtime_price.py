"""What a question costs on given devices: money, seconds until its last trial ends, eFLOPs.

Arithmetic and KV traffic one after the other, both at the devices' peak: eFLOPs over FLOP/s.
Money is that time at the price of an hour, as where many questions share the devices and weights
are read once for all of them. Latency is of one question that has the devices to itself, its
trials side by side: every step of the longest reads all weights, of all experts.
A lower bound on real devices. Leaves out: prefill, waiting, communication between devices.
Source: arXiv 2506.05333 for the first; the two others are ours.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from plimsoll.cost.testtime import DecodeShape
from plimsoll.laws.testtime import Choice
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import SpecError, UnsupportedError
from plimsoll.spec.hardware import Fleet
from plimsoll.spec.units import parse_quantity

__all__ = ["Budget", "DecodePrice", "decode_price", "parse_budget"]

_BYTES = 2.0
BudgetKind = Literal["usd", "s", "eFLOPs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """So much for one question."""

    kind: BudgetKind
    amount: float


def parse_budget(text: str, where: str) -> Budget:
    """``0.01usd``, ``60s`` or ``1e15eFLOPs``.

    Raises:
        SpecError: none of these, or not above 0.
    """
    given = text.strip()
    number = given
    kind: BudgetKind = "s"
    for unit in ("usd", "eFLOPs"):
        if given.lower().endswith(unit.lower()):
            kind, number = unit, given[: -len(unit)].strip()  # type: ignore[assignment]
    try:
        amount = parse_quantity(given, "time", where=where) if kind == "s" else float(number)
    except (SpecError, ValueError):
        amount = 0.0
    if not 0 < amount < float("inf"):
        raise SpecError(
            f"{where}: {text!r} is no budget for a question; write for example 0.01usd, 60s or "
            "1e15eFLOPs, above 0"
        )
    return Budget(kind=kind, amount=amount)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodePrice:
    """``devices`` taken together: rates and memory are their sums, ``usd_per_s`` None where no
    price is known. ``shapes`` by model."""

    on: str
    devices: int
    flops_per_s: float
    bytes_per_s: float
    memory_bytes: float
    usd_per_s: float | None
    shapes: Mapping[str, DecodeShape]

    @property
    def intensity(self) -> float:
        """Dense FLOPs in the time of a byte."""
        return self.flops_per_s / self.bytes_per_s

    def eflops(self, one: Choice) -> float:
        """Equivalent FLOPs of a question."""
        return one.eflops(self.intensity)

    def busy_s(self, one: Choice) -> float:
        """Time of all the devices for a question among many."""
        return self.eflops(one) / self.flops_per_s

    def usd(self, one: Choice) -> float:
        """Money for a question among many.

        Raises:
            UnsupportedError: no price is known.
        """
        if self.usd_per_s is None:
            raise UnsupportedError(
                f"{self.on}: the library lists no price; give the budget in s or eFLOPs, or a data "
                "sheet with a price"
            )
        return self.busy_s(one) * self.usd_per_s

    def latency_s(self, one: Choice) -> float:
        """Time until the last trial of a question ends that has the devices to itself."""
        weights = _BYTES * self.shapes[one.model].total_params
        return self.busy_s(one) + one.last_tokens * weights / self.bytes_per_s

    def cost(self, one: Choice, kind: BudgetKind) -> float:
        """What a budget of that kind is spent on."""
        by_kind = {"usd": self.usd, "s": self.latency_s, "eFLOPs": self.eflops}
        return by_kind[kind](one)

    def fitting(
        self, found: Iterable[Choice], prompt_tokens: float
    ) -> tuple[list[Choice], list[str]]:
        """Choices whose weights and caches, of all trials at once, are within memory; and a
        sentence for each model that loses some. A KV budget keeps the whole cache."""
        kept, lost, models = [], dict[str, int](), dict[str, int]()
        for one in found:
            shape = self.shapes[one.model]
            tokens = prompt_tokens + one.trials * one.limit
            need = _BYTES * shape.total_params + shape.kv_bytes_per_token * tokens
            models[one.model] = models.get(one.model, 0) + 1
            if need <= self.memory_bytes:
                kept.append(one)
            else:
                lost[one.model] = lost.get(one.model, 0) + 1
        notes = [
            f"{model}: left out, its weights and one cache do not fit {self.on}"
            if count == models[model]
            else f"{model}: {count} of {models[model]} choices left out, their caches do not fit "
            f"{self.on} beside the weights"
            for model, count in lost.items()
        ]
        return kept, notes


def decode_price(fleet: Fleet, shapes: Mapping[str, DecodeShape]) -> DecodePrice:
    """Prices on a fleet of one kind of device, in 16 bits.

    Raises:
        UnsupportedError: several kinds of devices, or no 16-bit peak.
    """
    device = fleet.parts[0].device
    if any(part.device != device for part in fleet.parts):
        raise UnsupportedError(
            f"{fleet.text}: several kinds of devices; one question runs on one kind, so name one"
        )
    count = fleet.num_devices
    return DecodePrice(
        on=fleet.text,
        devices=count,
        flops_per_s=count * device.flops_per_s(DType.BF16),
        bytes_per_s=count * device.memory_bytes_per_s,
        memory_bytes=count * device.memory_bytes,
        usd_per_s=None if device.price is None else count * device.price.usd_per_hour / 3600,
        shapes=shapes,
    )
