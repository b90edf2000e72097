"""Power and price: the envelope's corners, conservation of energy, clocks, and a step's demand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.cost.peak import peak
from plimsoll.cost.power import InstancePower, at_clock, memory_bound_w, power_w, run_power
from plimsoll.cost.price import (
    device_usd_per_hour,
    fleet_usd_per_hour,
    plan_usd_per_hour,
    usd_per_million_tokens,
)
from plimsoll.cost.step_demand import step_demand
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import SpecError, UnsupportedError
from plimsoll.spec.hardware import Device, Fleet, FleetPart, Link, Node, PowerEnvelope, Price
from plimsoll.spec.model import (
    Attention,
    DenseFfn,
    Layer,
    LayerGroup,
    LinearAttention,
    ModelSpec,
    MoeFfn,
)
from plimsoll.spec.parameters import layer_weights, weight_bytes
from plimsoll.spec.plan import Parallel, Pool, ServingPlan
from plimsoll.spec.record import StepColumns

ENVELOPE = PowerEnvelope(idle_w=100, peak_w=700, memory_bound_w=450)
DEVICE = Device(
    name="test-card",
    vendor="none",
    family="hopper",
    memory_bytes=80e9,
    memory_bytes_per_s=3e12,
    peak_flops_per_s={DType.BF16: 1e15},
    host=Link(kind="pcie", bytes_per_s=5e10),
    power=ENVELOPE,
    price=Price(usd_per_hour=3.6, source="test", as_of="2025-01"),
    source="test",
    as_of="2025-01",
)
FULL = Layer(
    mixer=Attention(num_heads=32, num_kv_heads=8, head_dim=128), ffn=DenseFfn(intermediate=14_336)
)
WINDOW = replace(FULL, mixer=replace(FULL.mixer, window=1_024))
LINEAR = replace(
    FULL, mixer=LinearAttention(num_k_heads=16, num_v_heads=32, head_k_dim=128, head_v_dim=128)
)
SPARSE = replace(FULL, ffn=MoeFfn(num_experts=16, top_k=2, intermediate=4_096))


def model(*layers: Layer) -> ModelSpec:
    return ModelSpec(
        name="test-model",
        hidden_size=4_096,
        vocab_size=32_000,
        max_context=131_072,
        layers=tuple(LayerGroup(count=8, layer=layer) for layer in layers),
    )


def rows(**columns: list[float]) -> StepColumns:
    size = len(next(iter(columns.values())))
    given_columns = {name: np.asarray(values) for name, values in columns.items()}
    floats = ("start_s", "step_s", "growth_s", "stall_s")
    defaults = {
        name: np.zeros(size) if name in floats else np.zeros(size, dtype=np.int64)
        for name in StepColumns.__dataclass_fields__
    }
    defaults["num_steps"] = np.ones(size, dtype=np.int64)
    return StepColumns(**{**defaults, **given_columns})


def test_envelope_corners() -> None:
    assert float(power_w(ENVELOPE, 0, 0)) == 100
    assert float(power_w(ENVELOPE, 0, 1)) == 450
    assert float(power_w(ENVELOPE, 1, 0)) == 700
    assert float(power_w(ENVELOPE, 1, 1)) == 700
    assert float(power_w(ENVELOPE, 0.5, 0.5)) == pytest.approx(100 + 175 + 300)
    assert memory_bound_w(PowerEnvelope(idle_w=100, peak_w=700)) == pytest.approx(520)


@given(u=st.floats(0, 1), v=st.floats(0, 1), more=st.floats(0, 1))
@settings(deadline=None)
def test_power_grows_with_use_and_stays_in_its_envelope(u: float, v: float, more: float) -> None:
    watts = float(power_w(ENVELOPE, u, v))
    assert 100 <= watts <= 700
    assert float(power_w(ENVELOPE, u + more * (1 - u), v)) >= watts
    assert float(power_w(ENVELOPE, u, v + more * (1 - v))) >= watts


@pytest.mark.parametrize("layers", [(FULL,), (FULL, WINDOW), (FULL, LINEAR), (SPARSE,)])
def test_demand_of_a_step_is_the_analytical_peak(layers: tuple[Layer, ...]) -> None:
    """Two ways to count the same work: a recorded step, and the closed form of one user."""
    context = 8_000
    spec = model(*layers)
    expected = peak(spec, DEVICE, context)
    steps = rows(
        num_decodes=[1, 0],
        decode_context=[context, 0],
        prefill_tokens=[0, context],
        prefill_seqs=[0, 1],
    )
    compute_s, memory_s = step_demand(spec, DEVICE).busy_s(steps)
    assert compute_s[1] == pytest.approx(expected.prefill_s, rel=0.07 if len(layers) > 1 else 1e-9)
    assert memory_s[0] == pytest.approx(expected.decode_step_s, rel=1e-3)


def test_lighter_weights_lighten_decode_alone() -> None:
    spec = model(FULL)
    device = replace(DEVICE, peak_flops_per_s={DType.BF16: 1e15, DType.FP8: 2e15})
    steps = rows(num_decodes=[1], decode_context=[8_000])
    wide, narrow = (
        step_demand(spec, device, weight_dtype=dtype).busy_s(steps)[1][0]
        for dtype in (None, DType.FP8)
    )
    assert narrow == pytest.approx(
        peak(spec, device, 8_000, weight_dtype=DType.FP8).decode_step_s, rel=1e-3
    )
    assert 0.5 * wide < narrow < 0.7 * wide
    assert peak(spec, device, 8_000, weight_dtype=DType.FP8).kv_bytes == pytest.approx(
        peak(spec, device, 8_000).kv_bytes
    )


def test_ranks_of_attention_read_a_copy_each_of_all_but_experts() -> None:
    spec = model(FULL, SPARSE)
    steps = rows(num_decodes=[64], decode_context=[64_000])
    (once, twice) = (step_demand(spec, DEVICE, attention_dp=n).busy_s(steps) for n in (1, 2))
    experts = sum(
        group.count * weight.parameters * DType.BF16.bytes
        for group in spec.layers
        for weight in layer_weights(group.layer, spec.hidden_size)
        if weight.part == "experts"
    )
    embedding = spec.vocab_size * spec.hidden_size * DType.BF16.bytes
    copied = weight_bytes(spec) - experts - (0 if spec.tied_embeddings else embedding)
    assert twice[0][0] == once[0][0]
    assert twice[1][0] - once[1][0] == pytest.approx(copied / DEVICE.memory_bytes_per_s)


def test_a_run_of_steps_is_the_sum_of_its_steps() -> None:
    demand = step_demand(model(FULL, SPARSE), DEVICE)
    run = rows(num_decodes=[7], decode_context=[7_000], num_steps=[20])
    single = rows(num_decodes=[7] * 20, decode_context=[7_000 + 7 * j for j in range(20)])
    for whole, parts in zip(demand.busy_s(run), demand.busy_s(single), strict=True):
        assert whole[0] == pytest.approx(parts.sum(), rel=1e-12)


def test_a_full_device_draws_what_its_envelope_says() -> None:
    """Rows that last exactly their floor: memory-bound decode, compute-bound prefill."""
    demand = step_demand(model(FULL), DEVICE)
    steps = rows(
        num_decodes=[1, 0],
        decode_context=[4_000, 0],
        prefill_tokens=[0, 8_000],
        prefill_seqs=[0, 1],
    )
    compute_s, memory_s = demand.busy_s(steps)
    durations = np.array([memory_s[0], compute_s[1]])
    steps = replace(steps, step_s=durations, start_s=np.array([0.0, durations[0]]))
    instance = InstancePower(power=ENVELOPE, num_devices=1, demand=demand)
    result = run_power(steps, [instance], end_s=float(durations.sum()), output_tokens=1)
    assert result.row_w[0] == pytest.approx(450, rel=0.01)
    assert result.row_w[1] == pytest.approx(700)


@given(
    starts=st.lists(st.floats(0, 50), min_size=1, max_size=12),
    bins=st.integers(1, 60),
    devices=st.integers(1, 8),
)
@settings(deadline=None, max_examples=40)
def test_energy_is_conserved_over_bins(starts: list[float], bins: int, devices: int) -> None:
    size = len(starts)
    steps = rows(
        instance=[i % 2 for i in range(size)],
        start_s=starts,
        step_s=[0.02 + 0.01 * i for i in range(size)],
        num_steps=[10] * size,
        growth_s=[1e-4] * size,
        stall_s=[0.1 * (i % 2) for i in range(size)],
        num_decodes=[4] * size,
        decode_context=[4_000] * size,
    )
    instance = InstancePower(
        power=ENVELOPE, num_devices=devices, demand=step_demand(model(FULL), DEVICE)
    )
    result = run_power(
        steps, [instance, instance, instance], end_s=60.0, output_tokens=40 * size, num_bins=bins
    )
    binned_j = float(np.sum(result.watts * np.diff(result.edges_s)))
    assert binned_j == pytest.approx(result.total_j, rel=1e-9)
    assert result.idle_j == pytest.approx(3 * devices * 100 * 60.0)
    assert result.watts.min() >= 3 * devices * 100 - 1e-6
    assert result.j_per_output_token == pytest.approx(result.total_j / (40 * size))
    assert result.mean_w == pytest.approx(result.total_j / 60.0)


def test_work_spread_over_more_devices_costs_the_same_joules_above_idle() -> None:
    demand = step_demand(model(FULL), DEVICE)
    steps = rows(num_decodes=[8], decode_context=[8_000], step_s=[0.05], num_steps=[100])
    found = [
        run_power(
            steps,
            [InstancePower(power=ENVELOPE, num_devices=n, demand=demand)],
            end_s=10.0,
            output_tokens=800,
        )
        for n in (1, 4)
    ]
    assert found[0].dynamic_j == pytest.approx(found[1].dynamic_j)
    assert found[1].idle_j == pytest.approx(4 * found[0].idle_j)


def test_an_empty_run_idles_and_a_stranger_is_named() -> None:
    instance = InstancePower(power=ENVELOPE, num_devices=2, demand=step_demand(model(FULL), DEVICE))
    empty = run_power(rows(start_s=[]), [instance], end_s=10.0, output_tokens=0)
    assert empty.total_j == pytest.approx(2 * 100 * 10)
    assert math.isnan(empty.j_per_output_token)
    with pytest.raises(SpecError, match="instance 3"):
        run_power(rows(instance=[3]), [instance], end_s=1.0, output_tokens=0)


@given(fraction=st.floats(0.05, 1.0))
@settings(deadline=None)
def test_a_lower_clock_slows_arithmetic_and_saves_core_power(fraction: float) -> None:
    slow = at_clock(DEVICE, fraction)
    assert slow.flops_per_s(DType.BF16) == pytest.approx(1e15 * fraction)
    assert slow.memory_bytes_per_s == DEVICE.memory_bytes_per_s
    assert memory_bound_w(slow.power) == pytest.approx(100 + 350 * (0.5 + 0.5 * fraction**3))
    assert slow.power.peak_w == pytest.approx(100 + 600 * fraction**3)
    assert float(power_w(slow.power, 1, 1)) == pytest.approx(
        max(slow.power.peak_w, memory_bound_w(slow.power))
    )


def test_energy_of_compute_bound_work_has_its_least_between_the_ends() -> None:
    """E(f) = (idle + dynamic f^3) / f is least at f = (idle / (2 dynamic))^(1/3)."""
    clocks = np.linspace(0.2, 1.0, 801)
    joules = [float(power_w(at_clock(DEVICE, f).power, 1.0, 0.0)) / f for f in clocks]
    assert clocks[int(np.argmin(joules))] == pytest.approx((100 / (2 * 600)) ** (1 / 3), abs=0.002)


def test_memory_bound_decode_saves_energy_at_no_time() -> None:
    slow = at_clock(DEVICE, 0.6)
    spec = model(FULL)
    before, after = peak(spec, DEVICE, 8_000), peak(spec, slow, 8_000)
    assert after.decode_s == before.decode_s
    assert after.prefill_s == pytest.approx(before.prefill_s / 0.6)
    saving = 1 - float(power_w(slow.power, 0, 1)) / float(power_w(DEVICE.power, 0, 1))
    # arXiv 2605.11999 reports up to 32 % of decode energy at minimal loss of throughput.
    assert 0.15 < saving < 0.35


@pytest.mark.parametrize(
    "options", [{"clock_fraction": 0.0}, {"clock_fraction": 1.2}, {"exponent": 0.5}]
)
def test_absurd_clocks_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(SpecError, match="expected"):
        at_clock(DEVICE, **{"clock_fraction": 0.5, **options})


def test_prices() -> None:
    fleet = Fleet(parts=(FleetPart(node=Node(device=DEVICE, num_devices=8), num_nodes=2),))
    assert fleet_usd_per_hour(fleet) == pytest.approx(16 * 3.6)
    plan = ServingPlan(
        model="m",
        fleet="f",
        pools=(Pool(device="test-card", replicas=3, parallel=Parallel(tp=2)),),
    )
    assert plan_usd_per_hour(plan, {"test-card": DEVICE}) == pytest.approx(6 * 3.6)
    assert usd_per_million_tokens(3.6, 1_000) == pytest.approx(1.0)
    with pytest.raises(UnsupportedError, match="test-card has no price; .*usd_per_hour"):
        device_usd_per_hour(replace(DEVICE, price=None))
    with pytest.raises(SpecError, match="above zero"):
        usd_per_million_tokens(3.6, 0.0)
    with pytest.raises(SpecError, match="test-card"):
        plan_usd_per_hour(plan, {"other": DEVICE})
