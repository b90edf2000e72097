"""Ways to cut a model that does or does not fit, and the smallest change that makes it fit.

Each change is tried before it is named: smaller weights on the same devices, and the fewest
devices of the same kind, in powers of two, that hold one request. Leaves out: other devices,
shorter requests.
"""

from dataclasses import dataclass, replace

from plimsoll.cost.cut import valid_tp
from plimsoll.cost.kv import kv_bytes_per_token
from plimsoll.cost.memory import kv_capacity
from plimsoll.planning.engine_limits import stored_format
from plimsoll.planning.parallel_shapes import why_not
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import InfeasibleError
from plimsoll.spec.hardware import FleetPart, Node
from plimsoll.spec.model import ModelSpec
from plimsoll.spec.plan import Parallel
from plimsoll.spec.streams import PREFIX_TOKENS
from plimsoll.spec.units import format_bytes

__all__ = ["Asked", "cuts_of", "nothing_fits"]

_SMALLER = (DType.FP8, DType.INT4)


def cuts_of(model: ModelSpec, part: FleetPart, weight_dtype: DType | None) -> list[tuple[int, int]]:
    """TP inside a node, and PP over nodes where the widest TP may not be enough."""
    inside = [
        tp
        for tp in valid_tp(model)
        if tp <= part.node.num_devices and not why_not(model, Parallel(tp=tp), weight_dtype)
    ]
    cuts = [(tp, 1) for tp in inside]
    widest = max(inside)
    stages = 2
    while widest * stages <= part.num_devices and stages <= model.num_layers:
        cuts.append((widest, stages))
        stages *= 2
    return cuts


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What must fit: asked again with other weights or more devices for a change that works."""

    model: ModelSpec
    weight_dtype: DType | None
    kv_dtype: DType
    context_tokens: int
    memory_fraction: float

    def longest_tokens(self, part: FleetPart) -> int:
        """Tokens of the longest request that some cut holds."""
        return max(
            kv_capacity(
                self.model,
                part.device,
                Parallel(tp=tp, pp=pp),
                weight_dtype=self.weight_dtype,
                kv_dtype=self.kv_dtype,
                memory_fraction=self.memory_fraction,
            ).max_request_tokens
            for tp, pp in cuts_of(self.model, part, self.weight_dtype)
        )

    def fits(self, part: FleetPart) -> bool:
        """Whether some cut holds one request."""
        return self.longest_tokens(part) >= self.context_tokens


def _smaller_weights(asked: Asked, parts: list[FleetPart]) -> str:
    stored = asked.weight_dtype or stored_format(asked.model)
    for dtype in _SMALLER:
        if dtype.bits < stored.bits:
            smaller = replace(asked, weight_dtype=dtype)
            if any(smaller.fits(part) for part in parts):
                return f"{dtype.value} weights (--weights {dtype.value})"
    return ""


def _more_devices(asked: Asked, part: FleetPart) -> str:
    device = part.device
    for count in (2**power for power in range(1, 11)):
        if count <= part.num_devices:
            continue
        size = min(count, max(device.devices_per_node, part.node.num_devices))
        node = Node(device=device, num_devices=size)
        if asked.fits(FleetPart(node=node, num_nodes=count // size)):
            return f"{count} x {device.name} instead of {part.num_devices}"
    return ""


def nothing_fits(
    asked: Asked, on: str, parts: list[FleetPart], too_large: list[tuple[str, int, float, float]]
) -> InfeasibleError:
    """By how much the nearest cut is short, and the changes that work."""
    model, context = asked.model, asked.context_tokens
    longest, part = max(((asked.longest_tokens(part), part) for part in parts), key=_first)
    if longest:
        what = (
            f"{model.name} fits on {on}, but not with a request of {context:,} tokens: memory "
            f"left for KV holds {longest:,}"
        )
        nearest = f"{part.num_devices} x {part.device.name}: requests of {longest:,} tokens"
        shorter = f"requests of at most {longest:,} tokens (--context {longest})"
    else:
        device, tp, need, limit = min(too_large, key=lambda row: row[2] / row[3])
        part = next(part for part in parts if part.device.name == device)
        held = context + (PREFIX_TOKENS if model.streams > 1 else 0)
        missing = need + held * kv_bytes_per_token(model, asked.kv_dtype, tp) - limit
        what = (
            f"{model.name} does not fit on {on}: the nearest cut, tp {tp}, needs "
            f"{format_bytes(need)} a device before any KV, and {device} gives {format_bytes(limit)}"
        )
        nearest = f"tp {tp} on {device}, short of {format_bytes(max(missing, 0))} a device"
        shorter = ""
    changes = (shorter, _smaller_weights(asked, parts), _more_devices(asked, part))
    return InfeasibleError(
        what,
        binding="device memory",
        nearest=nearest,
        change=", or ".join(change for change in changes if change),
    )


def _first(pair: tuple[int, FleetPart]) -> int:
    return pair[0]
