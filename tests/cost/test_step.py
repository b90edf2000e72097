"""The replica clock: its tables against the operator sum, its laws, and its speed."""

import dataclasses
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.cost.cut import stage_weight_bytes
from plimsoll.cost.step import ReplicaClock, replica_clock
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import UnsupportedError
from plimsoll.spec.fleet import load_device
from plimsoll.spec.model import LayerFormats, LayerGroup, ModelSpec, Quantization
from plimsoll.spec.model_files import bundled_models, load_model
from plimsoll.spec.parameters import (
    active_parameters,
    parameter_counts,
    weight_bytes,
    with_weight_dtype,
)
from plimsoll.spec.plan import Parallel
from tests.cost.machines import H100, MODELS, dense, latent_moe

CLOCKS = {
    "dense-tp8": replica_clock(MODELS["dense"], H100, Parallel(tp=8)),
    "dense-tp2-pp2": replica_clock(MODELS["dense"], H100, Parallel(tp=2, pp=2)),
    "latent-dp8-ep8": replica_clock(
        MODELS["latent-moe"], H100, Parallel(attention_dp=8, ep=8), engine="sglang"
    ),
    "latent-tp8-a100": replica_clock(
        MODELS["latent-moe"], load_device("A100-SXM-80"), Parallel(tp=8), engine="trtllm"
    ),
    "mixed-tp2-mi300x": replica_clock(
        MODELS["mixed"], load_device("MI300X"), Parallel(tp=2), kv_dtype=DType.FP8
    ),
}
each_clock = pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS.keys())
chunks = st.lists(
    st.tuples(st.integers(1, 8192), st.integers(0, 60000)), min_size=0, max_size=4
).map(tuple)
batches = st.integers(1, 700)
lengths = st.integers(1, 120000)


def exact_s(clock: ReplicaClock, *step: object) -> float:
    return sum(clock.step_parts(*step).values())  # type: ignore[arg-type]


@each_clock
@settings(max_examples=60, deadline=None)
@given(chunks=chunks, num_decodes=batches, length=lengths)
def test_tables_follow_the_operator_sum(
    clock: ReplicaClock, chunks: tuple[tuple[int, int], ...], num_decodes: int, length: int
) -> None:
    context = num_decodes * length
    expected = exact_s(clock, chunks, num_decodes, context)
    # a multiply's last wave of tiles begins between two sizes of the table
    assert clock.step_s(chunks, num_decodes, context) == pytest.approx(expected, rel=0.03)


@each_clock
@settings(max_examples=60, deadline=None)
@given(num_decodes=batches, length=lengths, more=st.floats(0, 1))
def test_line_is_the_step_time_up_to_its_limit(
    clock: ReplicaClock, num_decodes: int, length: int, more: float
) -> None:
    context = num_decodes * length
    base, slope, limit = clock.decode_line(num_decodes, context)
    assert limit >= context
    for c in (context, context + int(more * (min(limit, 10 * context) - context)), limit):
        assert clock.step_s((), num_decodes, c) == pytest.approx(base + slope * c, rel=1e-12)


@each_clock
@settings(max_examples=60, deadline=None)
@given(num_decodes=batches, length=lengths)
def test_neighboring_pieces_meet(clock: ReplicaClock, num_decodes: int, length: int) -> None:
    base, slope, limit = clock.decode_line(num_decodes, num_decodes * length)
    if limit < 2**60:
        next_base, next_slope, _ = clock.decode_line(num_decodes, limit + 1)
        assert next_base + next_slope * limit == pytest.approx(base + slope * limit, rel=1e-9)


@each_clock
@settings(max_examples=80, deadline=None)
@given(chunks=chunks, num_decodes=batches, length=lengths, data=st.data())
def test_more_work_never_takes_less_time(
    clock: ReplicaClock,
    chunks: tuple[tuple[int, int], ...],
    num_decodes: int,
    length: int,
    data: st.DataObject,
) -> None:
    context = num_decodes * length
    now = clock.step_s(chunks, num_decodes, context) * (1 - 1e-9)
    extra = data.draw(st.integers(1, 5000))
    assert clock.step_s(chunks, num_decodes, context + extra) >= now
    assert clock.step_s((*chunks, (extra, 0)), num_decodes, context) >= now
    if chunks:
        (new, cached), rest = chunks[0], chunks[1:]
        assert clock.step_s(((new + extra, cached), *rest), num_decodes, context) >= now
        if clock.setting.model.name != "mixed":  # an aligned chunk forgets what came before
            assert clock.step_s(((new, cached + extra), *rest), num_decodes, context) >= now
    longer = context + length
    assert clock.step_s(chunks, num_decodes + 1, longer) >= now


