"""Copies in pieces: a launch each, hidden behind the wire where pieces are large."""

import pytest

from plimsoll.cost.transfer import pcie_copy_s

KIB = 2**10


def copy_s(num_pieces: int, launch_s: float = 10e-6) -> float:
    return pcie_copy_s(2048 * 32 * KIB, num_pieces=num_pieces, launch_s=launch_s, bytes_per_s=32e9)


def test_small_pieces_are_bound_by_launches_and_large_ones_by_the_wire() -> None:
    wire_s = 2048 * 32 * KIB / 32e9
    assert copy_s(2048) == pytest.approx(2048 * 10e-6, rel=0.001)
    assert copy_s(100) == pytest.approx(wire_s + 10e-6)


def test_without_launches_pieces_do_not_matter() -> None:
    assert copy_s(2048, launch_s=0) == pytest.approx(copy_s(1, launch_s=0))


def test_more_pieces_never_copy_faster() -> None:
    times = [copy_s(n) for n in range(1, 3000)]
    assert all(a <= b * (1 + 1e-12) for a, b in zip(times[:-1], times[1:], strict=True))
    assert pcie_copy_s(0, num_pieces=0, launch_s=1.0, bytes_per_s=1.0) == 0
