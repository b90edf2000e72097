"""Time of collective operations and point-to-point messages between devices.

All-reduce in a node: small messages are read from every peer at once ((n-1) * bytes), larger ones
reduced and gathered (2(n-1)/n * bytes, the ring volume); the faster is taken, between two devices
always the first. Past 8 MiB engines
leave their own kernels for the library's, which fills its channels first. Devices on a shared bus
slow each other down. Across nodes the reduction is hierarchical: in the node, across nodes on
each device's share, in the node again. All-gather, reduce-scatter and all-to-all move (n-1)/n of
a rank's bytes; between nodes an all-to-all sends each message over its sender's link, while rows
that a whole node needs enter it once, spread over its devices' links. Leaves out congestion
between groups.
Source: doi:10.1016/j.jpdc.2008.09.002 (bandwidth-optimal volumes); library/calibration/kernels.
"""

from typing import NamedTuple

import numpy as np

from plimsoll.cost.efficiency import CollectiveRates
from plimsoll.cost.roofline import Floats, Work
from plimsoll.spec.errors import UnsupportedError
from plimsoll.spec.hardware import Device, Link

__all__ = ["Fabric", "all_reduce_work", "exchange_work", "fabric_of", "send_work"]

_SHARED = ("pcie", "host")
_MEASURED_GROUP = 8.0
_OWN_KERNEL_BYTES = 8 * 2**20
"""Largest message that vLLM's and SGLang's all-reduce kernels take; TensorRT-LLM's is near."""


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


def _rate(link: Link, members: float | Floats, rates: CollectiveRates) -> float | Floats:
    """Bytes/s one device can count on when ``members`` use the link at once."""
    if link.kind in _SHARED:
        return link.bytes_per_s / (members / 2.0) ** rates.contention
    return link.bytes_per_s


def _local_reduce_s(
    message_bytes: Floats, members: float | Floats, link: Link, rates: CollectiveRates
) -> Floats:
    rate = _rate(link, members, rates)
    one_shot_s = message_bytes * (members - 1) / (rate * rates.one_shot_fraction)
    volume = message_bytes * 2 * (members - 1) / members
    two_shot_s = rates.two_shot_s + volume / (rate * rates.two_shot_fraction)
    own_s = np.where(members > 2, np.minimum(one_shot_s, two_shot_s), one_shot_s)
    large_s = rates.large_s + volume / (rate * rates.large_fraction)
    return np.where(message_bytes > _OWN_KERNEL_BYTES, np.maximum(own_s, large_s), own_s)


def all_reduce_work(
    message_bytes: Floats,
    fabric: Fabric,
    rates: CollectiveRates,
    *,
    members: float | Floats | None = None,
) -> Work:
    """Sum of ``message_bytes`` held by every member, left with every member.

    ``members`` overrides the devices in a node, for arrays of group sizes.
    """
    zero = np.zeros_like(message_bytes)
    local = fabric.local if members is None else members
    if fabric.scale_up is None and fabric.scale_out is None:
        return Work(zero, zero, zero, zero, zero, 0.0)
    link_s, fixed_s = zero, rates.launch_s
    if fabric.scale_up is not None:
        link_s = link_s + rates.member_s * (local - 1)
        link_s = link_s + _local_reduce_s(message_bytes, local, fabric.scale_up, rates)
    if fabric.scale_out is not None:
        share = (fabric.nodes - 1) / fabric.nodes
        rate = fabric.scale_out.bytes_per_s * rates.scale_out_fraction
        link_s = link_s + 2 * message_bytes / fabric.local * share / rate
        fixed_s += 2 * (fabric.nodes - 1) * fabric.scale_out.latency_s + rates.exchange_launch_s
    return Work(fixed_s + link_s, zero, message_bytes, zero, link_s, fixed_s)


def _turns(local: float | Floats) -> float | Floats:
    """Turns of a member with its peers: one each in a small group, then one a doubling.

    Measured up to ``_MEASURED_GROUP``; kernels for larger groups send to all peers at once.
    """
    beyond = np.maximum(local / _MEASURED_GROUP, 1.0)
    turns: float | Floats = np.minimum(local, _MEASURED_GROUP) - 1.0 + np.log2(beyond)
    return turns


def exchange_work(
    rank_bytes: Floats,
    fabric: Fabric,
    rates: CollectiveRates,
    *,
    members: float | Floats | None = None,
    passes: float = 1.0,
    gathers: bool = False,
) -> Work:
    """All-to-all of ``rank_bytes`` held by a rank; all-gather or reduce-scatter of them in all.

    ``passes`` 2 is a large-message all-reduce: reduce-scatter and all-gather in one call.
    ``gathers``: every rank needs the same bytes, so between nodes they cross once a node.
    """
    zero = np.zeros_like(rank_bytes)
    if fabric.scale_up is None and fabric.scale_out is None:
        return Work(zero, zero, zero, zero, zero, 0.0)
    local = fabric.local if members is None else members
    total = local if gathers else local * fabric.nodes
    link_s, fixed_s = zero, rates.exchange_launch_s
    if fabric.scale_up is not None:
        rate = _rate(fabric.scale_up, local, rates) * rates.exchange_fraction
        volume = rank_bytes * passes * (local - 1) / total
        ramp_s = rates.exchange_ramp_s * volume / (volume + rates.exchange_ramp_bytes)
        link_s = link_s + volume / rate + ramp_s
        link_s = link_s + rates.exchange_member_s * _turns(local)
    if fabric.scale_out is not None:
        share = (fabric.nodes - 1) / fabric.nodes
        rate_out = fabric.scale_out.bytes_per_s * rates.scale_out_fraction
        crossing = rank_bytes / local if gathers else rank_bytes
        link_s = np.maximum(link_s, passes * crossing * share / rate_out)
        fixed_s += fabric.scale_out.latency_s * (fabric.nodes - 1)
    return Work(fixed_s + link_s, zero, rank_bytes, zero, link_s, fixed_s)


def send_work(message_bytes: Floats, link: Link, rates: CollectiveRates) -> Work:
    """One message from one device to another over ``link``."""
    zero = np.zeros_like(message_bytes)
    link_s = message_bytes / (link.bytes_per_s * rates.exchange_fraction)
    fixed_s = rates.launch_s + link.latency_s
    return Work(fixed_s + link_s, zero, message_bytes, zero, link_s, fixed_s)
