"""The closed forms against queueing theory, conservation and the simulator."""

import time

import numpy as np
import pytest

from plimsoll.cost.clock import LinearClock
from plimsoll.cost.queueing import md1_wait_s
from plimsoll.planning.attainment import best_states, margins, state_at_rate
from plimsoll.planning.goodput import sustained_rate
from plimsoll.planning.plan_space import SpaceOptions, usable_sites
from plimsoll.planning.ranking import rank_plans
from plimsoll.planning.steady_state import mixed_curves, prefill_curves
from plimsoll.planning.step_table import sample_clock
from plimsoll.planning.traffic import describe_traffic
from plimsoll.spec.fleet import parse_fleet
from plimsoll.spec.plan import ChunkedPrefill, Parallel, Pool, PrefillFirst, ServingPlan
from plimsoll.spec.workload import Workload
from tests.clock_judge import ClockJudge, Replica
from tests.toy_world import FLEET, ToyPhysics, demand, dense_model, slo, small_options, steady

CLOCK = LinearClock(step_base_s=0.015, token_s=6e-5, square_s=1e-9, decode_s=2e-4, context_s=2e-7)


def constant(prompt: int, output: int, count: int = 4000) -> Workload:
    rng = np.random.default_rng(5)
    return Workload(
        name="constant",
        arrival_s=np.cumsum(rng.exponential(0.2, count)),
        prompt_tokens=np.full(count, prompt),
        output_tokens=np.full(count, output),
    )


def table_for(workload, clock=CLOCK, most=256):
    traffic = describe_traffic(workload)
    return traffic, sample_clock(
        clock, context_tokens=traffic.decode_context_tokens, most_requests=most
    )


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_a_prefill_replica_is_an_md1_queue(load):
    workload = constant(1024, 1)
    traffic, table = table_for(workload)
    curves = prefill_curves(table, traffic, [PrefillFirst(max_batched_tokens=1024)])
    service = CLOCK.step_s([(1024, 0)], 0, 0)
    rate = load / service
    found = state_at_rate(curves, traffic, np.full((1, 1, 1), rate))
    expected = service + md1_wait_s(rate, service)
    assert float(found.ttft_s[0, 0, 0]) == pytest.approx(expected, rel=0.08)


def test_tokens_are_conserved_along_a_curve():
    """By Little's law, rate x (time in decode) is the number decoding."""
    workload = steady()
    traffic, table = table_for(workload)
    curves = mixed_curves(table, traffic, [ChunkedPrefill(token_budget=512)], batch_limits=[64.0])
    steps = traffic.mean_output_tokens - 1
    assert curves.rate_per_s * steps * curves.token_s == pytest.approx(
        np.broadcast_to(curves.batch, curves.rate_per_s.shape)
    )


def test_without_prompts_in_the_way_tokens_take_a_decode_step():
    workload = constant(1, 200)
    traffic, table = table_for(workload)
    curves = mixed_curves(table, traffic, [PrefillFirst()], batch_limits=[1.0])
    alone = CLOCK.step_s((), 1, round(traffic.decode_context_tokens))
    assert float(curves.token_s[0, 0]) == pytest.approx(alone, rel=0.02)


