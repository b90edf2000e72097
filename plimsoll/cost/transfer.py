"""Time to hand a sequence's KV cache from one replica to another, or to the host and back.

Every device of the source sends its part at once over the link both sides share: the scale-up
link inside a node or rack, else the scale-out link, else the host link. The slower side sets the
rate. Leaves out layer-by-layer overlap with the prefill that makes the cache.
Source: arXiv 2401.09670 section 3.3 (transfer against link rate).
"""

from typing import Literal

from plimsoll.cost.efficiency import CollectiveRates
from plimsoll.spec.hardware import Device, Link

__all__ = ["kv_transfer_s", "pcie_copy_s", "swap_s", "transfer_link"]


def transfer_link(source: Device, target: Device, *, same_node: bool) -> tuple[Link, Link]:
    """The links KV leaves ``source`` and enters ``target`` by."""
    kind: Literal["scale_up", "scale_out"] = "scale_up" if same_node else "scale_out"
    out: Link | None = getattr(source, kind)
    into: Link | None = getattr(target, kind)
    if out is None or into is None:
        return source.host, target.host
    return out, into


def kv_transfer_s(
    total_bytes: float,
    *,
    source: Device,
    num_source: int,
    target: Device,
    num_target: int,
    same_node: bool,
    rates: CollectiveRates,
) -> float:
    """Seconds to move ``total_bytes`` spread over ``num_source`` devices to ``num_target``.

    ``total_bytes`` are what all devices of the target receive together, copies included.
    """
    out, into = transfer_link(source, target, same_node=same_node)
    fraction = rates.exchange_fraction if same_node else rates.scale_out_fraction
    rate = min(out.bytes_per_s * num_source, into.bytes_per_s * num_target) * fraction
    return rates.exchange_launch_s + max(out.latency_s, into.latency_s) + total_bytes / rate


def swap_s(device_bytes: float, device: Device) -> float:
    """Seconds to move ``device_bytes`` between one device and its host."""
    return device.host.latency_s + device_bytes / device.host.bytes_per_s


def pcie_copy_s(
    total_bytes: float, *, num_pieces: int, launch_s: float, bytes_per_s: float
) -> float:
    """Seconds to copy ``total_bytes`` in ``num_pieces`` equal copies, each launched on its own.

    A launch runs while the copy before it is on the wire, so each piece costs the longer of the
    two: small pieces are bound by launches. Source: arXiv 2411.18424.
    """
    if num_pieces == 0:
        return 0.0
    piece_s = total_bytes / num_pieces / bytes_per_s
    return launch_s + (num_pieces - 1) * max(launch_s, piece_s) + piece_s
