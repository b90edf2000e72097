"""Nano-operations on lanes: conservation of work and shares, lower bounds, bad input."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.cost.overlap import NanoOp, OverlapRun, simulate_overlap
from plimsoll.cost.overlap_profile import (
    LANES,
    PROPORTIONAL,
    Dependency,
    Lane,
    OpProfile,
    SpeedCurve,
    check_operators,
)
from plimsoll.spec.errors import SpecError

MEMORY = SpeedCurve(
    lane="memory", shares=(0, 0.1, 0.2, 0.4, 0.8, 0.9, 1), speeds=(0, 0.2, 0.3, 0.8, 0.85, 0.95, 1)
)
NETWORK = SpeedCurve(
    lane="network", shares=(0, 0.1, 0.2, 0.8, 0.9, 1), speeds=(0, 0.3, 0.5, 0.9, 1, 1)
)
CURVES = {"compute": PROPORTIONAL, "memory": MEMORY, "network": NETWORK}
FREE = {lane: SpeedCurve(lane=lane, shares=(0, 1e-6, 1), speeds=(0, 1, 1)) for lane in LANES}


def op(lane: Lane, work_s: float, share: float = 1.0, after: tuple[int, ...] = ()) -> NanoOp:
    return NanoOp(name=f"{lane} {work_s:g}", lane=lane, work_s=work_s, share=share, after=after)


@st.composite
def problems(draw: st.DrawFn) -> list[NanoOp]:
    """Waits point backwards, so every order can start."""
    ops = []
    for i in range(draw(st.integers(1, 12))):
        parents = draw(st.sets(st.integers(0, i - 1), max_size=3)) if i else set()
        ops.append(
            op(
                draw(st.sampled_from(LANES)),
                draw(st.floats(1e-5, 1.0)),
                draw(st.sampled_from([0.1, 0.2, 0.35, 0.5, 0.8, 1.0])),
                tuple(sorted(parents)),
            )
        )
    return ops


def critical_path_s(ops: Sequence[NanoOp]) -> float:
    ends: list[float] = []
    for o in ops:
        ends.append(o.work_s + max((ends[p] for p in o.after), default=0.0))
    return max(ends)


def by_small_steps(ops: Sequence[NanoOp], step_s: float) -> float:
    """The same device in fixed time steps: another way to the makespan, exact as steps shrink."""
    left, done, now_s = [o.work_s for o in ops], [False] * len(ops), 0.0
    while not all(done):
        running: dict[Lane, int] = {}
        for lane in LANES:
            head = next((i for i, o in enumerate(ops) if o.lane == lane and not done[i]), None)
            if head is not None and all(done[p] for p in ops[head].after):
                running[lane] = head
        beside = sum(ops[i].share for lane, i in running.items() if lane != "compute")
        for lane, i in running.items():
            share = ops[i].share / max(1.0, beside)
            if lane == "compute":
                share = min(ops[i].share, max(0.0, 1 - beside))
            left[i] -= step_s * CURVES[lane].speed(share)
        for i in running.values():
            done[i] = left[i] <= 0
        now_s += step_s
    return now_s


@settings(max_examples=150, deadline=None)
@given(ops=problems())
def test_work_done_is_work_given_and_shares_fit(ops: list[NanoOp]) -> None:
    run = simulate_overlap(ops, CURVES, stretches=True)
    for i, o in enumerate(ops):
        pieces = [s for s in run.stretches if s.op == i]
        assert sum((s.end_s - s.start_s) * s.speed for s in pieces) == pytest.approx(o.work_s)
        assert all(s.share <= o.share + 1e-12 for s in pieces)
        assert min(s.start_s for s in pieces) == run.start_s[i]
    for at_s in {s.start_s for s in run.stretches}:
        now = [s for s in run.stretches if s.start_s <= at_s < s.end_s]
        assert sum(s.share for s in now) <= 1 + 1e-12
        lanes = [ops[s.op].lane for s in now]
        assert len(set(lanes)) == len(lanes)


@settings(max_examples=150, deadline=None)
@given(ops=problems())
def test_order_and_lower_bounds(ops: list[NanoOp]) -> None:
    run: OverlapRun = simulate_overlap(ops, CURVES)
    slack = 1 + 1e-9
    for i, o in enumerate(ops):
        assert all(run.end_s[p] <= run.start_s[i] * slack for p in o.after)
        assert run.end_s[i] - run.start_s[i] >= o.work_s / slack
    for lane in LANES:
        mine = [i for i, o in enumerate(ops) if o.lane == lane]
        assert all(
            run.end_s[a] <= run.start_s[b] * slack for a, b in zip(mine, mine[1:], strict=False)
        )
        assert run.makespan_s * slack >= sum(ops[i].work_s for i in mine)
    assert run.makespan_s * slack >= critical_path_s(ops)
    fractional_s = sum(o.work_s * CURVES[o.lane].cheapest() for o in ops)
    assert run.makespan_s * slack >= fractional_s
    assert run.makespan_s == max(run.end_s)


@settings(max_examples=25, deadline=None)
@given(ops=problems())
def test_events_agree_with_small_time_steps(ops: list[NanoOp]) -> None:
    makespan_s = simulate_overlap(ops, CURVES).makespan_s
    step_s = makespan_s / 4000
    late_s = (len(ops) + 1) * step_s
    assert by_small_steps(ops, step_s) == pytest.approx(makespan_s, abs=3 * late_s)


@settings(max_examples=60, deadline=None)
@given(ops=problems(), factor=st.floats(0.01, 100))
def test_time_scales_with_work(ops: list[NanoOp], factor: float) -> None:
    scaled = [op(o.lane, o.work_s * factor, o.share, o.after) for o in ops]
    expected = simulate_overlap(ops, CURVES).makespan_s * factor
    assert simulate_overlap(scaled, CURVES).makespan_s == pytest.approx(expected)


def test_a_chain_at_full_share_takes_its_sum() -> None:
    chain = [op("compute", 1.0), op("memory", 2.0, 1, (0,)), op("network", 3.0, 1, (1,))]
    assert simulate_overlap(chain, CURVES).makespan_s == pytest.approx(6.0)


def test_shares_slow_both_sides_as_the_tables_say() -> None:
    """1 s of memory at share 0.4 runs 1.25 s at 0.8; compute beside it gets 0.6 of the device."""
    run = simulate_overlap([op("compute", 1.0), op("memory", 1.0, 0.4)], CURVES)
    assert run.end_s == pytest.approx((1.25 + 0.25, 1.25))


def test_overlap_costs_unless_curves_say_it_is_free() -> None:
    """Full speed for both lanes at once is what a model without interference would claim."""
    ops = [op("compute", 1.0), op("memory", 1.0, 0.4)]
    assert simulate_overlap(ops, FREE).makespan_s == pytest.approx(1.0)
    assert simulate_overlap(ops, CURVES).makespan_s == pytest.approx(1.5)


def test_curve_is_linear_between_rows() -> None:
    assert MEMORY.speed(0.4) == pytest.approx(0.8)
    assert MEMORY.speed(0.3) == pytest.approx(0.55)
    assert NETWORK.speed(0.15) == pytest.approx(0.4)
    assert [MEMORY.speed(0), MEMORY.speed(1)] == [0, 1]
    assert NETWORK.cheapest() == pytest.approx(1 / 3)


def test_cutting_pays_the_fixed_part_again() -> None:
    whole = OpProfile(name="ug", lane="compute", best_s=1.0, fixed_s=0.1)
    assert whole.piece_s(1) == pytest.approx(1.0)
    assert 2 * whole.piece_s(0.5) == pytest.approx(1.1)
    assert whole.piece_s(0.25) + whole.piece_s(0.75) == pytest.approx(1.1)
    unpriced = OpProfile(name="ug", lane="compute", best_s=1.0)
    assert 2 * unpriced.piece_s(0.5) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("shares", "speeds", "says"),
    [
        ((0, 0.5, 1), (0, 0.9, 0.8), "memory lane: not monotone, speed falls from 0.9 to 0.8"),
        ((0, 1), (0.1, 1), "memory lane: P(0) is 0.1"),
        ((0, 1), (0, 0.9), "P(1) must be 1"),
        ((0, 0.5, 0.5, 1), (0, 0.1, 0.2, 1), "share 0.5 does not lie above 0.5"),
        ((0, 1), (0,), "as many speeds as shares"),
        ((0, float("nan"), 1), (0, 0.5, 1), "does not lie above"),
    ],
)
def test_bad_curves(shares: tuple[float, ...], speeds: tuple[float, ...], says: str) -> None:
    with pytest.raises(SpecError) as raised:
        SpeedCurve(lane="memory", shares=shares, speeds=speeds)
    assert says in str(raised.value)


@pytest.mark.parametrize(
    ("ops", "says"),
    [
        ([op("memory", 1.0)], "memory 1 has no profile: no speed curve for the memory lane"),
        ([op("compute", 1.0, 0.0)], "a share of 0"),
        ([op("compute", 1.0, 1.5)], "a share of 1.5"),
        ([op("compute", -1.0)], "a time of -1 s"),
        ([op("compute", float("nan"))], "a time of nan s"),
        ([op("compute", 1.0, 1.0, (3,))], "waits for number 3; there are 1"),
        ([op("compute", 1.0, 1.0, (1,)), op("compute", 2.0)], "order never starts"),
    ],
)
def test_bad_operations(ops: list[NanoOp], says: str) -> None:
    with pytest.raises(SpecError) as raised:
        simulate_overlap(ops, {"compute": PROPORTIONAL})
    assert says in str(raised.value)


def test_shares_without_speed_are_told() -> None:
    flat = SpeedCurve(lane="compute", shares=(0, 0.5, 1), speeds=(0, 0, 1))
    with pytest.raises(SpecError, match="no speed at the shares given"):
        simulate_overlap([op("compute", 1.0, 0.3)], {"compute": flat})


def test_operator_tables_are_checked() -> None:
    table = (OpProfile(name="kqv", lane="compute", best_s=1.0),)
    with pytest.raises(SpecError, match="operator kqw has no profile. Did you mean kqv?"):
        check_operators(table, (Dependency(parent="kqw", child="kqv"),), CURVES)
    with pytest.raises(SpecError, match="kqv has 2 profiles"):
        check_operators(table * 2, (), CURVES)
    with pytest.raises(SpecError, match="no operators"):
        check_operators((), (), CURVES)
    with pytest.raises(SpecError, match="kqv has no profile: no speed curve for the compute"):
        check_operators(table, (), {})
    with pytest.raises(SpecError, match="2 s paid by every piece"):
        OpProfile(name="kqv", lane="compute", best_s=1.0, fixed_s=2.0)
    with pytest.raises(SpecError, match="a time of 0 s"):
        OpProfile(name="kqv", lane="compute", best_s=0.0)
