"""Overlap plans: laws, brute force on small cases, what cutting costs, bad input, budgets."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.cost.overlap import simulate_overlap
from plimsoll.cost.overlap_plan import (
    check_pieces,
    hand_made_plan,
    in_turn_s,
    iteration_s,
    sequential_s,
    unroll,
)
from plimsoll.cost.overlap_profile import (
    LANES,
    PROPORTIONAL,
    Dependency,
    Lane,
    OpProfile,
    SpeedCurve,
)
from plimsoll.planning.overlap_order import order_pieces
from plimsoll.planning.overlap_pattern import in_order_of_dependence, structure
from plimsoll.planning.overlap_search import Table, search_overlap, search_rewrites
from plimsoll.planning.overlap_shares import SHARES
from plimsoll.spec.errors import SpecError
from plimsoll.spec.io import from_data, plain
from plimsoll.spec.overlap import NanoPiece, OverlapPlan

CURVES = {
    "compute": PROPORTIONAL,
    "memory": SpeedCurve(lane="memory", shares=(0, 0.2, 0.4, 1), speeds=(0, 0.3, 0.8, 1)),
    "network": SpeedCurve(lane="network", shares=(0, 0.1, 0.2, 1), speeds=(0, 0.3, 0.5, 1)),
}
FREE = {lane: SpeedCurve(lane=lane, shares=(0, 1e-6, 1), speeds=(0, 1, 1)) for lane in LANES}
LAYERS = 5


def op(name: str, lane: Lane, best_s: float, fixed_s: float = 0.0) -> OpProfile:
    return OpProfile(name=name, lane=lane, best_s=best_s, fixed_s=fixed_s)


def ring(*names: str) -> tuple[Dependency, ...]:
    """Each after the one before; the first after the last of the layer before."""
    chain = [Dependency(parent=a, child=b) for a, b in zip(names, names[1:], strict=False)]
    return (*chain, Dependency(parent=names[-1], child=names[0], next_layer=True))


THREE = (op("a", "compute", 1.0, 0.05), op("b", "memory", 0.6), op("c", "compute", 0.8, 0.02))
THREE_RING = ring("a", "b", "c")
FOUR = (*THREE, op("r", "network", 0.5, 0.03))
FOUR_RING = ring("a", "b", "c", "r")


def search(
    operators: tuple[OpProfile, ...],
    dependencies: tuple[Dependency, ...],
    *,
    batch: int = 256,
    layers: int = LAYERS,
    budget_s: float = 60,
) -> OverlapPlan:
    return search_overlap(
        operators, dependencies, CURVES, batch_tokens=batch, layers=layers, budget_s=budget_s
    )


def lane_orders(
    operators: tuple[OpProfile, ...], dependencies: tuple[Dependency, ...], rotations: range
) -> Iterator[tuple[NanoPiece, ...]]:
    """Every order of two equal halves in every lane, at full shares."""
    lane = {o.name: o.lane for o in operators}
    for rotation in rotations:
        pattern = structure(
            operators, dependencies, fine=frozenset(), num_halvings=1, rotation=rotation
        )
        pieces = [
            NanoPiece(
                operator=operators[p.op].name,
                first_token=128 * p.low,
                end_token=128 * p.high,
                ahead=p.ahead,
            )
            for p in pattern.pieces
        ]
        by_lane = [[p for p in pieces if lane[p.operator] == name] for name in LANES]
        for orders in itertools.product(*(itertools.permutations(mine) for mine in by_lane)):
            yield tuple(itertools.chain(*orders))


@st.composite
def chains(draw: st.DrawFn) -> tuple[OpProfile, ...]:
    count = draw(st.integers(1, 4))
    found = []
    for k in range(count):
        best_s = draw(st.floats(0.1, 2.0))
        fixed_s = best_s * draw(st.sampled_from([0.0, 0.05, 0.3]))
        found.append(op(f"op{k}", draw(st.sampled_from(LANES)), best_s, fixed_s))
    return tuple(found)


@settings(max_examples=12, deadline=None)
@given(operators=chains(), batch=st.sampled_from([256, 300, 640]))
def test_plans_keep_the_laws(operators: tuple[OpProfile, ...], batch: int) -> None:
    dependencies = ring(*(o.name for o in operators))
    plan = search(operators, dependencies, batch=batch)
    check_pieces(plan.pieces, operators)
    assert plan.batch_tokens == batch == max(p.end_token for p in plan.pieces)
    assert all(p.first_token % 128 == 0 for p in plan.pieces)
    assert all(p.end_token % 128 == 0 or p.end_token == batch for p in plan.pieces)
    assert plan.iteration_s <= plan.sequential_s * (1 + 1e-12)
    assert plan.sequential_s == pytest.approx(LAYERS * sum(o.best_s for o in operators))
    bound_s = sum(o.best_s * CURVES[o.lane].cheapest() for o in operators)
    assert plan.iteration_s >= LAYERS * bound_s * (1 - 1e-9)
    for lane in LANES:
        busy_s = sum(o.best_s for o in operators if o.lane == lane)
        assert plan.iteration_s >= LAYERS * busy_s * (1 - 1e-9)
    again = iteration_s(plan.pieces, operators, dependencies, CURVES, layers=LAYERS)
    assert again == pytest.approx(plan.iteration_s)


@pytest.mark.parametrize(("operators", "dependencies"), [(THREE, THREE_RING), (FOUR, FOUR_RING)])
def test_near_the_best_of_all_orders_and_shares(
    operators: tuple[OpProfile, ...], dependencies: tuple[Dependency, ...]
) -> None:
    """Every order of two halves with every pair of shares, against the search."""
    lane = {o.name: o.lane for o in operators}
    best_s = float("inf")
    for pieces in lane_orders(operators, dependencies, range(1)):
        for memory, network in itertools.product(SHARES[1:6:2], SHARES[:3]):
            share = {"compute": 1.0, "memory": memory, "network": network}
            tried = [replace(p, share=share[lane[p.operator]]) for p in pieces]
            try:
                time_s = iteration_s(tried, operators, dependencies, CURVES, layers=LAYERS)
            except SpecError:  # an order that never starts
                continue
            best_s = min(best_s, time_s)
    plan = search(operators, dependencies)
    assert plan.iteration_s <= best_s * 1.001
    assert plan.iteration_s < plan.sequential_s * 0.95


@pytest.mark.parametrize("rotation", [0, 1, 2])
def test_stage_one_is_the_best_order_without_interference(rotation: int) -> None:
    """Against the pace of every order, simulated with lanes that do not slow each other."""
    layers, best_s = 24, float("inf")
    for pieces in lane_orders(THREE, THREE_RING, range(rotation, rotation + 1)):
        beside = [replace(p, share=0.1) if p.operator == "b" else p for p in pieces]
        unrolled = unroll(beside, THREE, THREE_RING, layers=layers)
        try:
            run = simulate_overlap(unrolled.operations, FREE)
        except SpecError:
            continue
        ends = [
            max(e for e, k in zip(run.end_s, unrolled.layer, strict=True) if k == layer)
            for layer in range(layers)
        ]
        best_s = min(best_s, (ends[20] - ends[8]) / 12)
    pattern = structure(THREE, THREE_RING, fine=frozenset(), num_halvings=1, rotation=rotation)
    order = order_pieces(
        pattern,
        THREE,
        batch_tokens=256,
        grain_tokens=128,
        stretch={},
        max_nodes=1000,
        limit_s=20,
    )
    assert order is not None and order.proven
    assert order.cuts == (0, 128, 256)
    assert order.window_s == pytest.approx(best_s, rel=3e-3)


def test_pieces_wait_only_where_ranges_meet() -> None:
    pieces = [
        NanoPiece(operator="a", first_token=0, end_token=128),
        NanoPiece(operator="a", first_token=128, end_token=256),
        NanoPiece(operator="b", first_token=0, end_token=128),
        NanoPiece(operator="b", first_token=128, end_token=256),
        NanoPiece(operator="c", first_token=0, end_token=256),
    ]
    unrolled = unroll(pieces, THREE, THREE_RING, layers=2)
    after = [set(o.after) for o in unrolled.operations]
    assert after[:5] == [set(), set(), {0}, {1}, {2, 3}]
    assert after[5:] == [{4}, {4}, {5}, {6}, {7, 8}]


def test_ahead_pieces_work_for_the_next_layer() -> None:
    """One window before the first holds what is ahead; every layer has every piece once."""
    pieces = [
        NanoPiece(operator="b", first_token=0, end_token=256),
        NanoPiece(operator="c", first_token=0, end_token=256),
        NanoPiece(operator="a", first_token=0, end_token=256, ahead=1),
    ]
    unrolled = unroll(pieces, THREE, THREE_RING, layers=3)
    seen = list(zip(unrolled.layer, unrolled.piece, strict=True))
    assert sorted(seen) == [(layer, piece) for layer in range(3) for piece in range(3)]
    assert seen[0] == (0, 2)
    time_s = simulate_overlap(unrolled.operations, CURVES).makespan_s
    assert time_s == pytest.approx(sequential_s(THREE, layers=3))


def test_cutting_has_a_price_only_if_it_is_given_one() -> None:
    plan = search(FOUR, FOUR_RING)
    assert len(plan.pieces) >= 8
    priced_s = in_turn_s(plan.pieces, FOUR, layers=LAYERS)
    cuts = sum(p.operator == "a" for p in plan.pieces) - 1
    assert priced_s >= plan.sequential_s + LAYERS * cuts * 0.05
    forgotten = tuple(replace(o, fixed_s=0.0) for o in FOUR)
    assert in_turn_s(plan.pieces, forgotten, layers=LAYERS) == pytest.approx(plan.sequential_s)


def test_a_cut_that_costs_more_than_it_gains_is_not_made() -> None:
    dear = (op("a", "compute", 1.0, 0.9), op("b", "memory", 0.2, 0.15))
    plan = search(dear, ring("a", "b"))
    assert [p.operator for p in plan.pieces] == ["a", "b"]
    assert plan.speedup == 1.0
    assert "no plan that overlaps is faster" in plan.warnings[-1]


def test_pieces_that_each_cost_as_much_as_the_whole_still_have_an_order() -> None:
    dear = tuple(op(name, lane, 1.0, 1.0) for name, lane in zip("abc", LANES, strict=True))
    pattern = structure(dear, ring(*"abc"), fine=frozenset("abc"), num_halvings=2, rotation=0)
    order = order_pieces(
        pattern, dear, batch_tokens=512, grain_tokens=128, stretch={}, max_nodes=500, limit_s=20
    )
    assert order is not None and order.window_s >= 4.0
    assert search(dear, ring(*"abc"), batch=512).speedup == 1.0


def test_one_lane_cannot_overlap_with_itself() -> None:
    alone = (op("a", "compute", 1.0), op("b", "compute", 1.0))
    assert search(alone, ring("a", "b")).iteration_s == pytest.approx(2.0 * LAYERS)


def test_same_plan_every_time() -> None:
    assert search(FOUR, FOUR_RING, batch=640) == search(FOUR, FOUR_RING, batch=640)


def test_a_plan_reads_back_as_written() -> None:
    plan = search(THREE, THREE_RING)
    data = json.loads(json.dumps(plain(plan)))
    assert from_data(OverlapPlan, data, where="plan") == plan


def test_better_of_two_ways_to_write_a_layer() -> None:
    slow = (*THREE, op("r", "network", 0.9, 0.03))
    tables = (Table(slow, FOUR_RING), Table(FOUR, FOUR_RING))
    best, plan = search_rewrites(tables, CURVES, batch_tokens=256, layers=LAYERS)
    assert best == 1
    assert plan == search(FOUR, FOUR_RING)


@pytest.mark.parametrize("budget_s", [0.0, 0.02])
def test_no_time_gives_a_plan_and_a_warning(budget_s: float) -> None:
    plan = search(FOUR, FOUR_RING, batch=2048, layers=80, budget_s=budget_s)
    check_pieces(plan.pieces, FOUR)
    assert plan.iteration_s <= plan.sequential_s
    assert plan.warnings and "the time budget ended the search" in plan.warnings[0]


def test_hand_made_plans_are_judged_alike() -> None:
    plan = hand_made_plan(
        THREE,
        THREE_RING,
        CURVES,
        cuts={name: (128,) for name in "abc"},
        shares={"b": 0.4},
        batch_tokens=256,
        layers=LAYERS,
    )
    assert len(plan.pieces) == 6
    assert search(THREE, THREE_RING).iteration_s <= plan.iteration_s < plan.sequential_s


@pytest.mark.parametrize("batch", [0, 1, 255])
def test_a_batch_too_small_to_cut_is_named(batch: int) -> None:
    with pytest.raises(SpecError, match=f"dense batch of {batch} tokens .* at least 256"):
        search(THREE, THREE_RING, batch=batch)


def test_bad_tables_are_told_before_anything_runs() -> None:
    with pytest.raises(SpecError, match="operator missing has no profile"):
        search(THREE, (Dependency(parent="a", child="missing"),))
    with pytest.raises(SpecError, match="a, b wait for each other in one layer"):
        search(
            (op("a", "compute", 1.0), op("b", "memory", 1.0)),
            (Dependency(parent="a", child="b"), Dependency(parent="b", child="a")),
        )
    with pytest.raises(SpecError, match="no speed curve for the memory lane"):
        search_overlap(
            THREE, THREE_RING, {"compute": PROPORTIONAL}, batch_tokens=256, layers=LAYERS
        )
    with pytest.raises(SpecError, match="0 layers"):
        search(THREE, THREE_RING, layers=0)
    with pytest.raises(SpecError, match="a grain of 0 tokens"):
        search_overlap(THREE, THREE_RING, CURVES, batch_tokens=256, layers=LAYERS, grain_tokens=0)


@pytest.mark.parametrize(
    ("ranges", "says"),
    [
        ([(0, 128)], "end at token 128 of 256"),
        ([(0, 128), (64, 256)], "one from 128 was expected"),
        ([(0, 128), (192, 256)], "one from 128 was expected"),
        ([], "end at token 0 of 256"),
    ],
)
def test_pieces_that_miss_tokens_are_told(ranges: list[tuple[int, int]], says: str) -> None:
    pieces = [NanoPiece(operator=n, first_token=0, end_token=256) for n in ("a", "c")]
    pieces += [NanoPiece(operator="b", first_token=a, end_token=b) for a, b in ranges]
    with pytest.raises(SpecError) as raised:
        check_pieces(pieces, THREE)
    assert "operator b" in str(raised.value) and says in str(raised.value)


def test_operators_are_put_in_order_of_dependence() -> None:
    ordered = in_order_of_dependence(tuple(reversed(FOUR)), FOUR_RING)
    assert [o.name for o in ordered] == ["a", "b", "c", "r"]
