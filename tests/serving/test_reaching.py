"""What an engine spends on a request before its scheduler sees it."""

import numpy as np
import pytest

from plimsoll.cost.clock import LinearClock
from plimsoll.cost.host import engine_profile
from plimsoll.serving.executors.simulated import InstanceSpec, SimulatedExecutor
from plimsoll.serving.policies import ChunkedPrefillPolicy
from plimsoll.serving.routers import LeastWorkPolicy
from plimsoll.serving.simulate.run import reach_s, simulate_plan
from plimsoll.spec.fleet import parse_fleet
from plimsoll.spec.model_files import load_model
from plimsoll.spec.plan import DisaggRouter, Pool, ServingPlan
from plimsoll.spec.record import STATUS
from plimsoll.spec.workload import Workload

CLOCK = LinearClock(step_base_s=0.01, token_s=2e-5, decode_s=1e-4, context_s=1e-8)
FLEET = "1xH100-SXM"


def workload(arrival_s, prompt=500, output=20, **columns) -> Workload:
    n = len(arrival_s)
    return Workload(
        name="w",
        arrival_s=np.asarray(arrival_s, float),
        prompt_tokens=np.full(n, prompt),
        output_tokens=np.full(n, output),
        **columns,
    )


def run(work: Workload, late=None, **options):
    spec = InstanceSpec(clock=CLOCK, policy=ChunkedPrefillPolicy(), num_blocks=4000)
    executor = SimulatedExecutor(
        [spec], LeastWorkPolicy(), reach_s=late, check_books=True, **options
    )
    return executor.run(work)


def test_a_lone_request_is_later_by_that_time_and_as_fast():
    late = run(workload([1.0]), lambda tokens: 0.04 + 1e-5 * tokens).requests
    plain = run(workload([1.0])).requests
    assert late.arrival_s[0] == 1.0
    assert late.scheduled_s[0] == pytest.approx(1.045)
    assert late.ttft_s[0] - plain.ttft_s[0] == pytest.approx(0.045)
    assert late.tpot_s[0] == pytest.approx(plain.tpot_s[0])


def test_none_and_no_time_are_the_same_run_but_for_the_order_of_arrival():
    work = workload(np.cumsum(np.random.default_rng(3).exponential(0.05, 300)))
    plain, zero = run(work).requests, run(work, lambda _: 0.0).requests
    assert np.array_equal(plain.finished_s, zero.finished_s)


def test_every_request_is_served_once_it_has_reached_the_scheduler():
    rng = np.random.default_rng(5)
    work = workload(np.cumsum(rng.exponential(0.02, 400)))
    for fast_forward in (True, False):
        r = run(work, lambda _: 0.1, fast_forward=fast_forward).requests
        assert r.ok.all()
        assert np.all(r.scheduled_s - r.arrival_s >= 0.1 - 1e-12)


def test_a_client_that_gives_up_on_the_way_never_reaches_the_router():
    work = workload([0.0, 0.0], cancel_after_s=np.array([0.02, np.inf]))
    record = run(work, lambda _: 0.05)
    assert STATUS[record.requests.status[0]] == "cancelled"
    assert record.requests.output_tokens[0] == 0 and record.requests.instance[0] == -1
    assert record.requests.ok[1]


def test_a_closed_loop_counts_those_on_the_way():
    work = workload(np.zeros(200), num_in_flight=8)
    late, plain = run(work, lambda _: 0.05).requests, run(work).requests
    assert late.ok.all()
    stay_s = np.mean(late.e2e_s)
    rate_per_s = len(work) / np.max(late.finished_s)
    assert rate_per_s * stay_s == pytest.approx(8, rel=0.05)
    assert np.mean(late.tpot_s) < np.mean(plain.tpot_s)


def plan(model: str = "llama-3.1-8b", **changes) -> ServingPlan:
    pools = (Pool(device="H100-SXM"),)
    return ServingPlan(**{"model": model, "fleet": FLEET, "pools": pools} | changes)


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
def test_a_plans_requests_take_what_its_engine_spends_on_them(engine):
    made, model = plan(engine=engine), load_model("llama-3.1-8b")
    costs = engine_profile(engine).request
    record = simulate_plan(made, model, parse_fleet(FLEET), workload([0.0], prompt=1000))
    passed_s = costs.fixed_s + 1000 * costs.prompt_token_s
    assert passed_s > 0
    assert record.requests.scheduled_s[0] == pytest.approx(passed_s)


def test_experts_and_handing_over_cost_more():
    costs = engine_profile("vllm").request
    dense, experts = load_model("llama-3.1-8b"), load_model("mixtral-8x7b")
    fleet = parse_fleet(FLEET)
    plain = reach_s(plan(), dense, fleet)
    more = reach_s(plan("mixtral-8x7b"), experts, fleet)
    apart = reach_s(plan(router=DisaggRouter()), dense, fleet)
    assert more(100) - plain(100) == pytest.approx(costs.expert_s)
    assert apart(100) - plain(100) == pytest.approx(costs.handover_s)
    assert plain(1100) - plain(100) == pytest.approx(1000 * costs.prompt_token_s)
