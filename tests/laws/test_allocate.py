"""Budgets: closed forms, limits of the box, a serving load, and warnings outside the fit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.laws.allocate import compute_optimal
from plimsoll.laws.fit import bootstrap, fit
from plimsoll.laws.forms import Chinchilla, Farseer, ParScale
from plimsoll.laws.forms.farseer import FARSEER_PUBLISHED
from plimsoll.laws.law import PUBLISHED, law_of, law_of_fit, saved
from plimsoll.laws.predict import predict
from plimsoll.laws.serving_price import llama_of, serving_point, serving_weights
from plimsoll.laws.table import LossTable
from plimsoll.spec.errors import InfeasibleError, SpecError
from plimsoll.spec.fleet import parse_fleet
from plimsoll.spec.io import write
from plimsoll.spec.parameters import active_parameters
from tests.laws.test_fit import surface

NAMED = {"E": 1.7, "A": 400.0, "B": 410.0, "alpha": 0.34, "beta": 0.28}
SIZES, TOKENS = 1e7 * 4.0 ** np.arange(7), 1e9 * 4.0 ** np.arange(7)


def known(named=NAMED):
    return law_of_fit(fit(Chinchilla(), surface(Chinchilla(), named, SIZES, TOKENS)))


@settings(max_examples=15, deadline=None)
@given(alpha=st.floats(0.25, 0.45), beta=st.floats(0.25, 0.45), budget=st.floats(19.5, 22.5))
def test_the_split_is_that_of_the_closed_form(alpha, beta, budget):
    named = {"E": 1.7, "A": 0.8 * 1e8**alpha, "B": 0.8 * 1e9**beta, "alpha": alpha, "beta": beta}
    flops = 10.0**budget
    found = compute_optimal(known(named), flops, stretch=1000)
    scale = (alpha * named["A"] / (beta * named["B"])) ** (1 / (alpha + beta))
    expected = scale * (flops / 6) ** (beta / (alpha + beta))
    assert found.params == pytest.approx(expected, rel=0.01)
    assert 6 * found.params * found.tokens == pytest.approx(flops, rel=1e-9)
    assert not found.edge


def test_a_serving_load_makes_models_smaller_and_longer_trained():
    law = known()
    alone = compute_optimal(law, 1e22)
    loads = [compute_optimal(law, 1e22, serve_tokens=t) for t in (1e11, 5e11, 1e12)]
    sizes = [alone.params, *(one.params for one in loads)]
    assert sizes == sorted(sizes, reverse=True)
    ratios = [alone.tokens_per_param, *(one.tokens_per_param for one in loads)]
    assert ratios == sorted(ratios)
    for one in loads:
        spent = 6 * one.params * one.tokens + one.serve_flops
        assert spent == pytest.approx(1e22, rel=1e-9)
    free = compute_optimal(law, 1e22, serve_tokens=1e12, serve_weight=0.0)
    assert free.params == pytest.approx(alone.params, rel=1e-6)


@settings(max_examples=10, deadline=None)
@given(factor=st.floats(1.05, 30))
def test_more_compute_never_hurts(factor):
    law = known()
    assert compute_optimal(law, 1e21 * factor).loss <= compute_optimal(law, 1e21).loss


def test_where_a_form_has_no_optimum_the_answer_stands_at_the_edge_and_says_so():
    """Farseer's published constants keep falling with size from 1e23 on."""
    form = Farseer()
    sizes, tokens = 2e8 * 2 ** (np.arange(12) / 2), 1e9 * 2 ** (np.arange(18) / 2)
    law = law_of_fit(fit(form, surface(form, FARSEER_PUBLISHED, sizes, tokens)))
    inside = compute_optimal(law, 1e21, stretch=1)
    assert not inside.edge
    beyond = compute_optimal(law, 3e24, stretch=1e4)
    assert beyond.edge
    assert inside.params <= law.box["params"][1]


