"""Where the replicas of a plan sit in the fleet, so that links between them are known.

Replicas take devices of their kind in order, whole replicas to a node while they fit. A replica
larger than a node spans nodes, and counts as sitting on its first.
"""

from dataclasses import dataclass

from plimsoll.spec.errors import SpecError
from plimsoll.spec.fleet import load_device
from plimsoll.spec.hardware import Device, Fleet
from plimsoll.spec.plan import Pool, ServingPlan

__all__ = ["Seat", "seats"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """One replica's place: its pool, device, the node it starts on and that node's size."""

    pool: Pool
    device: Device
    node: int
    devices_per_node: int


def seats(plan: ServingPlan, fleet: Fleet) -> tuple[Seat, ...]:
    """A seat for every replica of every pool, in the plan's order.

    Raises:
        SpecError: the plan takes more devices of a kind than the fleet has.
    """
    nodes: list[tuple[Device, int, int]] = []
    for part in fleet.parts:
        for _ in range(part.num_nodes):
            nodes.append((part.device, part.node.num_devices, part.node.num_devices))
    free = [count for _, count, _ in nodes]
    found: list[Seat] = []
    for pool in plan.pools:
        name = _device_name(pool, fleet)
        for _ in range(pool.replicas):
            start = _take(pool.parallel.num_devices, name, nodes, free)
            if start < 0:
                have = sum(part.num_devices for part in fleet.parts if part.device.name == name)
                want = sum(p.num_devices for p in plan.pools if _device_name(p, fleet) == name)
                raise SpecError(
                    f"plan: pools need {want} x {name} in replicas of "
                    f"{pool.parallel.num_devices}, the fleet {fleet.text or 'given'} has {have}; "
                    "use fewer replicas or smaller degrees"
                )
            device, _, size = nodes[start]
            found.append(Seat(pool=pool, device=device, node=start, devices_per_node=size))
    return tuple(found)


def _device_name(pool: Pool, fleet: Fleet) -> str:
    names = {part.device.name for part in fleet.parts}
    if pool.device in names:
        return pool.device
    name = load_device(pool.device).name
    if name not in names:
        raise SpecError(
            f"plan: a pool runs on {pool.device}, the fleet has {', '.join(sorted(names))}"
        )
    return name


def _take(want: int, name: str, nodes: list[tuple[Device, int, int]], free: list[int]) -> int:
    """Take ``want`` devices; the index of the first node used, -1 if there are not enough."""
    usable = [i for i, (device, _, _) in enumerate(nodes) if device.name == name and free[i]]
    for i in usable:
        if free[i] >= want:
            free[i] -= want
            return i
    whole = [i for i in usable if free[i] == nodes[i][1]]
    span: list[int] = []
    left = want
    for i in whole:
        span.append(i)
        left -= free[i]
        if left <= 0:
            break
    if left > 0:
        return -1
    left = want
    for i in span:
        used = min(left, free[i])
        free[i] -= used
        left -= used
    return span[0]
