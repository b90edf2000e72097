"""Engine factors scale the parts of a step exactly; speculative steps; prompts in the engine."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.cost.engine_factors import PARTS, engine_program, part_of
from plimsoll.cost.host import StepFactors, common_costs
from plimsoll.cost.operators import Setting, step_program
from plimsoll.cost.step import ReplicaClock, replica_clock
from plimsoll.spec.hardware import Device
from plimsoll.spec.model import ModelSpec
from plimsoll.spec.plan import Parallel
from tests.cost.machines import H100, MODELS

PLAIN = StepFactors()
RANKED = replica_clock(MODELS["latent-moe"], H100, Parallel(attention_dp=8, ep=8), engine="sglang")
CLOCKS = {
    "dense-tp8-vllm": replica_clock(MODELS["dense"], H100, Parallel(tp=8)),
    "dense-tp2-pp2-trtllm": replica_clock(
        MODELS["dense"], H100, Parallel(tp=2, pp=2), engine="trtllm"
    ),
    "latent-dp8-sglang": RANKED,
    "mixed-tp2-vllm-0.6": replica_clock(MODELS["mixed"], H100, Parallel(tp=2), engine="vllm-0.6"),
}
STEP = (((300, 0), (200, 1000)), 40, 40 * 700)
each_clock = pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS.keys())


def with_factors(setting: Setting, factors: StepFactors, prompts: float = 1.0) -> ReplicaClock:
    """A clock of the plain operators under ``factors``, and ``prompts`` in the engine."""
    engine = replace(setting.engine, factors=replace(PLAIN, prompts=prompts))
    plain = setting._replace(engine=engine)
    return ReplicaClock(plain, engine_program(step_program(plain), plain, factors))


def parts_by_name(clock: ReplicaClock) -> dict[str, str]:
    program = step_program(clock.setting)
    ops = (*program.tokens, *program.decodes, *program.prefills)
    return {op.name: part_of(op) for op in ops}


@each_clock
def test_every_operator_has_a_part(clock: ReplicaClock) -> None:
    found = parts_by_name(clock)
    assert set(found.values()) <= set(PARTS)
    assert {"dense", "attention", "light"} <= set(found.values())
    assert set(PARTS) < {field for field in StepFactors.__dataclass_fields__}


def test_operators_lie_where_they_are_meant() -> None:
    found = parts_by_name(RANKED) | parts_by_name(CLOCKS["dense-tp2-pp2-trtllm"])
    wanted = {
        "qkv": "dense",
        "lm-head": "dense",
        "router": "dense",
        "shared-experts": "dense",
        "experts": "experts",
        "attention-decode": "attention",
        "attention-prefill": "attention",
        "all-reduce": "all_reduce",
        "pipeline-send": "all_reduce",
        "expert-exchange": "exchange",
        "norms": "light",
        "embedding": "light",
    }
    assert {name: found[name] for name in wanted} == wanted
    assert parts_by_name(CLOCKS["mixed-tp2-vllm-0.6"])["state-decode"] == "attention"


@each_clock
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_a_factor_scales_its_part_and_nothing_else(
    clock: ReplicaClock, part: str, factor: float
) -> None:
    names = parts_by_name(clock)
    plain = with_factors(clock.setting, PLAIN).step_parts(*STEP)
    scaled = with_factors(clock.setting, replace(PLAIN, **{part: factor})).step_parts(*STEP)
    assert plain.keys() == scaled.keys()
    for name, seconds in plain.items():
        if name == "host" and clock.setting.engine.prompt_launch_s:
            continue  # fills a step up to its least time
        times = factor if names.get(name) == part else 1.0
        assert scaled[name] == pytest.approx(times * seconds, rel=1e-9), name


@each_clock
def test_plain_factors_change_nothing(clock: ReplicaClock) -> None:
    plain = clock.setting._replace(engine=replace(clock.setting.engine, factors=PLAIN))
    program = step_program(plain)
    assert engine_program(program, plain) is program


@each_clock
def test_a_clock_has_the_factors_of_its_engine(clock: ReplicaClock) -> None:
    engine = clock.setting.engine
    by_hand = with_factors(clock.setting, engine.factors, engine.factors.prompts)
    assert clock.step_s(*STEP) == pytest.approx(by_hand.step_s(*STEP), rel=1e-12)
    assert clock.step_s((), 64, 64000) == pytest.approx(by_hand.step_s((), 64, 64000), rel=1e-12)


def test_groups_over_several_nodes_scale_their_collectives_once_more() -> None:
    setting = RANKED.setting
    four = setting._replace(devices_per_node=4)
    one, two = (with_factors(s, PLAIN).step_parts(*STEP) for s in (setting, four))
    raw = ReplicaClock(
        four._replace(engine=replace(four.engine, factors=PLAIN)), step_program(four)
    ).step_parts(*STEP)
    times = common_costs().cross_node
    assert times > 1.0
    assert two["expert-exchange"] == pytest.approx(times * raw["expert-exchange"], rel=1e-9)
    for name in one.keys() - {"expert-exchange"}:
        assert two[name] == pytest.approx(one[name], rel=1e-9)


def test_stages_that_each_fit_a_node_do_not_span_nodes() -> None:
    """Pipelines over two nodes of 8: all-reduce stays inside; 16 devices in a stage do not."""
    inside = replica_clock(MODELS["dense"], H100, Parallel(tp=8, pp=2)).setting
    program = step_program(inside)
    scaled = ReplicaClock(inside, engine_program(program, inside, PLAIN)).step_parts(*STEP)
    raw = ReplicaClock(inside, program).step_parts(*STEP)
    assert scaled["all-reduce"] == pytest.approx(raw["all-reduce"], rel=1e-12)


@each_clock
@pytest.mark.parametrize("step", [STEP, (((700, 0),), 0, 0), (((64, 3000),) * 4, 200, 90000)])
def test_parts_sum_to_the_step(
    clock: ReplicaClock, step: tuple[tuple[tuple[int, int], ...], int, int]
) -> None:
    """Below 1,024 tokens the tables are exact; lines between contexts are within a percent."""
    rel = 1e-9 if not step[1] else 0.01
    total = sum(clock.step_parts(*step).values())
    assert clock.step_s(*step) == pytest.approx(total, rel=rel)


@each_clock
@pytest.mark.parametrize("prompts", [1.0, 1.2, 2.0])
def test_the_factor_for_prompts_is_for_their_own_operators(
    clock: ReplicaClock, prompts: float
) -> None:
    """As much more beside decodes as alone; steps of decodes alone stay as they are."""
    setting = clock.setting._replace(engine=replace(clock.setting.engine, prompt_launch_s=0.0))
    chunks, decodes, context = STEP
    plain, more = (with_factors(setting, PLAIN, p) for p in (1.0, prompts))
    own_s = plain.step_s(chunks, 0, 0) - plain.step_parts(chunks, 0, 0)["host"]
    assert own_s > 0
    for step in (STEP, (chunks, 0, 0), (chunks, 400, 400_000)):
        gained_s = more.step_s(*step) - plain.step_s(*step)
        assert gained_s == pytest.approx((prompts - 1.0) * own_s, rel=1e-6, abs=1e-12)
        named = more.step_parts(*step).get("prompts-in-engine", 0.0)
        assert named == pytest.approx(gained_s, rel=1e-6, abs=1e-12)
    assert more.step_s((), decodes, context) == plain.step_s((), decodes, context)


@each_clock
@settings(max_examples=50)
@given(num_decodes=st.integers(1, 700), length=st.integers(1, 60000))
def test_speculative_steps(clock: ReplicaClock, num_decodes: int, length: int) -> None:
    """More drafts never take less; a step that checks d + 1 is less than d + 1 steps."""
    context = num_decodes * length
    plain_s = clock.step_s((), num_decodes, context)
    assert clock.verify_step_s(num_decodes, context, 0) == plain_s
    before = plain_s
    for drafts in (1, 2, 3, 5, 8):
        found = clock.verify_step_s(num_decodes, context, drafts)
        assert found >= before * (1 - 1e-12)
        assert plain_s < found < (1 + drafts) * plain_s
        before = found


def test_a_speculative_step_without_sequences_is_a_plain_one() -> None:
    clock = CLOCKS["dense-tp8-vllm"]
    assert clock.verify_step_s(0, 0, 3) == clock.step_s((), 0, 0) == clock.setting.engine.step_s


def test_a_speculative_step_reads_the_cache_once() -> None:
    """Longer contexts add to it what they add to a plain step."""
    for clock in CLOCKS.values():
        short, far = 32 * 1000, 32 * 50000
        plain = clock.step_s((), 32, far) - clock.step_s((), 32, short)
        checked = clock.verify_step_s(32, far, 3) - clock.verify_step_s(32, short, 3)
        assert checked == pytest.approx(plain, rel=1e-9)


def _slower() -> Iterator[tuple[ModelSpec, Device, Parallel]]:
    yield MODELS["dense"], H100, Parallel(tp=4)
    yield MODELS["latent-moe"], H100, Parallel(attention_dp=8, ep=8)


@pytest.mark.parametrize("case", list(_slower()), ids=["dense", "latent"])
def test_all_factors_alike_scale_the_device_part_of_a_decode_step(
    case: tuple[ModelSpec, Device, Parallel],
) -> None:
    setting = replica_clock(*case).setting
    twice = StepFactors(**dict.fromkeys(PARTS, 2.0))
    one, two = (with_factors(setting, factors) for factors in (PLAIN, twice))
    host_s = one.step_parts((), 32, 32000)["host"]
    device_s = one.step_s((), 32, 32000) - host_s
    assert two.step_s((), 32, 32000) == pytest.approx(2 * device_s + host_s, rel=1e-9)
