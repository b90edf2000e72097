"""The clock of overlapped layers: never slower, linear where it says so, exact at its knots."""

import functools
from dataclasses import replace

import pytest

from plimsoll.cost.overlap_clock import OverlapClock
from plimsoll.cost.overlap_curves import overlap_curves
from plimsoll.cost.overlap_layer import ModelLayer
from plimsoll.cost.overlap_plan import hand_made_plan, iteration_s
from plimsoll.cost.step import ReplicaClock, replica_clock
from plimsoll.serving.simulate.run import build
from plimsoll.spec.errors import SpecError, UnsupportedError
from plimsoll.spec.fleet import load_device, parse_fleet
from plimsoll.spec.io import from_data, plain
from plimsoll.spec.model_files import load_model
from plimsoll.spec.overlap import OverlapPlan
from plimsoll.spec.plan import Nano, Parallel, Pool, ServingPlan

BATCH = 1024
CHUNKS, DECODES, CONTEXT = [(BATCH - 600, 0)], 600, 600 * 800


@functools.cache
def base() -> ReplicaClock:
    return replica_clock(load_model("llama-2-70b"), load_device("A100-SXM-80"), Parallel(tp=8))


@functools.cache
def plan() -> OverlapPlan:
    """Two halves by hand; the second half of a layer overlaps the first of the next."""
    layer = ModelLayer(base().setting)
    operators = layer.operators(BATCH, *layer.attention_s(CHUNKS, DECODES, CONTEXT))
    return hand_made_plan(
        operators,
        layer.dependencies,
        overlap_curves(),
        cuts={op.name: (BATCH // 2,) for op in operators},
        shares={op.name: {"memory": 0.4, "network": 0.2}.get(op.lane, 1.0) for op in operators},
        batch_tokens=BATCH,
        layers=layer.layers,
    )


def clock() -> OverlapClock:
    return OverlapClock(base(), ModelLayer(base().setting), plan(), overlap_curves())


def test_a_step_takes_what_the_plan_takes_at_its_own_counts() -> None:
    layer = ModelLayer(base().setting)
    operators = layer.operators(BATCH, *layer.attention_s(CHUNKS, DECODES, CONTEXT))
    uncut_s = layer.layers * sum(op.best_s for op in operators)
    overlapped_s = iteration_s(
        plan().pieces, operators, layer.dependencies, overlap_curves(), layers=layer.layers
    )
    saved_s = base().step_s(CHUNKS, DECODES, CONTEXT) - clock().step_s(CHUNKS, DECODES, CONTEXT)
    assert saved_s > 0.02 * uncut_s
    assert saved_s == pytest.approx(uncut_s - overlapped_s, rel=0.03)


def test_operators_of_a_layer_are_the_cost_models_step() -> None:
    layer = ModelLayer(base().setting)
    operators = layer.operators(BATCH, *layer.attention_s(CHUNKS, DECODES, CONTEXT))
    parts = base().step_parts(CHUNKS, DECODES, CONTEXT)
    outside = {"embedding", "lm-head", "host", "prompts-in-engine"}
    inside_s = sum(time_s for name, time_s in parts.items() if name not in outside)
    assert layer.layers * sum(op.best_s for op in operators) == pytest.approx(inside_s, rel=1e-3)
    assert sum(op.fixed_s > 0 for op in operators) >= 5, "cutting costs"


def test_decode_steps_are_on_their_lines_and_never_slower() -> None:
    overlapped = clock()
    for num in (1, 100, 300, 900):
        context = 37 * num
        while context < 3000 * num:
            line_s, slope, limit = overlapped.decode_line(num, context)
            assert limit >= context
            for at in {context, (context + limit) // 2, limit} - {2**62, 2**61 + context // 2}:
                if at <= 10**7:
                    found = overlapped.step_s((), num, at)
                    assert found == pytest.approx(line_s + slope * at, rel=1e-9)
            whole_s = base().step_s((), num, context)
            assert 0 < overlapped.step_s((), num, context) <= whole_s * (1 + 1e-9)
            context = int(context * 1.7)
    assert overlapped.step_s((), 100, 5000) == base().step_s((), 100, 5000), "too small to cut"


def test_a_plan_for_other_operators_is_refused() -> None:
    whole = plan()
    less = replace(whole, pieces=tuple(p for p in whole.pieces if p.operator != "o"))
    with pytest.raises(SpecError, match=r"operator o: its pieces end at token 0|no piece"):
        OverlapClock(base(), ModelLayer(base().setting), less, overlap_curves())
    alone = replica_clock(load_model("llama-3-8b"), load_device("A100-SXM-80"), Parallel())
    with pytest.raises(SpecError, match="operator reduce attention has no profile"):
        OverlapClock(alone, ModelLayer(alone.setting), whole, overlap_curves())
    pipelined = replica_clock(
        load_model("llama-2-70b"), load_device("A100-SXM-80"), Parallel(tp=4, pp=2)
    )
    with pytest.raises(UnsupportedError, match="pp = attention_dp = 1"):
        ModelLayer(pipelined.setting)


def test_a_plan_file_with_overlap_round_trips_and_is_faster() -> None:
    pool = Pool(
        device="A100-SXM-80",
        parallel=Parallel(tp=8),
        policy=Nano(token_budget=BATCH, overlap=plan()),
    )
    serving = ServingPlan(model="llama-2-70b", fleet="8xA100-SXM-80", pools=(pool,))
    assert from_data(ServingPlan, plain(serving), where="plan") == serving
    sequential = replace(serving, pools=(replace(pool, policy=Nano(token_budget=BATCH)),))
    steps = []
    for one in (serving, sequential):
        (spec,), *_ = build(one, load_model(one.model), parse_fleet(one.fleet))
        steps.append(spec.clock.step_s(CHUNKS, DECODES, CONTEXT))
    assert steps[0] < 0.98 * steps[1]
