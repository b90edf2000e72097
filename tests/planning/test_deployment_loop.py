"""The closed loop solved: memory bounds what runs, sides balance, whole deployments split."""

import math
from dataclasses import replace

import pytest

from plimsoll.cost.host import common_costs, engine_profile
from plimsoll.cost.memory import kv_capacity
from plimsoll.planning.deployment_loop import (
    LoopSolver,
    SolvedLoop,
    admission_of,
    loop_load,
    shared_by_workers_s,
)
from plimsoll.planning.deployment_settings import DeploymentSettings, WorkerGroup, settings_of
from plimsoll.spec.deployment import DeploymentRow
from plimsoll.spec.errors import InfeasibleError, SpecError
from plimsoll.spec.plan import Parallel
from tests.deployments import APART, SERVED, aggregated, cut_of, disaggregated

ROWS = (*SERVED.items(), *((f"apart-{name}", row) for name, row in APART.items()))
each_row = pytest.mark.parametrize("row", [r for _, r in ROWS], ids=[name for name, _ in ROWS])
each_served = pytest.mark.parametrize("row", SERVED.values(), ids=SERVED.keys())
each_apart = pytest.mark.parametrize("row", APART.values(), ids=APART.keys())
WHOLE = settings_of(disaggregated(prefill=cut_of(0, tp=36), decode=cut_of(0, tp=36)))


def solved(row: DeploymentRow) -> SolvedLoop:
    return LoopSolver().solve(settings_of(row))


def with_prefill(settings: DeploymentSettings, count: int) -> DeploymentSettings:
    assert settings.prefill is not None
    return replace(settings, prefill=replace(settings.prefill, count=count))


@each_served
@pytest.mark.parametrize("concurrency", [1, 64, 10**6])
def test_no_more_run_than_are_in_flight_or_than_memory_holds(
    row: DeploymentRow, concurrency: int
) -> None:
    settings = settings_of(replace(row, concurrency=concurrency))
    running = LoopSolver().solve(settings).running
    reserve = engine_profile(settings.engine).reserve_outputs
    tokens = int(settings.prompt_tokens + reserve * settings.output_tokens)
    capacity = kv_capacity(
        settings.model,
        settings.device,
        settings.decode.parallel,
        kv_dtype=settings.kv_dtype,
        memory_fraction=0.98,
        max_num_seqs=64,
        context_tokens=tokens,
    )
    fits = capacity.max_concurrency(tokens)
    assert 1 <= running <= min(concurrency, fits)
    if concurrency == 10**6:
        assert fits / 2 < running < concurrency


@each_served
def test_what_memory_does_not_hold_waits_for_a_place(row: DeploymentRow) -> None:
    """Little's law: a round of answers for every round of places ahead in the queue."""
    few, many = (solved(replace(row, concurrency=n)) for n in (10**6, 2 * 10**6))
    assert few.running == many.running
    answer_s = few.settings.output_tokens * few.times.tpot_s
    rounds = 10**6 / few.running
    assert 0.8 < (many.times.ttft_s - few.times.ttft_s) / (rounds * answer_s) < 1.5
    assert few.times.ttft_s > 0.8 * (rounds - 1) * answer_s


@each_apart
@pytest.mark.parametrize("concurrency", [1, 64, 10**6])
def test_decode_workers_share_what_is_in_flight(row: DeploymentRow, concurrency: int) -> None:
    settings = settings_of(replace(row, concurrency=concurrency))
    solver = LoopSolver()
    found = solver.solve(settings)
    count = settings.decode.count
    assert 1 <= found.running <= max(1, round(concurrency / count))
    assert found.running <= solver.most_running(settings, settings.decode.parallel)


def test_longer_requests_are_fewer_and_one_that_is_too_long_runs_alone() -> None:
    solver = LoopSolver()
    settings = settings_of(aggregated(precision="bf16"))
    lengths = [10, 100, 1000, 10_000, 100_000, 10**6, 10**8]
    most = [
        solver.most_running(replace(settings, prompt_tokens=float(n)), Parallel()) for n in lengths
    ]
    assert most == sorted(most, reverse=True)
    assert most[0] > 100 and most[-1] == 1


@pytest.mark.parametrize(
    "row",
    [
        aggregated(model="deepseek-r1", precision="bf16"),
        aggregated(model="llama-3.1-405b", system="l4"),
        disaggregated(decode=cut_of(3)),
        disaggregated(prefill=cut_of(3)),
    ],
)
def test_weights_larger_than_memory_are_refused(row: DeploymentRow) -> None:
    with pytest.raises(InfeasibleError, match=r"weights of \S+ take \d+ GB of each of 1") as caught:
        solved(row)
    assert caught.value.binding == "memory" and caught.value.change


def test_a_cut_that_the_model_does_not_allow_is_refused() -> None:
    with pytest.raises(SpecError, match="tp = 3 does not divide"):
        solved(aggregated(workers=cut_of(tp=3)))


@each_row
def test_a_solver_that_has_met_other_rows_answers_alike(row: DeploymentRow) -> None:
    used = LoopSolver()
    for _, other in ROWS:
        if other != row:
            used.solve(settings_of(other))
    assert used.solve(settings_of(row)) == solved(row)


@each_row
def test_devices_are_those_of_all_workers(row: DeploymentRow) -> None:
    assert solved(row).num_devices == row.num_devices


