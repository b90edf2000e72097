"""Session simulator: closed forms, the throughput knee, the link as limit, conservation."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.cost.kv_transform import KVTransform
from plimsoll.serving.simulate.session import (
    SessionCosts,
    SessionWorkload,
    session_costs,
    session_s,
    simulate_sessions,
)
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import InfeasibleError, SpecError
from plimsoll.spec.hardware import Device, Link, PowerEnvelope
from plimsoll.spec.model import Attention, DenseFfn, Layer, LayerGroup, ModelSpec

YI = ModelSpec(
    name="yi-34b-200k",
    hidden_size=7168,
    vocab_size=64_000,
    max_context=200_000,
    layers=(
        LayerGroup(
            count=60,
            layer=Layer(
                mixer=Attention(num_heads=56, num_kv_heads=8, head_dim=128),
                ffn=DenseFfn(intermediate=20_480),
            ),
        ),
    ),
)
A100 = Device(
    name="A100-80GB",
    vendor="NVIDIA",
    family="ampere",
    memory_bytes=80 * 2**30,
    memory_bytes_per_s=2e12,
    peak_flops_per_s={DType.BF16: 312e12},
    host=Link(kind="pcie", bytes_per_s=20e9),
    power=PowerEnvelope(idle_w=50, peak_w=400),
    source="arXiv 2405.08944",
    as_of="2024-05",
)
NOMINAL = 34e9


def slow_link(bytes_per_s: float) -> Device:
    """The same card with contexts parked on a drive, so that the link can bind."""
    return replace(A100, host=Link(kind="nvme", bytes_per_s=bytes_per_s))


def throughput(workload: SessionWorkload, costs: SessionCosts) -> float:
    return simulate_sessions(workload, costs).rounds_per_s


@given(
    rounds=st.integers(1, 6),
    sessions=st.integers(1, 4),
    context=st.sampled_from([4_000, 50_000]),
    think_s=st.sampled_from([0.0, 12.5]),
)
@settings(deadline=None, max_examples=20)
def test_one_user_is_the_closed_form(
    rounds: int, sessions: int, context: int, think_s: float
) -> None:
    workload = SessionWorkload(
        num_users=1,
        context_tokens=context,
        num_rounds=rounds,
        think_s=think_s,
        sessions_per_user=sessions,
    )
    costs = session_costs(YI, A100, workload, nominal_parameters=NOMINAL)
    result = simulate_sessions(workload, costs)
    assert result.session_s == pytest.approx([session_s(workload, costs)] * sessions, rel=1e-12)
    assert result.end_s == pytest.approx(sessions * session_s(workload, costs), rel=1e-12)
    assert result.num_moves == 0


def test_two_long_contexts_on_a_card_for_one_pay_two_moves_a_round() -> None:
    """50,000 tokens: one user fits; two in turn add a context switch to every round."""
    workload = SessionWorkload(num_users=2, context_tokens=50_000, num_rounds=40, followup_tokens=0)
    costs = session_costs(YI, A100, workload, nominal_parameters=NOMINAL)
    assert costs.capacity == 1
    result = simulate_sessions(workload, costs)
    alone = throughput(replace(workload, num_users=1), costs)
    assert result.rounds_per_s < alone
    per_round_s = costs.decode_s + 2 * costs.move_s
    assert result.end_s == pytest.approx(2 * costs.prefill_s + 80 * per_round_s, rel=0.02)


@pytest.mark.parametrize(
    ("devices", "context", "capacity"), [(1, 4_000, 18), (2, 50_000, 8), (1, 30_000, 2)]
)
def test_throughput_knee_is_the_closed_form_user_count(
    devices: int, context: int, capacity: int
) -> None:
    workload = SessionWorkload(
        num_users=1,
        context_tokens=context,
        num_rounds=60,
        answer_tokens=10,
        followup_tokens=0,
        think_s=200.0,
    )
    costs = session_costs(
        YI, slow_link(0.05e9), workload, nominal_parameters=NOMINAL, num_devices=devices
    )
    assert costs.capacity == capacity
    rates = {
        users: throughput(replace(workload, num_users=users), costs)
        for users in range(1, capacity + 8)
    }
    knee = max(rates, key=rates.__getitem__)
    assert abs(knee - capacity) <= 1
    assert rates[capacity] == pytest.approx(capacity * rates[1], rel=0.05)
    assert rates[capacity + 3] < 0.95 * rates[capacity]


def test_swap_bound_throughput_moves_contexts_at_the_rate_of_the_link() -> None:
    """Beyond capacity every round swaps: rounds/s x 2 KV = bytes/s of the link."""
    workload = SessionWorkload(
        num_users=40,
        context_tokens=4_000,
        num_rounds=60,
        answer_tokens=10,
        followup_tokens=0,
        think_s=5.0,
    )
    kv_bytes = 2 * 60 * 8 * 128 * 2 * 4_000
    moved = {}
    for link in (0.1e9, 0.2e9, 0.4e9):
        costs = session_costs(YI, slow_link(link), workload, nominal_parameters=NOMINAL)
        moved[link] = throughput(workload, costs) * 2 * kv_bytes
    slope = (moved[0.4e9] - moved[0.1e9]) / 0.3e9
    assert slope == pytest.approx(1.0, rel=0.05)
    assert moved[0.2e9] == pytest.approx(0.2e9, rel=0.05)


def test_a_second_device_raises_users_from_one_to_eight() -> None:
    workload = SessionWorkload(num_users=8, context_tokens=50_000, num_rounds=5, think_s=100.0)
    one = session_costs(YI, A100, workload, nominal_parameters=NOMINAL)
    two = session_costs(YI, A100, workload, nominal_parameters=NOMINAL, num_devices=2)
    assert (one.capacity, two.capacity) == (1, 8)
    assert simulate_sessions(workload, one).num_moves > 0
    assert simulate_sessions(workload, two).num_moves == 0


def test_a_compressed_cache_ends_the_swapping() -> None:
    workload = SessionWorkload(num_users=7, context_tokens=50_000, num_rounds=4, think_s=60.0)
    small = KVTransform(name="3 bits a value", bits_fraction=3 / 16)
    plain = session_costs(YI, A100, workload, nominal_parameters=NOMINAL)
    packed = session_costs(YI, A100, workload, nominal_parameters=NOMINAL, transforms=[small])
    assert packed.capacity == 7
    assert simulate_sessions(workload, plain).num_moves > 0
    assert simulate_sessions(workload, packed).num_moves == 0
    assert throughput(workload, packed) > throughput(workload, plain)


@given(
    users=st.integers(1, 12),
    rounds=st.integers(1, 5),
    sessions=st.integers(1, 3),
    capacity=st.integers(1, 8),
    think_s=st.sampled_from([0.0, 0.5, 7.0]),
    move_s=st.sampled_from([0.0, 0.3, 4.0]),
)
@settings(deadline=None, max_examples=80)
def test_laws(
    users: int, rounds: int, sessions: int, capacity: int, think_s: float, move_s: float
) -> None:
    workload = SessionWorkload(
        num_users=users,
        context_tokens=1,
        num_rounds=rounds,
        think_s=think_s,
        sessions_per_user=sessions,
    )
    costs = SessionCosts(
        prefill_s=2.0, followup_s=0.1, decode_s=1.0, move_s=move_s, capacity=capacity
    )
    result = simulate_sessions(workload, costs)
    assert result.num_sessions == users * sessions
    assert result.num_rounds == users * sessions * rounds
    work_s = users * sessions * (2.0 + rounds * 1.0 + (rounds - 1) * 0.1)
    assert result.compute_busy_s == pytest.approx(work_s)
    assert result.link_busy_s == pytest.approx(result.num_moves * move_s)
    assert result.num_moves % 2 == 0  # whoever went out came back
    assert max(result.compute_busy_s, result.link_busy_s) <= result.end_s + 1e-9
    assert min(result.session_s) >= session_s(workload, costs) - 1e-9
    for time_s, resident, swapped, waiting in result.timeline:
        assert 0 <= resident <= capacity
        assert 0 <= swapped <= users and 0 <= waiting <= users
        assert 0 <= time_s <= result.end_s
    if users <= capacity:
        assert result.num_moves == 0
    assert simulate_sessions(workload, costs) == result


def test_no_room_for_one_context_is_an_answer() -> None:
    workload = SessionWorkload(num_users=1, context_tokens=100_000)
    costs = session_costs(YI, A100, workload, nominal_parameters=NOMINAL)
    with pytest.raises(InfeasibleError, match="100,000 tokens"):
        simulate_sessions(workload, costs)


@pytest.mark.parametrize(
    ("field", "value"), [("num_users", 0), ("num_rounds", -1), ("think_s", float("nan"))]
)
def test_absurd_workloads_are_named(field: str, value: float) -> None:
    arguments = {"num_users": 1, "context_tokens": 10, field: value}
    with pytest.raises(SpecError, match=field):
        SessionWorkload(**arguments)  # type: ignore[arg-type]
