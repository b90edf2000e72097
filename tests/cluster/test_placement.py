"""Placement of blocks: neighbors together, loads even, memory respected."""

import pytest

from plimsoll.cluster.placement import BlockDemand, Site, follow_counts, locality_place
from plimsoll.spec.errors import InfeasibleError

CHAINS = {"a": ("low", "high"), "b": ("low", "own")}
FOLLOWS = follow_counts(CHAINS, {"a": 0.75, "b": 0.25})


def sites(num: int = 4, memory_bytes: float = 100.0) -> list[Site]:
    return [Site(server=i // 2, memory_bytes=memory_bytes) for i in range(num)]


def block(name: str, load: float, weight_bytes: float = 10.0) -> BlockDemand:
    return BlockDemand(name=name, weight_bytes=weight_bytes, load=load)


def test_counts_follow_the_requests_and_return_to_the_first_block() -> None:
    assert FOLLOWS == {
        ("low", "high"): 0.75,
        ("high", "low"): 0.75,
        ("low", "own"): 0.25,
        ("own", "low"): 0.25,
    }


def test_neighbors_share_a_device_where_loads_allow() -> None:
    blocks = [block("low", 2.0), block("high", 1.5), block("own", 0.5)]
    placed = locality_place(blocks, FOLLOWS, sites(), copies=2.0)
    assert sum("low" in held for held in placed) == 4
    assert all("low" in held for held in placed if held & {"high", "own"})
    assert sum("high" in held for held in placed) == 3


def test_one_server_is_the_next_best_place() -> None:
    placed = locality_place([block("low", 1.0, 60.0), block("high", 0.9, 60.0)], FOLLOWS, sites())
    where = {name: i for i, held in enumerate(placed) for name in held}
    assert where["low"] != where["high"] and where["low"] // 2 == where["high"] // 2


def test_without_counts_loads_alone_decide() -> None:
    blocks = [block(f"{i}", 1.0) for i in range(8)]
    placed = locality_place(blocks, {}, sites())
    assert [len(held) for held in placed] == [2, 2, 2, 2]


def test_memory_goes_to_one_of_each_before_replicas() -> None:
    blocks = [block("low", 4.0, 50.0), block("high", 1.0, 50.0), block("own", 0.1, 50.0)]
    placed = locality_place(blocks, FOLLOWS, sites(2))
    assert set().union(*placed) == {"low", "high", "own"}
    with pytest.raises(InfeasibleError, match="block low of 0.0 GB fits on none of 2 devices"):
        locality_place([block("low", 1.0, 500.0)], {}, sites(2))