def test_budgets_that_cannot_be_are_one_sentence():
    law = known()
    with pytest.raises(InfeasibleError, match="no size from"):
        compute_optimal(law, 1e10)
    with pytest.raises(SpecError, match="flops is nan"):
        compute_optimal(law, float("nan"))
    with pytest.raises(SpecError, match="stretch is 0"):
        compute_optimal(law, 1e21, stretch=0.5)
    x = {"params": np.tile(SIZES[:4], 4), "streams": np.repeat([1.0, 2, 4, 8], 4)}
    form = ParScale()
    loss = np.exp(
        form.log_loss(form.coordinates_of({"E": 0.7, "A": 0.2, "alpha": 0.2, "k": 0.4}), x)
    )
    streams = law_of_fit(fit(form, LossTable(name="streams", columns=x, loss=loss)))
    with pytest.raises(SpecError, match="has inputs params, streams"):
        compute_optimal(streams, 1e21)


def test_outside_the_box_the_interval_widens_and_says_so():
    points = surface(Chinchilla(), NAMED, SIZES, TOKENS, noise=0.002)
    law = law_of_fit(bootstrap(fit(Chinchilla(), points), draws=50))
    inside = predict(law, {"params": 1e9, "tokens": 1e11})
    beyond = predict(law, {"params": 1e9, "tokens": 1e14})
    assert inside.low < inside.loss < inside.high and not inside.warning
    assert "tokens is" in beyond.warning and "times above" in beyond.warning
    wide = np.log(beyond.high / beyond.low)
    assert wide > 2 * np.log(inside.high / inside.low)
    tight, loose = (predict(law, inside.inputs, level=level) for level in (0.5, 0.95))
    assert tight.high - tight.low < loose.high - loose.low
    with pytest.raises(SpecError, match="tokens is missing"):
        predict(law, {"params": 1e9})


def test_a_law_is_the_same_from_its_file(tmp_path):
    points = surface(Chinchilla(), NAMED, SIZES, TOKENS, noise=0.002)
    law = law_of_fit(bootstrap(fit(Chinchilla(), points), draws=20))
    path = tmp_path / "law.yaml"
    write(saved(law), path)
    again = law_of(str(path))
    inputs = {"params": 3e9, "tokens": 2e11}
    ours, theirs = predict(law, inputs), predict(again, inputs)
    assert (theirs.loss, theirs.low) == pytest.approx((ours.loss, ours.low), rel=1e-9)
    assert dict(again.box) == dict(law.box)


def test_bad_laws_are_one_sentence(tmp_path):
    with pytest.raises(SpecError, match="Did you mean chinchilla"):
        law_of("chinchila")
    path = tmp_path / "law.yaml"
    path.write_text("kind: law\nform: chinchilla\nparameters: {E: 1.0}\nbox: {params: [1, 2]}\n")
    with pytest.raises(SpecError, match="parameters are E"):
        law_of(str(path))


def test_a_published_law_has_no_interval():
    one = predict(PUBLISHED["chinchilla"], {"params": 1e9, "tokens": 2e10})
    assert np.isnan(one.low) and 2 < one.loss < 3.5


@pytest.mark.parametrize("size", [1e8, 1e9, 7e9, 7e10, 4e11])
def test_models_made_for_a_size_have_about_that_size(size):
    model = llama_of(size)
    head = model.hidden_size * model.vocab_size
    assert active_parameters(model) - head == pytest.approx(size, rel=0.12)


def test_serving_costs_depend_on_the_devices():
    h100, l40s = (parse_fleet(text).parts[0].device for text in ("8xH100-SXM", "8xL40S"))
    fast, slow = (serving_point(7e9, device) for device in (h100, l40s))
    assert fast.tokens_per_device_s > slow.tokens_per_device_s
    for point in (fast, slow):
        assert 0 < point.mfu < 1 and point.token_s <= 0.05
    weights = serving_weights([1e9, 7e9, 7e10], h100)
    assert (weights > 0.5).all() and np.isfinite(weights).all()
    with pytest.raises(InfeasibleError, match="does not decode"):
        serving_point(2e12, l40s)