@each_apart
def test_neither_side_passes_more_than_it_can(row: DeploymentRow) -> None:
    settings = settings_of(row)
    assert settings.prefill is not None
    solver = LoopSolver()
    found = solver.solve(settings)
    clock = solver.clock(settings, settings.prefill.parallel)
    count = settings.prefill.count
    prompt_s = shared_by_workers_s(clock, settings, settings.prefill.parallel, count)
    decoding = found.running * settings.decode.count
    assert found.rate_per_s * prompt_s <= 1 + 1e-9
    assert found.rate_per_s * settings.output_tokens * found.times.tpot_s <= decoding * (1 + 1e-9)


@each_apart
def test_prefill_that_is_not_named_is_enough_and_stands_as_if_named(row: DeploymentRow) -> None:
    settings = settings_of(row)
    before = 0
    for in_flight in (16, 64, 256, 1024):
        loaded = replace(settings, in_flight=in_flight)
        found = LoopSolver().solve(with_prefill(loaded, 0))
        assert found.prefill_workers >= max(1, before)
        named = LoopSolver().solve(with_prefill(loaded, found.prefill_workers))
        assert (named.times, named.running) == (found.times, found.running)
        many = LoopSolver().solve(with_prefill(loaded, 100))
        assert found.rate_per_s >= 0.7 * many.rate_per_s
        before = found.prefill_workers


def test_too_little_prefill_leaves_decode_waiting() -> None:
    settings = settings_of(disaggregated(isl=8000, osl=200, concurrency=512))
    starved, fed = (LoopSolver().solve(with_prefill(settings, n)) for n in (1, 100))
    assert starved.running < fed.running == round(512 / 3)
    assert starved.times.tpot_s < fed.times.tpot_s
    assert starved.times.ttft_s > fed.times.ttft_s
    assert starved.rate_per_s < fed.rate_per_s


def test_a_whole_deployment_is_split_where_it_carries_most() -> None:
    best = LoopSolver().solve(WHOLE)
    assert best.settings.prefill is not None
    assert best.num_devices == WHOLE.devices_to_split == 36
    assert best.settings.devices_to_split == 0 and best.settings.decode.count >= 1
    others = []
    for width in (4, 8, 16, 32):
        for workers in range(1, (36 - width) // 4 + 1):
            if (36 - 4 * workers) % width:
                continue
            count = (36 - 4 * workers) // width
            cut = Parallel(attention_dp=width, ep=width)
            prefill = WorkerGroup(count=workers, parallel=Parallel(attention_dp=4, ep=4))
            decode = WorkerGroup(count=count, parallel=cut)
            candidate = replace(WHOLE, devices_to_split=0, prefill=prefill, decode=decode)
            others.append(LoopSolver().solve(candidate).rate_per_s)
    assert len(others) > 8
    assert best.rate_per_s >= max(others) / 1.02


@pytest.mark.parametrize("devices", [1, 5, 7, 9])
def test_devices_that_no_split_uses_up_are_refused(devices: int) -> None:
    with pytest.raises(InfeasibleError, match=f"no split of {devices} devices") as caught:
        LoopSolver().solve(replace(WHOLE, devices_to_split=devices))
    assert caught.value.change


def test_speculation_lies_between_none_and_all() -> None:
    settings = settings_of(SERVED["latent-tp8"])
    solver = LoopSolver()
    clock = solver.clock(settings, settings.decode.parallel)

    def times(weight: float) -> tuple[float, float]:
        return solver.token_times(replace(settings, speculation=weight), clock, 16)

    (plain_s, step_s), (half_s, half_step_s), (fast_s, fast_step_s) = map(times, (0.0, 0.5, 1.0))
    assert plain_s == step_s
    assert half_s == pytest.approx(math.sqrt(plain_s * fast_s))
    accepted = common_costs().accepted_tokens
    assert fast_step_s == pytest.approx(accepted * fast_s)
    assert fast_step_s >= step_s and fast_s < plain_s
    assert half_step_s == pytest.approx(math.sqrt(step_s * fast_step_s))


def test_a_first_token_waits_for_what_the_engine_adds() -> None:
    row, request = SERVED["latent-tp8"], engine_profile("trtllm").request
    short, long = (admission_of(settings_of(replace(row, isl=n))) for n in (1000, 3000))
    assert long.fixed_s - short.fixed_s == pytest.approx(2000 * request.prompt_token_s)
    dense = settings_of(replace(row, model="llama-3.1-70b"))
    assert short.fixed_s - admission_of(dense).fixed_s == pytest.approx(request.expert_s)
    apart = admission_of(settings_of(disaggregated(isl=1000)))
    assert apart.fixed_s - short.fixed_s == pytest.approx(request.handover_s)
    assert (apart.steps, apart.plain_steps) == (0.0, 0.0)


def test_few_requests_are_admitted_sooner_and_ranks_wait_for_each_other() -> None:
    row, common = SERVED["latent-ranks"], common_costs()
    request = engine_profile("sglang").request
    few, many = (
        admission_of(settings_of(replace(row, concurrency=n)))
        for n in (common.few_requests - 1, common.few_requests)
    )
    assert few.steps == pytest.approx(request.few_admission * many.steps)
    assert many.plain_steps == min(request.rank_wait_steps, 500 / 4)
    assert admission_of(settings_of(replace(row, osl=4))).plain_steps <= 1.0
    assert admission_of(settings_of(replace(row, workers=cut_of(tp=8)))).plain_steps == 0.0


def test_equal_workers_share_the_load() -> None:
    settings = settings_of(aggregated(concurrency=48))
    one, four, all_of_them = (loop_load(settings, n) for n in (1, 4, 96))
    assert (one.in_flight, four.in_flight, all_of_them.in_flight) == (48, 12, 1)
    assert four == one._replace(in_flight=12)
    assert (one.prompt_tokens, one.output_tokens) == (1000, 500)
