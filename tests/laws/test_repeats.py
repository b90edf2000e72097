"""Repeated tokens: against the formula by hand and brute force, and in the limits."""

import numpy as np
import pytest

from plimsoll.laws.allocate import compute_optimal
from plimsoll.laws.fit import fit
from plimsoll.laws.forms import Chinchilla, RepeatedData, RepeatedDataAndSize
from plimsoll.laws.forms.repeats import REPEATS_PUBLISHED
from plimsoll.laws.law import PUBLISHED, law_of
from plimsoll.laws.predict import predict
from plimsoll.laws.repeats import LimitedData, limited, optimal_size, worth
from plimsoll.laws.table import LossTable
from plimsoll.spec.errors import InfeasibleError, SpecError

TOKENS_ONLY = {k: v for k, v in REPEATS_PUBLISHED.items() if k != "R_N"}


def by_hand(n, d, unique, *, size_fades=True):
    """The paper's formula with its numbers, one point, plain Python."""
    c = REPEATS_PUBLISHED
    u = min(d, unique)
    d_worth = u + u * c["R_D"] * (1 - np.exp(-(d / u - 1) / c["R_D"]))
    needed = (c["alpha"] * c["A"] / (c["beta"] * c["B"]) * u ** c["beta"]) ** (1 / c["alpha"])
    if size_fades and n > needed:
        n = needed + needed * c["R_N"] * (1 - np.exp(-(n / needed - 1) / c["R_N"]))
    return c["E"] + c["A"] / n ** c["alpha"] + c["B"] / d_worth ** c["beta"]


def points(n, d, unique):
    values = {"params": n, "tokens": d, "unique": unique}
    return {k: np.atleast_1d(np.asarray(v, dtype=float)) for k, v in values.items()}


@pytest.mark.parametrize("n", [1e8, 1e9, 3e10])
@pytest.mark.parametrize("d", [5e9, 2e10, 3e11, 1e13])
def test_the_published_law_is_the_formula(n, d):
    both, tokens = RepeatedDataAndSize(), RepeatedData()
    x = points(n, d, 2e10)
    full = np.exp(both.log_loss(both.coordinates_of(REPEATS_PUBLISHED), x))[0]
    half = np.exp(tokens.log_loss(tokens.coordinates_of(TOKENS_ONLY), x))[0]
    assert full == pytest.approx(by_hand(n, d, 2e10), rel=1e-9)
    assert half == pytest.approx(by_hand(n, d, 2e10, size_fades=False), rel=1e-9)


def test_a_plain_law_on_limited_tokens_is_the_same_law():
    """Chinchilla's form with the constants and rates of the published one, sizes found by
    halving: what the closed form gives."""
    form = Chinchilla()
    theta = form.coordinates_of(REPEATS_PUBLISHED)
    n, d = (a.ravel() for a in np.meshgrid(np.geomspace(1e7, 1e11, 9), np.geomspace(1e9, 1e13, 9)))
    ours = LimitedData(form, 2e10).log_loss(theta, {"params": n, "tokens": d})
    both = RepeatedDataAndSize()
    theirs = both.log_loss(both.coordinates_of(REPEATS_PUBLISHED), points(n, d, np.full(81, 2e10)))
    assert np.allclose(ours, theirs, rtol=1e-7)


def test_one_epoch_is_the_plain_law():
    form = Chinchilla()
    theta = form.coordinates_of(REPEATS_PUBLISHED)
    d = np.geomspace(1e9, 2e10, 30)
    tokens = RepeatedData()
    plain = form.log_loss(theta, points(1e9, d, d))
    assert np.allclose(
        tokens.log_loss(tokens.coordinates_of(TOKENS_ONLY), points(1e9, d, np.full(30, 2e10))),
        plain,
        rtol=1e-12,
    )
    small = optimal_size(form, theta, d) * 0.9  # up to the optimal size nothing is surplus
    limited_form = LimitedData(form, 2e10)
    x = {"params": small, "tokens": d}
    assert np.allclose(limited_form.log_loss(theta, x), form.log_loss(theta, x), rtol=1e-12)


def test_endless_repeats_saturate():
    rate = REPEATS_PUBLISHED["R_D"]
    seen = np.geomspace(1e9, 1e20, 200)
    found = worth(seen, 1e9)
    assert (np.diff(found) >= 0).all() and (found <= seen * (1 + 1e-12)).all()
    assert found[0] == pytest.approx(1e9)
    assert found[-1] == pytest.approx(1e9 * (1 + rate), rel=1e-9)
    assert worth(2e9, 1e9, 1e9) == pytest.approx(2e9, rel=1e-6)  # no fading


