"""Plans with streams on the simulated clock: KV of all streams, prefix hits, refusals."""

from dataclasses import replace

import numpy as np
import pytest

from plimsoll.api.run_folder import WorkloadSpec
from plimsoll.api.simulate import simulate
from plimsoll.cost.kv import kv_bytes
from plimsoll.serving.conflicts import check_policies
from plimsoll.serving.simulate.run import build, simulate_plan
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import SpecError, UnsupportedError
from plimsoll.spec.fleet import parse_fleet
from plimsoll.spec.model_files import load_model
from plimsoll.spec.overlap import NanoPiece, OverlapPlan
from plimsoll.spec.plan import (
    DisaggRouter,
    FairSwap,
    FreenessRouter,
    KvPoolRouter,
    Nano,
    Parallel,
    Pool,
    PrefillFirst,
    ServingPlan,
)
from plimsoll.spec.planned_model import model_of_plan
from tests.serving.clusters import POLICIES, STREAMS, assert_same, executor, poisson
from tests.serving.test_conservation import check_record

FLEET = parse_fleet("2xA100-80G")
POOL = Pool(device="A100-80G")
PLAN = ServingPlan(model="qwen2.5-7b", fleet="2xA100-80G", pools=(POOL,))


def plan_of(streams, **changes):
    return replace(PLAN, streams=streams, **changes)


def built(plan):
    return build(plan, model_of_plan(plan), FLEET)


def run(plan, workload):
    return simulate_plan(plan, model_of_plan(plan), FLEET, workload)