@pytest.mark.parametrize("rate", ["memory_bytes_per_s", "clock_hz"])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_faster_device_is_never_slower(rate: str, model: object) -> None:
    faster = dataclasses.replace(H100, **{rate: 1.5 * getattr(H100, rate)})
    slow, fast = (
        replica_clock(model, device, Parallel(tp=4))  # type: ignore[arg-type]
        for device in (H100, faster)
    )
    for step in (((), 64, 64000), (((4096, 0),), 8, 8000), ((), 1, 100000)):
        assert exact_s(fast, *step) < exact_s(slow, *step)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_no_step_beats_reading_its_weights_or_its_arithmetic(model: object) -> None:
    clock = replica_clock(model, H100, Parallel())  # type: ignore[arg-type]
    fastest = max(H100.peak_flops_per_s.values())
    for step in (((), 1, 1000), ((), 256, 256 * 4000), (((8192, 0),), 0, 0)):
        ops = clock.step_ops(*step)
        assert sum(op.flops for op in ops) / fastest < exact_s(clock, *step)
        for op in ops:
            assert op.time_s > op.flops / fastest


def test_decode_reads_every_weight_once() -> None:
    ops = replica_clock(dense(), H100, Parallel()).step_ops((), 1, 1)
    weights = sum(op.bytes for op in ops if op.name in ("qkv", "attention-out", "ffn"))
    parameters = 80 * (8192 * (64 + 16) * 128 + 64 * 128 * 8192 + 3 * 8192 * 28672)
    assert weights == pytest.approx(2 * parameters, rel=0.002)


def test_flops_of_a_prompt_are_twice_the_parameters_a_token() -> None:
    ops = replica_clock(latent_moe(), H100, Parallel()).step_ops(((1000, 0),), 0, 0)
    multiplies = ("qkv", "attention-out", "ffn", "experts", "shared-experts", "router")
    flops = sum(op.flops for op in ops if op.name in multiplies)
    active = 36.6e9 - 0.9e9
    """37 B active parameters (arXiv 2412.19437) less the embedding; heads apart."""
    assert flops == pytest.approx(2 * active * 1000, rel=0.02)


def test_chunk_is_not_split_over_ranks() -> None:
    clock = CLOCKS["latent-dp8-ep8"]
    one, eight = clock.step_s(((2048, 0),), 0, 0), clock.step_s(((2048, 0),) * 8, 0, 0)
    assert one < eight < 3 * one


def test_pipeline_stage_takes_its_share_of_the_layers() -> None:
    whole = replica_clock(dense(), H100, Parallel(tp=2))
    staged = CLOCKS["dense-tp2-pp2"]
    assert staged.num_stages == 2
    step = (((2048, 0),), 16, 16000)
    assert 0.5 < exact_s(staged, *step) / exact_s(whole, *step) < 0.56


def test_origin_says_whether_the_device_was_measured() -> None:
    assert CLOCKS["dense-tp8"].origin == "calibrated"
    assert replica_clock(dense(), load_device("H200-SXM"), Parallel(tp=8)).origin == "modeled"
    assert CLOCKS["mixed-tp2-mi300x"].origin == "modeled"


def test_weights_in_fewer_bits_decode_faster() -> None:
    wide, narrow = (
        replica_clock(dense(), H100, Parallel(tp=4), weight_dtype=dtype)
        for dtype in (DType.BF16, DType.FP8)
    )
    ratio = narrow.step_s((), 1, 1000) / wide.step_s((), 1, 1000)
    assert 0.5 < ratio < 0.8


def test_group_past_the_node_uses_the_slow_link() -> None:
    inside = replica_clock(dense(), H100, Parallel(tp=8))
    across = replica_clock(dense(), H100, Parallel(tp=8), num_devices_per_node=4)
    step = (((4096, 0),), 0, 0)
    assert across.step_parts(*step)["all-reduce"] > 2 * inside.step_parts(*step)["all-reduce"]
    alone = dataclasses.replace(H100, scale_out=None)
    with pytest.raises(UnsupportedError, match="scale_out"):
        replica_clock(dense(), alone, Parallel(tp=8), num_devices_per_node=4)


def test_published_low_load_decode_of_70b_on_8_h100() -> None:
    """vLLM 0.6.0, TP 8, about 8 in flight: 13.8 ms a token (microsoft/apex_plus, 8769096)."""
    old = replica_clock(dense(), H100, Parallel(tp=8), engine="vllm-0.6")
    assert old.step_s((), 8, 8 * 400) == pytest.approx(13.8e-3, rel=0.1)


def test_multiplies_are_those_of_the_active_parameters() -> None:
    """Two FLOPs a parameter that a token meets, norms apart, of every bundled model."""
    tokens, off = 10_000, {}
    for name in bundled_models():
        model = load_model(name)
        clock = replica_clock(model, load_device("B200-SXM"), Parallel())
        ops = clock.step_ops((), tokens, tokens)
        flops = sum(op.flops for op in ops if not op.name.endswith("-decode"))
        met = active_parameters(model) - parameter_counts(model).norms
        if flops != pytest.approx(2.0 * tokens * met, rel=3e-3):
            off[name] = flops / (2.0 * tokens * met)
    assert not off


