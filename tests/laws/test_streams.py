"""Streams against parameters: equal losses, both costs, where the answer turns, bounds."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.catalog.parscale_published import losses, shape_of
from plimsoll.cost.parallel import parscale_cost
from plimsoll.laws.allocate import compute_optimal
from plimsoll.laws.fit import fit
from plimsoll.laws.forms import ParScale, PowerStreams
from plimsoll.laws.law import PUBLISHED, law_of_fit
from plimsoll.laws.predict import predict
from plimsoll.laws.streams import (
    StreamLoad,
    best_offer,
    equal_size,
    stream_choices,
)
from plimsoll.spec.errors import InfeasibleError, SpecError
from plimsoll.spec.fleet import load_device

A100 = load_device("A100-SXM-80")
STACK = PUBLISHED["parscale-stack"]
BASE = shape_of(3)


def choices(batch=1, law=STACK, streams=(1, 2, 4, 8), prompt=256, output=256, device=A100):
    load = StreamLoad(batch=batch, prompt_tokens=prompt, output_tokens=output)
    return stream_choices(law, BASE, device, load, streams=streams)


@pytest.mark.parametrize("corpus", ["stack", "pile"])
def test_the_published_laws_are_the_fits_to_the_published_losses(corpus):
    found = fit(ParScale(), losses(corpus))
    law = PUBLISHED[f"parscale-{corpus}"]
    for name, value in law.named.items():
        assert value == pytest.approx(found.named[name], rel=1e-4), name
    assert law.rmse == pytest.approx(found.rmse, abs=1e-5)
    for name, (low, high) in law.box.items():
        assert (low, high) == pytest.approx(found.box[name], rel=2e-3)
    one = predict(law, {"params": 1.6e9, "streams": 4})
    assert one.low < one.loss < one.high and not one.outside


@settings(max_examples=30, deadline=None)
@given(
    corpus=st.sampled_from(["stack", "pile"]),
    streams=st.integers(1, 64),
    batch=st.integers(1, 64),
)
def test_both_ways_have_the_same_loss(corpus, streams, batch):
    (one,) = choices(batch, PUBLISHED[f"parscale-{corpus}"], (streams,))
    assert one.larger.loss == pytest.approx(one.with_streams.loss, rel=1e-9)
    assert one.larger.params >= one.with_streams.params * (1 - 1e-9)
    assert one.larger.streams == 1 and one.with_streams.streams == streams


def test_eight_streams_are_worth_1_82_times_the_size():
    size = BASE.parameters(8)
    assert equal_size(STACK, size, 8) / size == pytest.approx(1.82, abs=0.01)
    assert equal_size(STACK, size, 1) == size
    assert equal_size(PUBLISHED["parscale-pile"], 1e9, 8) == pytest.approx(1.70e9, rel=0.01)


def test_costs_are_those_of_the_roofline():
    (eight,) = choices(4, streams=(8,))
    cost = parscale_cost(BASE, A100, streams=8, batch=4, prompt_tokens=256, output_tokens=256)
    assert eight.with_streams.cost == cost
    usd = A100.price.usd_per_hour / 3600 * cost.latency_s / (4 * 256) * 1e6
    assert eight.with_streams.usd_per_million == pytest.approx(usd)


def test_streams_win_small_batches_and_parameters_win_large_ones():
    for one in choices(1)[1:]:
        assert one.cheaper.kind == "streams"
        assert 1 <= one.up_to_batch < 64
    for one in choices(64)[1:]:
        assert one.cheaper.kind == "parameters"
    turns = [one.up_to_batch for one in choices(1)[1:]]
    assert turns == sorted(turns, reverse=True), "the more streams, the smaller the batch"
    at = turns[0]
    assert choices(at)[1].cheaper.kind == "streams"
    assert choices(2 * at)[1].cheaper.kind == "parameters"


def test_a_bound_moves_the_answer():
    found = choices(1)
    free = best_offer(found)
    assert (free.kind, free.streams) == ("streams", 8)
    base_s, eight_s = (found[i].with_streams.cost.latency_s for i in (0, 3))
    assert best_offer(found, latency_s=(base_s + eight_s) / 2).streams in (2, 4)
    assert best_offer(found, latency_s=base_s).streams == 1
    cheap = found[0].with_streams.usd_per_million
    assert best_offer(found, usd_per_million=cheap).streams == 1
    with pytest.raises(InfeasibleError, match="nothing keeps 1 ms a request"):
        best_offer(found, latency_s=1e-3)
    with pytest.raises(InfeasibleError, match="USD a million tokens") as caught:
        best_offer(found, usd_per_million=1e-6)
    assert "larger batch" in caught.value.change


def test_memory_decides_where_time_does_not():
    """Long contexts at a batch where the KV of eight streams is more than the device."""
    found = choices(64, prompt=20_000, output=64)
    assert not found[3].with_streams.fits and found[3].larger.fits
    assert found[3].cheaper.kind == "parameters"
    with pytest.raises(InfeasibleError, match="none fits the device"):
        best_offer(choices(4096, prompt=20_000))


def test_laws_that_know_no_streams_are_refused_and_the_rival_form_is_not():
    with pytest.raises(SpecError, match="chinchilla has inputs params, tokens.*parscale-stack"):
        choices(law=PUBLISHED["chinchilla"])
    rival = law_of_fit(fit(PowerStreams(), losses("stack")))
    (one,) = choices(law=rival, streams=(8,))
    assert one.larger.params / BASE.parameters(8) == pytest.approx(8 ** rival.named["k"])
    assert one.larger.loss == pytest.approx(one.with_streams.loss, rel=1e-9)
    with pytest.raises(SpecError, match="plimsoll laws streams"):
        compute_optimal(STACK, 1e22)
    with pytest.raises(SpecError, match="no number of streams"):
        choices(streams=())


def test_a_device_without_a_price_has_no_money_bound():
    found = choices(device=replace(A100, price=None))
    assert found[0].with_streams.usd_per_million is None
    assert best_offer(found).streams == 8
    with pytest.raises(SpecError, match="has none"):
        best_offer(found, usd_per_million=1.0)


def test_more_streams_never_raise_the_loss():
    values = [one.with_streams.loss for one in choices(streams=tuple(range(1, 20)))]
    assert np.all(np.diff(values) < 0)