@pytest.mark.parametrize("name", ["chinchilla", "chinchilla-original", "repeats"])
@pytest.mark.parametrize("unique", [1e9, 2e10, 4e11])
def test_the_best_split_is_that_of_brute_force(name, unique):
    law = limited(law_of(name), unique)
    found = compute_optimal(law, 1e22)
    n = np.geomspace(4e7, 1e11, 20_001)
    losses = law.predict({"params": n, "tokens": 1e22 / (6 * n)})
    assert found.edge == ""
    assert found.loss <= losses.min() * (1 + 1e-9)
    assert found.params == pytest.approx(n[losses.argmin()], rel=0.01)


def test_enough_tokens_change_nothing_and_few_cost():
    plain = compute_optimal(law_of("chinchilla"), 1e22)
    enough = compute_optimal(limited(law_of("chinchilla"), plain.tokens * 1.01), 1e22)
    assert enough.params == pytest.approx(plain.params, rel=1e-3)
    assert enough.loss == pytest.approx(plain.loss, rel=1e-9)
    losses, sizes = [], []
    for unique in (1e11, 3e10, 1e10, 3e9):
        one = compute_optimal(limited(law_of("chinchilla"), unique), 1e22)
        losses.append(one.loss)
        sizes.append(one.params)
    assert losses == sorted(losses) and losses[0] > plain.loss
    assert sizes == sorted(sizes, reverse=True) and sizes[0] < plain.params


def test_surplus_parameters_turn_the_answer():
    """Without their fading the split goes to larger models, with it to more epochs."""
    law = law_of("chinchilla")
    both = compute_optimal(limited(law, 2e10), 1e22)
    form = LimitedData(law.form, 2e10, size_rate=float("inf"))
    n = np.geomspace(1e8, 1e12, 20_001)
    losses = form.log_loss(law.theta, {"params": n, "tokens": 1e22 / (6 * n)})
    plain = compute_optimal(law, 1e22)
    assert n[losses.argmin()] > plain.params > both.params


def test_a_fit_recovers_its_rates():
    rng = np.random.default_rng(0)
    form = RepeatedDataAndSize()
    theta = form.coordinates_of(REPEATS_PUBLISHED)
    sizes, unique, epochs = (1e8, 4e8, 1.6e9, 6.4e9), (1e9, 4e9, 1.6e10, 6.4e10), (1, 3, 9, 27)
    n, u, e = (a.ravel() for a in np.meshgrid(sizes, unique, epochs))
    x = points(n, u * e, u)
    loss = np.exp(form.log_loss(theta, x) + rng.normal(0, 1e-4, len(n)))
    found = fit(form, LossTable(name="made", columns=x, loss=loss))
    assert found.named["R_D"] == pytest.approx(REPEATS_PUBLISHED["R_D"], rel=0.05)
    assert found.named["R_N"] == pytest.approx(REPEATS_PUBLISHED["R_N"], rel=0.05)
    once = LossTable(name="once", columns={**x, "tokens": u}, loss=loss)
    with pytest.raises(InfeasibleError, match="repeats"):
        fit(form, once)


def test_the_gradient_of_a_limited_form():
    law = limited(law_of("repeats"), 2e10)
    x = points(3e9, 3e11, 2e10)
    own = law.form.gradient(law.theta, {k: x[k] for k in ("params", "tokens")})
    assert np.allclose(own, PUBLISHED["repeats"].form.gradient(law.theta, x), atol=1e-6)


def test_predictions_with_draws_of_a_fit():
    """Every draw gets surplus parameters of its own."""
    form = Chinchilla()
    theta = form.coordinates_of(REPEATS_PUBLISHED)
    many = np.stack([theta, theta * 1.01])
    one = LimitedData(form, 2e10)
    x = {"params": np.array([1e9, 5e9]), "tokens": np.array([1e11, 1e11])}
    assert np.allclose(one.log_loss(many, x), np.stack([one.log_loss(t, x) for t in many]))


@pytest.mark.parametrize("unique", [0.0, -5.0, float("nan"), float("inf")])
def test_bad_input(unique):
    with pytest.raises(SpecError, match="unique tokens"):
        limited(law_of("chinchilla"), unique)
    with pytest.raises(SpecError, match="--unique"):
        compute_optimal(law_of("repeats"), 1e22)
    with pytest.raises(SpecError, match="unique"):
        predict(law_of("repeats"), {"params": 1e9, "tokens": 1e11})