def test_blocks_hold_their_tokens_in_all_streams_and_each_request_48_more():
    for streams in (1, 2, 4, 8):
        plan = plan_of(streams)
        (spec,), _, _, token_bytes = built(plan)
        per_token = kv_bytes(load_model(PLAN.model), 1, DType.BF16)
        assert token_bytes == streams * per_token
        assert spec.block_bytes == 16 * streams * per_token
        assert spec.blocks_per_request == (3 if streams > 1 else 0)
        if streams > 1:
            taken = (-(-1000 // 16) + spec.blocks_per_request) * spec.block_bytes
            assert taken == kv_bytes(model_of_plan(plan), 63 * 16, DType.BF16)


def test_a_run_with_streams_holds_p_times_the_kv():
    workload = poisson(40, rate=2, seed=5)
    records = {p: run(plan_of(p), workload) for p in (1, 4)}
    for record in records.values():
        assert (record.requests.status == 0).all()
        check_record(record, workload)
    one, four = (records[p].meta["kv_token_bytes"] for p in (1, 4))
    assert four == 4 * one
    steps = records[4].steps
    alone = np.flatnonzero((steps.num_decodes == 1) & (steps.prefill_tokens == 0))
    alone = alone[steps.used_blocks[alone] > 0]  # the last step of a request leaves none
    assert len(alone) > 5
    assert (steps.used_blocks[alone] >= 3 + -(-steps.decode_context[alone] // 16)).all()
    assert records[4].requests.e2e_s.sum() > records[1].requests.e2e_s.sum()


@pytest.mark.parametrize("name", ["chunked", "chunked-swap", "prefill-first", "nano"])
def test_fast_forward_changes_nothing_with_streams(name):
    workload = poisson(60, rate=30, seed=2)
    options = {"num_blocks": 120, "clock": STREAMS, "blocks_per_request": 3}
    fast, slow = (
        executor(POLICIES[name], fast_forward=forward, check_books=True, **options).run(workload)
        for forward in (True, False)
    )
    assert_same(fast, slow)


def test_prefix_hits_save_prompt_tokens_in_all_streams():
    n = 30
    workload = poisson(n, rate=1, seed=1).with_changes(
        prompt_tokens=np.full(n, 600),
        prefix_keys=np.tile(np.arange(2, dtype=np.int64), n),
        prefix_start=np.arange(0, 2 * n + 1, 2),
        prefix_block_tokens=256,
    )
    cached = run(plan_of(4), workload)
    plain = run(plan_of(4, pools=(replace(POOL, prefix_caching=False),)), workload)
    assert cached.requests.cached_tokens[1:].tolist() == [512] * (n - 1)
    assert cached.steps.prefill_tokens.sum() == 600 * n - 512 * (n - 1)
    assert cached.requests.ttft_s[5:].mean() < 0.6 * plain.requests.ttft_s[5:].mean()


@pytest.mark.parametrize(
    "changes",
    [
        {"pools": (replace(POOL, parallel=Parallel(tp=2)),)},
        {"pools": (replace(POOL, parallel=Parallel(pp=2), policy=PrefillFirst()),)},
        {"pools": (replace(POOL, replicas=2),), "router": FreenessRouter()},
        {
            "pools": (replace(POOL, role="prefill"), replace(POOL, role="decode")),
            "router": DisaggRouter(),
        },
        {"kv_dtype": DType.FP8, "weight_dtype": DType.FP8, "fleet": "2xH100-SXM"},
    ],
    ids=["tp", "pp", "freeness", "disaggregated", "fp8"],
)
def test_every_way_to_cut_and_route_serves_streams(changes):
    if "fleet" in changes:
        changes = {**changes, "pools": (replace(POOL, device="H100-SXM"),)}
    plan = plan_of(4, **changes)
    workload = poisson(40, rate=4, seed=3)
    record = simulate_plan(plan, model_of_plan(plan), parse_fleet(plan.fleet), workload)
    assert (record.requests.status == 0).all()
    assert np.array_equal(record.requests.output_tokens, workload.output_tokens)


REFUSED = {
    "engine": ({"engine": "plimsoll"}, "engine plimsoll runs every token once, not with 4 streams"),
    "loans": ({"router": KvPoolRouter()}, "do not lend KV memory with 4 streams"),
    "swaps": (
        {"pools": (replace(POOL, policy=FairSwap(), prefix_caching=False),)},
        "does not copy prefixes with 4 streams",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_know_streams_says_so(case):
    changes, why = REFUSED[case]
    plan = plan_of(4, **changes)
    with pytest.raises(SpecError, match=why):
        check_policies(plan)
    assert check_policies(plan_of(4)) is None


def test_overlapped_layers_are_refused_and_a_mixed_batch_is_not():
    nano = replace(POOL, policy=Nano(), max_num_seqs=64)
    assert run(plan_of(4, pools=(nano,)), poisson(20, rate=2)).requests.ok.all()
    piece = NanoPiece(operator="kqv", first_token=0, end_token=256)
    overlap = OverlapPlan(
        batch_tokens=256, layers=28, pieces=(piece,), iteration_s=1.0, sequential_s=1.0
    )
    overlapped = replace(nano, policy=Nano(overlap=overlap))
    with pytest.raises(SpecError, match="layers are not overlapped with 4 streams"):
        check_policies(plan_of(4, pools=(overlapped,)))


def test_a_plan_and_another_model_are_told_apart():
    with pytest.raises(SpecError, match="streams is 4.*was given with 1"):
        simulate_plan(plan_of(4), load_model(PLAN.model), FLEET, poisson(2, rate=1))
    with pytest.raises(UnsupportedError, match="a layer here has a window"):
        model_of_plan(replace(plan_of(4), model="gemma-2-9b"))


def test_a_model_with_streams_of_its_own_needs_none_in_the_plan():
    own = model_of_plan(plan_of(4))
    record = simulate_plan(plan_of(1), own, FLEET, poisson(20, rate=2))
    assert record.requests.ok.all() and record.meta["model"] == "qwen2.5-7b, 4 streams"
    with pytest.raises(SpecError, match="do not lend KV memory with 4 streams"):
        simulate_plan(plan_of(1, router=KvPoolRouter()), own, FLEET, poisson(2, rate=2))


def test_the_report_states_streams():
    answer = simulate(plan_of(4), WorkloadSpec(text="256/64", rate_per_s=1.0, num_requests=20))
    report = answer.report()
    assert "4 streams" in report.subtitle
    assert any("weights trained for 4 streams" in line for line in report.assumptions)
    assert answer.data()["run"]["plan"]["streams"] == 4
