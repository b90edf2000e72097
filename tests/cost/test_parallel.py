"""Streams through one set of weights: parameters, memory and time by hand."""

import numpy as np
import pytest

from plimsoll.catalog.parscale_published import losses, shape_of
from plimsoll.cost.parallel import StreamShape, parscale_cost, stream_shape
from plimsoll.laws.fit import fit
from plimsoll.laws.forms import ParScale
from plimsoll.spec.errors import SpecError, UnsupportedError
from plimsoll.spec.fleet import load_device
from plimsoll.spec.model_files import load_model
from plimsoll.spec.parameters import parameter_counts

SHAPE = StreamShape(num_layers=2, hidden=8, ffn=16, kv_width=4, vocab=100, prefix=3)
A100 = load_device("A100-SXM-80")


def cost(shape=SHAPE, **options):
    given = {"streams": 1, "batch": 1, "prompt_tokens": 10, "output_tokens": 5, **options}
    return parscale_cost(shape, A100, **given)


def test_parameters_by_hand():
    layer = 8 * 8 * 2 + 2 * 8 * 4 + 3 * 8 * 16 + (8 + 8) + 16
    assert SHAPE.parameters() == 2 * layer + 8
    added = 2 * 3 * 2 * 4 * 4 + (4 * 64 + 8) + (8 * 4 + 4)
    assert SHAPE.parameters(4) - SHAPE.parameters() == added


@pytest.mark.parametrize(
    ("index", "streams", "published"),
    [
        (0, 1, 535813376),
        (0, 2, 538195842),
        (0, 8, 545340552),
        (5, 1, 4353203200),
        (5, 8, 4414502408),
    ],
)
def test_published_counts(index, streams, published):
    assert shape_of(index).parameters(streams) == published


def test_one_stream_is_the_bundled_model():
    model = load_model("qwen2.5-7b")
    counts = parameter_counts(model)
    outer = counts.embedding + counts.lm_head
    assert stream_shape(model).parameters() == counts.total - outer


def test_memory_by_hand():
    one, four = cost(), cost(streams=4)
    kv_token = 2 * 2 * 4 * 2
    assert one.kv_bytes == 15 * kv_token
    assert four.kv_bytes == 4 * (15 + 3) * kv_token
    assert four.weight_bytes - one.weight_bytes == 2 * (SHAPE.parameters(4) - SHAPE.parameters())
    assert cost(batch=3).kv_bytes == 3 * one.kv_bytes


def test_weights_are_read_once_and_the_head_runs_once():
    """At batch 1 eight streams add little to a step; eight models would take eight times."""
    base = shape_of(3)
    one, eight = (cost(base, streams=p, output_tokens=256) for p in (1, 8))
    assert one.decode_s < eight.decode_s < 1.1 * one.decode_s
    assert eight.prefill_s < 8 * one.prefill_s
    step = (base.parameters() + base.vocab * base.hidden) * 2 / (0.9 * A100.memory_bytes_per_s)
    assert one.decode_s / 256 == pytest.approx(step, rel=0.01)


def test_time_rises_with_streams_batch_and_lengths():
    base = shape_of(0)
    for option, values in (
        ("streams", (1, 2, 4, 8)),
        ("batch", (1, 4, 16)),
        ("prompt_tokens", (16, 256)),
        ("output_tokens", (16, 256)),
    ):
        times = [cost(base, **{option: v}).latency_s for v in values]
        sizes = [cost(base, **{option: v}).memory_bytes for v in values]
        assert times == sorted(times) and sizes == sorted(sizes)
        assert times[0] < times[-1] and sizes[0] < sizes[-1]


def test_logarithms_are_natural():
    """With log2 in place of ln, k is smaller by ln 2; the published k is of ln."""
    found = fit(ParScale(), losses("stack"))
    assert found.named["k"] == pytest.approx(0.3935, abs=0.01)
    gain = ParScale().gain(np.array(found.named["k"]), np.array(8.0))
    assert float(gain) == pytest.approx(1.82, abs=0.01)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"streams": 0}, "0 streams"),
        ({"batch": 0}, "batch is 0"),
        ({"output_tokens": 0}, "output tokens is 0"),
        ({"compute_efficiency": 0.0}, "compute efficiency is 0"),
        ({"memory_efficiency": 1.5}, "memory efficiency is 1.5"),
    ],
)
def test_what_cannot_be_is_said(options, why):
    with pytest.raises(SpecError, match=why):
        cost(**options)


def test_other_layers_are_not_costed():
    with pytest.raises(UnsupportedError, match="equal layers"):
        stream_shape(load_model("mixtral-8x7b"))