@pytest.mark.parametrize(
    "name,tp", [("llama-3.1-70b", 8), ("llama-3.1-8b", 16), ("nemotron-h-56b", 16)]
)
def test_a_device_multiplies_what_it_holds(name: str, tp: int) -> None:
    """KV heads and state groups fewer than devices are copied, as in the bytes of weights."""
    tokens, model = 10_000, with_weight_dtype(load_model(name), DType.BF16)
    clock = replica_clock(model, load_device("B200-SXM"), Parallel(tp=tp), num_devices_per_node=16)
    ops = clock.step_ops((), tokens, tokens)
    flops = sum(op.flops for op in ops if not op.name.endswith("-decode"))
    (held,) = stage_weight_bytes(model, Parallel(tp=tp))
    table = model.vocab_size * model.hidden_size * 2 / tp
    assert flops / tokens == pytest.approx(held - table, rel=3e-3)


def _weights_read_bytes(model: ModelSpec, **options: DType) -> float:
    """What the multiplies of a one-token step read, of which rows are a thousandth."""
    device = load_device("B200-SXM")
    ops = replica_clock(model, device, Parallel(), **options).step_ops((), 1, 1)
    names = ("qkv", "attention-out", "ffn", "lm-head")
    return sum(op.bytes for op in ops if op.name in names)


def test_layers_multiply_in_the_format_they_are_stored_in() -> None:
    """As the bytes of ``cost/memory.py``: the layer's own formats, its output apart."""
    plain = dense(4)
    layer = plain.layers[0].layer
    own = LayerFormats(mixer=DType.FP8, mixer_output=DType.NVFP4, ffn=DType.BF16)
    groups = (
        LayerGroup(count=3, layer=layer),
        LayerGroup(count=1, layer=dataclasses.replace(layer, formats=own)),
    )
    mixed = dataclasses.replace(plain, layers=groups)
    for dtype in (None, DType.FP8, DType.FP32):
        options = {} if dtype is None else {"weight_dtype": dtype}
        stored = with_weight_dtype(mixed, dtype)
        embedding = plain.vocab_size * plain.hidden_size * stored.quantization.embedding.bytes
        expected = weight_bytes(stored) - embedding
        assert _weights_read_bytes(mixed, **options) == pytest.approx(expected, rel=1e-3)
    narrow = dataclasses.replace(plain, quantization=Quantization(mixer_output=DType.NVFP4))
    saved = 4 * 8192 * 8192 * (2 - DType.NVFP4.bytes)
    found = _weights_read_bytes(plain) - _weights_read_bytes(narrow)
    assert found == pytest.approx(saved, rel=1e-3)


def test_swap_and_transfer_move_the_whole_cache() -> None:
    clock = replica_clock(dense(), H100, Parallel(tp=4))
    per_device = 80 * 2 * 2 * 128 * 2 * 1000
    assert clock.swap_s(1000) == pytest.approx(per_device / H100.host.bytes_per_s, rel=0.05)
    far, near = (clock.transfer_s(1000, clock, same_node=near) for near in (False, True))
    assert H100.scale_out is not None
    assert far > 4 * per_device / (4 * H100.scale_out.bytes_per_s)
    assert near < far


def test_transfer_of_latent_kv_gives_every_device_its_copy() -> None:
    """61 layers x 576 values x 2 bytes a token, whole on each of 8 devices."""
    model = load_model("deepseek-v3")
    clock = replica_clock(model, H100, Parallel(tp=8), kv_dtype=DType.BF16)
    single = replica_clock(model, H100, Parallel(attention_dp=8, ep=8), kv_dtype=DType.BF16)
    assert H100.scale_out is not None
    rate = H100.scale_out.bytes_per_s * clock.setting.calibration.collective.scale_out_fraction
    wanted_s = 61 * 576 * 2 * 100_000 / rate
    for source, target, times in ((clock, clock, 1), (single, single, 1), (single, clock, 8)):
        assert source.transfer_s(100_000, target) == pytest.approx(times * wanted_s, rel=0.01)


def test_lookups_are_fast() -> None:
    """A wide margin over what they take (0.2 and 1 microseconds), for busy machines."""
    clock = CLOCKS["dense-tp8"]
    chunk = ((2048, 100),)

    def best(call: object) -> float:
        spans = []
        for _ in range(5):
            started = time.perf_counter()
            for i in range(2000):
                call(i)  # type: ignore[operator]
            spans.append(time.perf_counter() - started)
        return min(spans) / 2000

    assert best(lambda i: clock.decode_line(32, 32000 + i)) < 3e-6
    assert best(lambda i: clock.step_s(chunk, 32, 32000 + i)) < 9e-6