@pytest.mark.parametrize(
    ("policy", "near"), [(ChunkedPrefill(token_budget=512), 0.2), (PrefillFirst(), 0.27)]
)
@pytest.mark.parametrize(("prompt", "output"), [(300, 100), (1500, 60)])
def test_rates_agree_with_the_simulator(policy, near, prompt, output):
    rng = np.random.default_rng(1)
    workload = constant(prompt, output).with_changes(
        prompt_tokens=rng.integers(prompt // 2, prompt * 3 // 2, 4000),
        output_tokens=rng.integers(output // 2, output * 3 // 2, 4000),
    )
    traffic, table = table_for(workload)
    promise = slo(1.0, 0.05, 95.0)
    curves = mixed_curves(table, traffic, [policy], batch_limits=[128.0])
    state = best_states(curves, traffic, margins(curves, traffic, promise))
    estimate = float(state.rate_per_s[0, 0, 0])
    pool = Pool(device="toy", parallel=Parallel(), policy=policy, max_num_seqs=128)
    plan = ServingPlan(model="toy", fleet="1xtoy", pools=(pool,), slo=promise)
    judge = ClockJudge(
        replica=lambda _: Replica(clock=CLOCK, kv_tokens=2**20),
        kv_bytes_per_token=1.0,
        link_bytes_per_s=1e9,
    )
    found = sustained_rate(
        judge, plan, workload, guess_per_s=estimate, duration_s=2000 / estimate, tolerance=0.03
    )
    assert estimate == pytest.approx(found.rate_per_s, rel=near)


def test_more_bandwidth_never_lowers_a_rate():
    workload, options = steady(), small_options()
    sites = usable_sites(FLEET, options)
    rates = []
    for bandwidth in (1.0, 2.0):
        physics = ToyPhysics(bandwidth=bandwidth)
        ranking = rank_plans(
            dense_model(), sites, options, physics, demand(workload, slo(tpot_s=0.06))
        )
        rates.append({e.candidate: e.rate_per_s for e in ranking.estimates})
    slow, fast = rates
    shared = [c for c in slow if c in fast]
    assert shared
    assert all(fast[c] >= slow[c] * (1 - 1e-6) for c in shared)
    assert max(fast.values()) >= max(slow.values())


def test_surges_and_bursts_are_told_from_chance():
    flat = describe_traffic(steady(5.0, 20_000))
    assert flat.dispersion == pytest.approx(1.0, abs=0.1)
    assert flat.surge_weight @ flat.surge_factor == pytest.approx(1.0, abs=0.05)
    rng = np.random.default_rng(2)
    waves = 1 + 0.8 * np.sin(np.arange(200) / 10)
    counts = rng.poisson(150 * waves)
    times = np.sort(np.concatenate([30 * i + 30 * rng.random(c) for i, c in enumerate(counts)]))
    wavy = describe_traffic(steady(5.0, len(times)).with_changes(arrival_s=times - times[0]))
    assert wavy.dispersion == pytest.approx(1.0, abs=0.25)
    assert wavy.surge_factor.max() > 1.5


def test_groups_keep_totals():
    workload = steady()
    traffic = describe_traffic(workload)
    assert traffic.mean_prompt_tokens == pytest.approx(workload.prompt_tokens.mean())
    assert traffic.mean_output_tokens == pytest.approx(workload.output_tokens.mean())
    assert traffic.cell_weight @ traffic.cell_output_tokens == pytest.approx(
        workload.output_tokens.mean()
    )


def test_reused_prefixes_are_not_computed_again():
    base = steady(count=3).with_changes(
        prompt_tokens=np.array([64, 64, 40]),
        prefix_keys=np.array([1, 2, 3, 4, 1, 2, 9, 10, 1, 2]),
        prefix_start=np.array([0, 4, 8, 10]),
        prefix_block_tokens=16,
    )
    traffic = describe_traffic(base)
    assert traffic.mean_prompt_tokens == pytest.approx(56)
    assert traffic.mean_new_tokens == pytest.approx((64 + 32 + 8) / 3)
    assert describe_traffic(base, prefix_caching=False).mean_new_tokens == pytest.approx(56)


def test_a_plan_takes_well_under_a_fifth_of_a_millisecond():
    workload, options = steady(), SpaceOptions()
    sites = usable_sites(parse_fleet("8xH100-SXM"), options)
    asked = demand(workload, slo())
    rank_plans(dense_model(), sites, options, ToyPhysics(), asked)
    start = time.process_time()
    ranking = rank_plans(dense_model(), sites, options, ToyPhysics(), asked)
    assert (time.process_time() - start) / ranking.num_estimated < 200e-6
