"""Time and bytes for attention to KV on other devices: queries go, partial results come back.

A query of one layer is heads x head width numbers; the answer as many, with a maximum and a sum a
head; all float32, since partial results joined in a narrower format are wrong. Keys and values
stay where they are, so nothing depends on their length. A layer's exchange is on the critical
path: two messages, one after the other.
Left out: overlap with the layer's other work, windows, sinks, latent attention.
Source: arXiv 2401.02669 (DistAttention).
"""

from collections.abc import Mapping

from plimsoll.cost.efficiency import CollectiveRates
from plimsoll.cost.transfer import transfer_link
from plimsoll.spec.errors import UnsupportedError
from plimsoll.spec.hardware import Device
from plimsoll.spec.model import Attention, ModelSpec

__all__ = ["exchange_s", "query_bytes"]

_FLOAT_BYTES = 4


def query_bytes(num_heads: int, head_dim: int) -> int:
    """Bytes of one query and its answer in one layer, both ways."""
    return (2 * num_heads * head_dim + 2 * num_heads) * _FLOAT_BYTES


def exchange_s(
    model: ModelSpec,
    queries: Mapping[int, int],
    *,
    source: Device,
    num_devices: int,
    targets: Mapping[int, tuple[Device, bool]],
    rates: CollectiveRates,
) -> float:
    """Seconds of a step, all layers. ``queries[creditor]`` of this step go to a creditor;
    ``targets[creditor]`` is its device and whether it is on the same node. ``num_devices`` send
    their heads each. Messages to several creditors leave at once and share the debtor's link.

    Raises:
        UnsupportedError: a layer is not plain attention.
    """
    num_bytes = 0
    for group in model.layers:
        mixer = group.layer.mixer
        if not isinstance(mixer, Attention) or mixer.window or mixer.chunk or mixer.sinks:
            raise UnsupportedError(
                f"{model.name} has layers other than plain attention over all tokens; attention "
                "to KV on other instances knows only those"
            )
        num_bytes += group.count * query_bytes(mixer.num_heads, mixer.head_dim)
    wire_s = latency_s = 0.0
    for creditor, num in queries.items():
        device, same_node = targets[creditor]
        out, into = transfer_link(source, device, same_node=same_node)
        fraction = rates.exchange_fraction if same_node else rates.scale_out_fraction
        rate = min(out.bytes_per_s, into.bytes_per_s) * num_devices * fraction
        wire_s += num * num_bytes / rate
        latency_s = max(latency_s, out.latency_s, into.latency_s)
    return 2 * model.num_layers * (rates.exchange_launch_s + latency_s) + wire_s
