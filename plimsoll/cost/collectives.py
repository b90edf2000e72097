"""Time of collective operations and point-to-point messages between devices.

All-reduce in a node: launch + hops * latency + 2(n-1)/n * bytes / link rate (ring volume; small
messages pay one exchange, as the one-shot kernels of serving engines do). Across nodes the
reduction is hierarchical: in the node, across nodes on each device's share, in the node again.
All-to-all and all-gather move (n-1)/n of the bytes of a rank. Leaves out congestion.
Source: doi:10.1016/j.jpdc.2008.09.002 (bandwidth-optimal volumes); library/calibration.
"""

from typing import NamedTuple

import numpy as np

from plimsoll.cost.efficiency import CollectiveRates
from plimsoll.cost.roofline import Floats, Work
from plimsoll.spec.errors import UnsupportedError
from plimsoll.spec.hardware import Device, Link

__all__ = ["Fabric", "all_reduce_work", "exchange_work", "fabric_of", "send_work"]


class Fabric(NamedTuple):
    """The links a group of devices talks over: ``local`` of them in a node, ``nodes`` nodes."""

    local: int
    nodes: int
    scale_up: Link | None
    scale_out: Link | None


def fabric_of(device: Device, group: int, devices_per_node: int) -> Fabric:
    """How a group of ``group`` devices lies on nodes.

    Raises:
        UnsupportedError: the group needs a link the device does not have.
    """
    local = min(group, devices_per_node)
    nodes = -(-group // devices_per_node)
    up = device.scale_up or device.host
    if nodes > 1 and device.scale_out is None:
        raise UnsupportedError(
            f"{device.name}: a group of {group} devices spans {nodes} nodes of "
            f"{devices_per_node}, and no scale_out link is listed"
        )
    return Fabric(local, nodes, up if local > 1 else None, device.scale_out if nodes > 1 else None)


def _leg(
    moved: Floats, members: int, hops: float, link: Link, fraction: float, rates: CollectiveRates
) -> tuple[Floats, float]:
    share = (members - 1) / members
    return moved * share / (link.bytes_per_s * fraction), hops * (rates.hop_s + link.latency_s)


def all_reduce_work(message_bytes: Floats, fabric: Fabric, rates: CollectiveRates) -> Work:
    """Sum of ``message_bytes`` held by every member, left with every member."""
    zero = np.zeros_like(message_bytes)
    if fabric.local * fabric.nodes == 1:
        return Work(zero, zero, zero, zero, zero, 0.0)
    link_s, fixed_s = zero, rates.launch_s
    if fabric.scale_up is not None:
        wire, hops = _leg(
            2 * message_bytes, fabric.local, 1, fabric.scale_up, rates.link_fraction, rates
        )
        link_s, fixed_s = link_s + wire, fixed_s + hops
    if fabric.scale_out is not None:
        wire, hops = _leg(
            2 * message_bytes / fabric.local,
            fabric.nodes,
            2 * (fabric.nodes - 1),
            fabric.scale_out,
            rates.scale_out_fraction,
            rates,
        )
        link_s, fixed_s = link_s + wire, fixed_s + hops
    return Work(fixed_s + link_s, zero, message_bytes, zero, link_s, fixed_s)


def exchange_work(rank_bytes: Floats, fabric: Fabric, rates: CollectiveRates) -> Work:
    """All-to-all, all-gather or reduce-scatter of ``rank_bytes`` held by a rank in all."""
    zero = np.zeros_like(rank_bytes)
    members = fabric.local * fabric.nodes
    if members == 1:
        return Work(zero, zero, zero, zero, zero, 0.0)
    link_s, fixed_s = zero, rates.launch_s
    if fabric.scale_up is not None:
        wire, hops = _leg(
            rank_bytes * fabric.local / members * 1.0,
            fabric.local,
            1,
            fabric.scale_up,
            rates.link_fraction,
            rates,
        )
        link_s, fixed_s = link_s + wire, fixed_s + hops
    if fabric.scale_out is not None:
        wire, hops = _leg(
            rank_bytes, fabric.nodes, 1, fabric.scale_out, rates.scale_out_fraction, rates
        )
        link_s, fixed_s = np.maximum(link_s, wire), fixed_s + hops
    return Work(fixed_s + link_s, zero, rank_bytes, zero, link_s, fixed_s)


def send_work(message_bytes: Floats, link: Link, rates: CollectiveRates) -> Work:
    """One message from one device to another over ``link``."""
    zero = np.zeros_like(message_bytes)
    link_s = message_bytes / (link.bytes_per_s * rates.link_fraction)
    fixed_s = rates.launch_s + link.latency_s
    return Work(fixed_s + link_s, zero, message_bytes, zero, link_s, fixed_s)
