"""Every form: exact gradients, coordinates there and back, limits in closed form."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.laws.forms import FORMS, Chinchilla, ChinchillaQ, Kaplan, ParScale
from plimsoll.laws.forms.chinchilla import CHINCHILLA_PUBLISHED, CHINCHILLA_REFIT
from plimsoll.laws.forms.farseer import FARSEER_PUBLISHED, Farseer
from plimsoll.laws.forms.kaplan import KAPLAN_PUBLISHED
from plimsoll.laws.forms.repeats import REPEATS_PUBLISHED

SAMPLES = {
    "chinchilla": dict(CHINCHILLA_PUBLISHED),
    "chinchilla-q": {**CHINCHILLA_REFIT, "q": 0.8},
    "kaplan": dict(KAPLAN_PUBLISHED),
    "farseer": dict(FARSEER_PUBLISHED),
    "parscale": {"E": 0.6912, "A": 0.01131, "alpha": 0.1894, "k": 0.3935},
    "power-streams": {"E": 0.6912, "A": 0.01131, "alpha": 0.1894, "k": 0.2},
    "repeats-tokens": {k: v for k, v in REPEATS_PUBLISHED.items() if k != "R_N"},
    "repeats": dict(REPEATS_PUBLISHED),
    "datastore": {
        "E": 0.4, "A": 300.0, "B": 300.0, "C": 0.9,
        "alpha": 0.33, "beta": 0.29, "gamma": 0.2, "S0": 1e8,
    },
}  # fmt: skip


def points(seed, count=20):
    rng = np.random.default_rng(seed)
    return {
        "params": np.exp(rng.uniform(17, 23, count)),
        "tokens": np.exp(rng.uniform(20, 27, count)),
        "streams": rng.integers(1, 9, count).astype(float),
        "unique": np.exp(rng.uniform(18, 27, count)),
        "datastore": np.append(0.0, np.exp(rng.uniform(15, 27, count - 1))),
    }


def test_every_form_is_sampled_here():
    assert set(SAMPLES) == set(FORMS)


@pytest.mark.parametrize("name", FORMS)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), shift=st.floats(-0.02, 0.02))
def test_gradients_are_those_of_the_loss(name, seed, shift):
    form, x = FORMS[name], points(seed)
    theta = form.coordinates_of(SAMPLES[name]) * (1 + shift)
    exact = form.gradient(theta, x)
    for i in range(len(theta)):
        step = 1e-6 * max(1.0, abs(theta[i])) * (np.arange(len(theta)) == i)
        slope = (form.log_loss(theta + step, x) - form.log_loss(theta - step, x)) / (2 * step.max())
        assert np.allclose(exact[:, i], slope, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", FORMS)
def test_many_sets_of_parameters_at_once(name):
    form, x = FORMS[name], points(1)
    theta = form.coordinates_of(SAMPLES[name])
    many = np.stack([theta, theta * 1.01, theta * 0.99])
    rows = np.stack([form.log_loss(row, x) for row in many])
    assert np.allclose(form.log_loss(many, x), rows)
    assert form.gradient(many, x).shape == (3, 20, len(theta))
    assert form.named(theta) == pytest.approx(SAMPLES[name])


def test_values_in_closed_form():
    c = CHINCHILLA_PUBLISHED
    x = {"params": np.array([7e10]), "tokens": np.array([1.4e12])}
    theta = Chinchilla().coordinates_of(c)
    by_hand = c["E"] + c["A"] / 7e10 ** c["alpha"] + c["B"] / 1.4e12 ** c["beta"]
    assert np.exp(Chinchilla().log_loss(theta, x))[0] == pytest.approx(by_hand, rel=1e-12)
    k = KAPLAN_PUBLISHED
    inner = (k["N_c"] / 7e10) ** (k["alpha_N"] / k["alpha_D"]) + k["D_c"] / 1.4e12
    kaplan = np.exp(Kaplan().log_loss(Kaplan().coordinates_of(k), x))[0]
    assert kaplan == pytest.approx(inner ** k["alpha_D"], rel=1e-12)


def test_an_outer_exponent_of_one_changes_nothing():
    x = points(2)
    plain = Chinchilla().log_loss(Chinchilla().coordinates_of(CHINCHILLA_REFIT), x)
    outer = ChinchillaQ()
    with_q = outer.log_loss(outer.coordinates_of({**CHINCHILLA_REFIT, "q": 1.0}), x)
    assert np.allclose(plain, with_q, rtol=1e-12)


def test_one_stream_is_the_plain_model():
    form, x = ParScale(), points(3)
    x["streams"] = np.ones(20)
    theta = form.coordinates_of(SAMPLES["parscale"])
    other = form.coordinates_of({**SAMPLES["parscale"], "k": 3.0})
    assert np.allclose(form.log_loss(theta, x), form.log_loss(other, x))


def test_farseer_depends_on_the_unit_of_tokens():
    """Tokens in billions is another surface, not the same one with other factors: its exponent
    would have to change with size and with the unit."""
    form = Farseer()
    theta = form.coordinates_of(FARSEER_PUBLISHED)
    x = points(4)
    exponent = np.exp(theta[0] * x["params"] ** theta[2] + theta[1])
    scaled = form.log_loss(theta, {**x, "tokens": x["tokens"] / 1e9})
    assert not np.allclose(scaled, form.log_loss(theta, x))
    assert np.ptp(exponent) > 0.05
