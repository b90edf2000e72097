"""Collectives and hand-overs: volumes, groups, links."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.cost.collectives import all_reduce_work, exchange_work, fabric_of, send_work
from plimsoll.cost.efficiency import calibration_for
from plimsoll.cost.transfer import kv_transfer_s, swap_s, transfer_link
from plimsoll.spec.errors import UnsupportedError
from plimsoll.spec.fleet import load_device
from tests.cost.machines import H100

RATES = calibration_for(H100).collective
IDEAL = dataclasses.replace(
    RATES,
    launch_s=0.0,
    member_s=0.0,
    two_shot_s=0.0,
    one_shot_fraction=1.0,
    two_shot_fraction=1.0,
    large_s=0.0,
    large_fraction=1.0,
    exchange_launch_s=0.0,
    exchange_member_s=0.0,
    exchange_ramp_s=0.0,
    exchange_fraction=1.0,
)


def all_reduce_s(size: float, group: int, rates: object = RATES) -> float:
    fabric = fabric_of(H100, group, 8)
    return float(all_reduce_work(np.asarray(size), fabric, rates).time_s)  # type: ignore[arg-type]


@pytest.mark.parametrize("group", [2, 4, 8])
def test_volume_is_bandwidth_optimal(group: int) -> None:
    """2 (n-1)/n of the message over each link (doi:10.1016/j.jpdc.2008.09.002)."""
    assert H100.scale_up is not None
    expected = 2 * (group - 1) / group * 1e8 / H100.scale_up.bytes_per_s
    assert all_reduce_s(1e8, group, IDEAL) == pytest.approx(expected)
    fabric = fabric_of(H100, group, 8)
    exchange = exchange_work(np.asarray(1e8), fabric, IDEAL).time_s
    assert float(exchange) == pytest.approx(expected / 2)
    both = exchange_work(np.asarray(1e8), fabric, IDEAL, passes=2.0).time_s
    assert float(both) == pytest.approx(expected)


@settings(max_examples=100, deadline=None)
@given(size=st.floats(1, 1e10), more=st.floats(1.0, 3.0), group=st.sampled_from([2, 4, 8, 16, 32]))
def test_monotone_in_bytes(size: float, more: float, group: int) -> None:
    assert all_reduce_s(size * more, group) >= all_reduce_s(size, group)
    fabric = fabric_of(H100, group, 8)
    times = exchange_work(np.array([size, size * more]), fabric, RATES).time_s
    assert times[1] >= times[0] > 0


def test_gathered_rows_enter_a_node_once_and_messages_one_by_one() -> None:
    """Two nodes of 8: half of the bytes cross, over 8 links together or over the sender's own."""
    assert H100.scale_out is not None
    ideal = dataclasses.replace(IDEAL, scale_out_fraction=1.0)
    fabric = fabric_of(H100, 16, 8)
    latency_s = H100.scale_out.latency_s
    sent, gathered = (
        float(exchange_work(np.asarray(1e10), fabric, ideal, gathers=g).time_s) - latency_s
        for g in (False, True)
    )
    assert sent == pytest.approx(1e10 / 2 / H100.scale_out.bytes_per_s)
    assert H100.scale_up is not None
    inside_s = 1e10 * 7 / 8 / H100.scale_up.bytes_per_s
    assert gathered == pytest.approx(max(sent / 8, inside_s))
    alone = fabric_of(H100, 8, 8)
    times = [exchange_work(np.asarray(1e8), alone, IDEAL, gathers=g).time_s for g in (False, True)]
    assert times[0] == times[1]


def test_one_device_talks_to_nobody() -> None:
    assert all_reduce_s(1e9, 1) == 0.0
    assert float(exchange_work(np.asarray(1e9), fabric_of(H100, 1, 8), RATES).time_s) == 0.0


def test_nodes_cost_more_than_one_node() -> None:
    assert all_reduce_s(1e8, 16) > 1.3 * all_reduce_s(1e8, 8)
    rack = load_device("GB200")
    inside = all_reduce_work(
        np.asarray(1e8), fabric_of(rack, 16, rack.devices_per_node), RATES
    ).time_s
    assert inside < all_reduce_s(1e8, 16)


def test_shared_bus_slows_with_its_members() -> None:
    pcie = load_device("L40S")
    rates = calibration_for(pcie).collective

    def time_s(group: int) -> float:
        fabric = fabric_of(pcie, group, 8)
        return float(all_reduce_work(np.asarray(1e8), fabric, rates).time_s)

    assert time_s(8) > 3 * time_s(2)


def test_missing_link_is_an_error() -> None:
    alone = dataclasses.replace(H100, scale_out=None)
    with pytest.raises(UnsupportedError, match="spans 2 nodes"):
        fabric_of(alone, 16, 8)


def test_message_time_is_latency_plus_bytes_over_rate() -> None:
    assert H100.scale_out is not None
    small, large = (
        float(send_work(np.asarray(size), H100.scale_out, IDEAL).time_s) for size in (0.0, 1e9)
    )
    assert small == pytest.approx(H100.scale_out.latency_s)
    assert large - small == pytest.approx(1e9 / H100.scale_out.bytes_per_s)


def test_hand_over_is_as_fast_as_the_slower_side() -> None:
    slow = load_device("A100-SXM-80")

    def seconds(num_source: int, num_target: int) -> float:
        return kv_transfer_s(
            1e9,
            source=H100,
            num_source=num_source,
            target=slow,
            num_target=num_target,
            same_node=False,
            rates=RATES,
        )

    assert H100.scale_out is not None and slow.scale_out is not None
    assert slow.scale_out.bytes_per_s < H100.scale_out.bytes_per_s
    assert seconds(8, 4) == seconds(4, 4) > seconds(8, 8)
    out, into = transfer_link(H100, dataclasses.replace(slow, scale_out=None), same_node=False)
    assert (out, into) == (H100.host, slow.host)


def test_swap_uses_the_host_link() -> None:
    expected = H100.host.latency_s + 1e9 / H100.host.bytes_per_s
    assert swap_s(1e9, H100) == pytest.approx(expected)
