"""Plans with streams: parameters, memory and KV to the byte, and steps against the roofline."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.cost.cut import stage_weight_bytes
from plimsoll.cost.kv import kv_bytes, kv_bytes_per_token
from plimsoll.cost.memory import footprint, kv_capacity
from plimsoll.cost.parallel import parscale_cost, scaled_shape, stream_shape
from plimsoll.cost.peak import peak
from plimsoll.cost.step import ReplicaClock, replica_clock
from plimsoll.cost.step_demand import step_demand
from plimsoll.cost.stream_clock import StreamClock
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import SpecError, UnsupportedError
from plimsoll.spec.fleet import load_device
from plimsoll.spec.io import from_data, plain
from plimsoll.spec.model import ModelSpec
from plimsoll.spec.model_files import load_model
from plimsoll.spec.parameters import active_parameters, total_parameters, weight_bytes
from plimsoll.spec.plan import Parallel, Pool, ServingPlan
from plimsoll.spec.planned_model import model_of_plan
from plimsoll.spec.streams import with_streams

A100 = load_device("A100-SXM-80")
QWEN = load_model("qwen2.5-7b")
WHOLE = Parallel()


def clock_of(streams, parallel=WHOLE, model=QWEN):
    return replica_clock(with_streams(model, streams), A100, parallel)


@pytest.mark.parametrize("streams", [1, 2, 4, 8])
def test_what_streams_add_is_what_the_paper_counts(streams):
    model = with_streams(QWEN, streams)
    shape = stream_shape(QWEN)
    added = total_parameters(model) - total_parameters(QWEN)
    assert added == shape.parameters(streams) - shape.parameters()
    assert weight_bytes(model) - weight_bytes(QWEN) == 2 * added
    layers = active_parameters(QWEN, head=False) - QWEN.hidden_size
    assert active_parameters(model, head=False) - QWEN.hidden_size == pytest.approx(
        streams * layers + shape.weighing_parameters(streams)
    )


def test_one_stream_is_the_plain_model_and_clock():
    assert with_streams(QWEN, 1) is QWEN
    clock = clock_of(1)
    assert type(clock) is ReplicaClock
    plan = ServingPlan(model="qwen2.5-7b", fleet="1xA100-SXM-80", pools=(Pool(device="A100-80G"),))
    assert plan.streams == 1 and model_of_plan(plan) == QWEN
    four = model_of_plan(dataclasses.replace(plan, streams=4))
    assert four.streams == 4 and "4 streams" in four.name
    assert from_data(ModelSpec, plain(four), where="again") == four


@settings(max_examples=60, deadline=None)
@given(
    streams=st.integers(2, 16),
    length=st.integers(1, 20_000),
    tp=st.sampled_from([1, 2, 4]),
    block_tokens=st.sampled_from([1, 2, 8, 16, 48]),
)
def test_a_sequence_holds_p_times_its_length_and_48(streams, length, tp, block_tokens):
    model = with_streams(QWEN, streams)
    token_bytes = kv_bytes_per_token(QWEN, DType.BF16, tp)
    held = kv_bytes(model, length, DType.BF16, tp)
    assert held == streams * (length + 48) * token_bytes
    assert kv_bytes(model, 0, DType.BF16, tp) == 0
    capacity = kv_capacity(model, A100, Parallel(tp=tp), block_tokens=block_tokens)
    block_bytes = streams * block_tokens * token_bytes
    whole = -(-length // block_tokens) * block_tokens
    assert capacity.blocks_for(length) * block_bytes == streams * (whole + 48) * token_bytes
    room = footprint(model, A100, Parallel(tp=tp)).kv_budget_bytes
    assert capacity.num_blocks == int(room // block_bytes)


@settings(max_examples=40, deadline=None)
@given(
    streams=st.integers(1, 15),
    more=st.integers(1, 16),
    tp=st.sampled_from([1, 2, 4]),
    tokens=st.integers(1, 4000),
)
def test_more_streams_take_more_memory_and_time(streams, more, tp, tokens):
    few, many = (with_streams(QWEN, p) for p in (streams, streams + more))
    parallel = Parallel(tp=tp)
    parts = [footprint(m, A100, parallel) for m in (few, many)]
    assert parts[0].weights_bytes < parts[1].weights_bytes
    assert parts[0].activations_bytes <= parts[1].activations_bytes  # the sampler may hold more
    assert kv_bytes(few, tokens, DType.BF16, tp) < kv_bytes(many, tokens, DType.BF16, tp)
    held = [kv_capacity(m, A100, parallel).max_concurrency(tokens) for m in (few, many)]
    assert held[0] >= held[1]


def test_time_of_steps_rises_with_streams():
    clocks = [clock_of(p) for p in (1, 2, 4, 8)]
    for chunks, decodes, context in (((), 1, 500), ((), 64, 64_000), (((700, 0), (50, 999)), 5, 9)):
        times = [clock.step_s(chunks, decodes, context) for clock in clocks]
        assert times == sorted(times) and times[0] < times[-1]


@settings(max_examples=40, deadline=None)
@given(
    streams=st.sampled_from([2, 4, 8]),
    chunks=st.lists(st.tuples(st.integers(1, 2000), st.integers(0, 5000)), max_size=3),
    decodes=st.integers(0, 60),
    length=st.integers(1, 4000),
)
def test_tables_agree_with_the_sum_over_operators(streams, chunks, decodes, length):
    """The exact sum and the tables that simulation reads, within what tables round."""
    clock = CLOCKS[streams]
    if not chunks and not decodes:
        return
    exact = sum(op.time_s for op in clock.step_ops(chunks, decodes, decodes * length))
    assert clock.step_s(chunks, decodes, decodes * length) == pytest.approx(exact, rel=0.02)


CLOCKS = {p: clock_of(p) for p in (2, 4, 8)}


@pytest.mark.parametrize("decodes", [1, 7, 64])
def test_a_run_of_decode_steps_keeps_its_closed_form(decodes):
    clock = CLOCKS[4]
    for context in (decodes, 100 * decodes, 5000 * decodes):
        base, slope, limit = clock.decode_line(decodes, context)
        assert limit >= context
        for at in {context, min(limit, context + 40 * decodes)}:
            assert clock.step_s((), decodes, at) == pytest.approx(base + slope * at, rel=1e-12)


def roofline_s(clock, chunks, decodes, context):
    """The step's operators at 0.7 of arithmetic and 0.9 of bandwidth: no launches, no light
    operators between the matrices."""
    heavy = {"qkv", "attention-out", "ffn", "weigh-streams", "lm-head"}
    heavy |= {"attention-decode", "attention-prefill"}
    flops_per_s = 0.7 * A100.flops_per_s(DType.BF16)
    bytes_per_s = 0.9 * A100.memory_bytes_per_s
    return sum(
        max(op.flops / flops_per_s, op.bytes / bytes_per_s)
        for op in clock.step_ops(chunks, decodes, context)
        if op.name in heavy
    )


@pytest.mark.parametrize("streams", [1, 2, 4, 8])
def test_without_overheads_a_step_is_the_roofline_of_the_paper(streams):
    """Batch 1: the same FLOPs and bytes, within the activations that operators also move."""
    clock = clock_of(streams)
    paper = parscale_cost(
        stream_shape(QWEN), A100, streams=streams, batch=1, prompt_tokens=999, output_tokens=1
    )
    assert roofline_s(clock, (), 1, 1000) == pytest.approx(paper.decode_s, rel=0.01)
    assert roofline_s(clock, ((999, 0),), 0, 0) == pytest.approx(paper.prefill_s, rel=0.03)
    real = clock.step_s((), 1, 1000)
    assert 1.2 < real / paper.decode_s < 1.7, "launches, lower bandwidth, and the engine's own time"


def test_streams_are_nearly_free_at_batch_1_and_dear_at_64():
    one, eight = clock_of(1), clock_of(8)
    assert eight.step_s((), 1, 1000) < 1.05 * one.step_s((), 1, 1000)
    assert eight.step_s((), 64, 64_000) > 3 * one.step_s((), 64, 64_000)


def test_the_head_runs_once_and_weighing_is_charged():
    parts = {p: clock_of(p).step_parts((), 16, 16_000) for p in (1, 8)}
    assert parts[8]["lm-head"] == parts[1]["lm-head"]
    assert parts[8]["ffn"] > parts[1]["ffn"]
    assert parts[8]["weigh-streams"] > 0 and "weigh-streams" not in parts[1]


@pytest.mark.parametrize("parallel", [Parallel(tp=2), Parallel(pp=2), Parallel(tp=4)])
def test_prefixes_are_cut_as_kv_heads_and_stages(parallel):
    model = with_streams(QWEN, 4)
    weighing = 2 * stream_shape(QWEN).weighing_parameters(4)
    prefixes = 2 * stream_shape(QWEN).prefix_parameters(4)
    plain_bytes, held = (stage_weight_bytes(m, parallel) for m in (QWEN, model))
    added = [b - a for a, b in zip(plain_bytes, held, strict=True)]
    each = prefixes / parallel.tp / parallel.pp
    expected = [each] * (parallel.pp - 1) + [each + weighing]
    assert added == pytest.approx(expected)
    times = [clock_of(p, parallel).step_s((), 8, 8000) for p in (1, 4)]
    assert times[0] < times[1]


def test_moving_a_sequence_moves_all_its_streams():
    one, four = clock_of(1), clock_of(4)
    assert four.swap_s(1000) > 4 * one.swap_s(1000) * 0.99
    assert four.transfer_s(1000, four) > 3 * one.transfer_s(1000, one)


def test_a_step_demands_p_times_the_arithmetic_and_the_same_weights():
    one, four = (step_demand(with_streams(QWEN, p), A100) for p in (1, 4))
    assert four.token_s == pytest.approx(4 * one.token_s, rel=1e-6)
    assert four.weight_bytes == pytest.approx(one.weight_bytes, rel=0.01)
    assert four.attention[0].token_bytes == 4 * one.attention[0].token_bytes
    assert four.prefix_tokens == 48 and one.prefix_tokens == 0


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("gemma-2-9b", "a window"),
        ("deepseek-v3", "latent attention"),
        ("gpt-oss-20b", "a window|sinks"),
        ("nemotron-h-56b", "states of fixed size"),
    ],
)
def test_models_that_cannot_have_streams_say_why(name, why):
    model = load_model(name)
    with pytest.raises(UnsupportedError, match=why):
        with_streams(model, 4)
    forced = dataclasses.replace(model, streams=4)
    with pytest.raises(UnsupportedError, match=why):
        footprint(forced, A100, WHOLE)
    with pytest.raises(UnsupportedError, match=why):
        replica_clock(forced, A100, WHOLE)


def test_numbers_that_cannot_be_and_answers_without_streams():
    with pytest.raises(SpecError, match="streams is 0"):
        with_streams(QWEN, 0)
    four = with_streams(QWEN, 4)
    assert with_streams(four, 4) is four
    with pytest.raises(SpecError, match="streams is 2.*has 4 of its own"):
        with_streams(four, 2)
    with pytest.raises(UnsupportedError, match="analytical peak counts one stream.*has 4"):
        peak(four, A100, 4096)


def test_a_scaled_shape_has_the_parameters_asked_for():
    shape = stream_shape(QWEN)
    for size in (1e8, shape.parameters(), 3e10):
        wider = scaled_shape(shape, size)
        assert wider.parameters() == pytest.approx(size, rel=1e-9)
        assert wider.num_layers == shape.num_layers
        assert wider.ffn / wider.hidden == pytest.approx(shape.ffn / shape.hidden)
    with pytest.raises(SpecError, match="0 parameters"):
        scaled_shape(shape, 0)


def test_a_query_wider_than_the_model_is_counted():
    model = load_model("qwen3-8b")
    wide = load_model("qwen3-32b")
    for one in (model, wide):
        mixer = one.layers[0].layer.mixer
        shape = stream_shape(one)
        assert shape.queries == mixer.num_heads * mixer.head_dim
        outer = 2 * one.vocab_size * one.hidden_size
        # the biases of q, k and v that the shape counts, and the norms of q and k that it does not
        assert shape.parameters() == pytest.approx(total_parameters(one) - outer, rel=1e-4)
    assert stream_shape(wide).queries > wide.hidden_size


def test_a_clock_of_streams_is_one_clock():
    assert isinstance(CLOCKS[2], StreamClock) and CLOCKS[2].num_stages == 1
