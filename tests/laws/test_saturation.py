"""Saturation: closed form against search, fits from pilots, boundaries, chains of rounds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import curve_fit

from plimsoll.laws.saturation import TTSPM, BetaTTSPM, TwoRate, affordable, saturation
from plimsoll.laws.saturation_fit import (
    choose_form,
    fit_beta,
    fit_rounds,
    fit_ttspm,
    log_likelihood,
)
from plimsoll.laws.testtime import pass_at_n
from plimsoll.spec.errors import InfeasibleError, SpecError


def searched(p, f_max, eps, most=5_000_000):
    """The first N whose gain is at most eps, by looking at each."""
    low, width = 0, 64
    while low < most:
        gains = f_max * p * (1 - p) ** np.arange(low, low + width)
        hit = np.flatnonzero(gains <= eps)
        if len(hit):
            return low + int(hit[0])
        low, width = low + width, width * 4
    raise AssertionError("no saturation found")


@pytest.mark.parametrize(
    ("p", "f_max", "eps", "expected"),
    [
        (0.3, 0.533, 0.01, 8),
        (0.1, 0.8, 0.01, 20),
        (0.05, 0.8, 0.005, 41),
        (0.5, 0.9, 0.001, 9),
        (1.0, 0.7, 0.01, 1),
        (1.0, 0.005, 0.01, 0),
        (0.01, 0.5, 0.005, 0),
        (0.0, 0.5, 0.01, 0),
        (0.5, 0.0, 0.01, 0),
    ],
)
def test_saturation_by_hand(p, f_max, eps, expected):
    assert saturation(p, f_max, eps) == expected
    assert TTSPM(p=p, f_max=f_max).saturation(eps) == expected


@settings(max_examples=300, deadline=None)
@given(
    p=st.one_of(st.floats(1e-4, 1.0), st.just(1.0)),
    f_max=st.floats(0, 1),
    eps=st.floats(1e-6, 0.2),
)
def test_saturation_is_what_a_search_finds(p, f_max, eps):
    assert saturation(p, f_max, eps) == searched(p, f_max, eps)


def test_a_gain_is_of_the_next_sample():
    """F(N) − F(N − 1) in its place would stop one later."""
    model = TTSPM(p=0.3, f_max=0.533)
    n = model.saturation(0.01)
    steps = np.diff(model.curve(np.arange(20)))
    assert np.allclose(steps, model.gain(np.arange(19)))
    assert steps[n] <= 0.01 < steps[n - 1]


@pytest.mark.parametrize(
    "model",
    [
        TTSPM(p=0.2, f_max=0.9),
        BetaTTSPM(a=0.3, b=2.0, f_max=0.95),
        TwoRate(p=0.3, q=0.05, f_max=0.8),
        TwoRate(p=0.8, q=0.7, f_max=0.8),
    ],
)
def test_every_curve_starts_at_zero_and_adds_its_gains(model):
    n = np.arange(200)
    assert float(model.curve(0)) == 0
    assert np.allclose(np.diff(model.curve(n)), model.gain(n[:-1]), atol=1e-12)
    stop = model.saturation(1e-3)
    assert float(model.gain(stop)) <= 1e-3
    assert stop == 0 or float(model.gain(stop - 1)) > 1e-3


def test_a_mixture_is_the_mean_of_its_curves():
    model = BetaTTSPM(a=0.5, b=3.0, f_max=0.8)
    p = np.random.default_rng(0).beta(0.5, 3.0, 200_000)
    for n in (1, 4, 32):
        assert float(model.curve(n)) == pytest.approx(0.8 * (1 - (1 - p) ** n).mean(), abs=3e-3)


def test_a_chain_without_flips_is_absorbing():
    n = np.arange(30)
    chain, plain = TwoRate(p=0.2, q=0.0, f_max=0.7), TTSPM(p=0.2, f_max=0.7)
    assert np.allclose(chain.curve(n), plain.curve(n))
    assert chain.saturation(0.01) == plain.saturation(0.01)


def test_samples_are_bought_while_they_pay():
    model = TTSPM(p=0.3, f_max=0.6)
    n = affordable(model, value=1.0, price=0.02)
    assert float(model.gain(n)) < 0.02 <= float(model.gain(n - 1))
    assert affordable(model, value=2.0, price=0.02) > n
    equal = TTSPM(p=0.5, f_max=1.0)
    assert affordable(equal, value=1.0, price=0.25) == 2, "a gain that equals its price is bought"
    with pytest.raises(SpecError, match="price 0"):
        affordable(model, value=1.0, price=0.0)


def drawn(p, samples, seed):
    rng = np.random.default_rng(seed)
    return (rng.random((len(p), samples)) < p[:, None]).astype(float)


def test_one_p_is_found_with_its_interval():
    inside = 0
    for seed in range(10):
        p = np.where(np.random.default_rng(seed + 100).random(300) < 0.6, 0.25, 0.0)
        found = fit_ttspm(drawn(p, 8, seed))
        assert found.point is not None
        inside += found.p[0] <= 0.25 <= found.p[1] and found.f_max[0] <= 0.6 <= found.f_max[1]
        assert found.p[0] < found.point.p < found.p[1]
    assert inside >= 8


def test_a_mixture_is_found_and_chosen():
    p = np.random.default_rng(0).beta(0.6, 2.5, 3000)
    right = drawn(p, 8, 1)
    model, scores = choose_form(right)
    assert isinstance(model, BetaTTSPM) and scores["beta"] > scores["one p"]
    truth = (1 - (1 - p) ** 32).mean()
    assert float(model.curve(32)) == pytest.approx(truth, abs=0.02)
    one = fit_ttspm(right).point
    assert float(one.curve(32)) < truth - 0.05, "one p misses the tail"


def test_equal_questions_choose_one_p():
    p = np.where(np.random.default_rng(3).random(800) < 0.7, 0.3, 0.0)
    model, _ = choose_form(drawn(p, 8, 4))
    assert float(model.curve(32)) == pytest.approx(0.7, abs=0.04)


def test_an_averaged_curve_has_no_single_p():
    """The trap: least squares on the mean curve fits it up to the pilot and misses beyond."""
    p = np.random.default_rng(5).beta(0.4, 2.0, 4000)
    right = drawn(p, 64, 6)
    counts = right[:, :8].sum(axis=1)
    mean = [pass_at_n(counts, 8, n).mean() for n in range(1, 9)]
    (rate, share), _ = curve_fit(
        lambda n, r, f: f * (1 - (1 - r) ** n), np.arange(1, 9), mean, p0=(0.2, 0.7)
    )
    truth = pass_at_n(right.sum(axis=1), 64, 32).mean()
    averaged = TTSPM(p=rate, f_max=share)
    mixture = fit_beta(right[:, :8])
    assert abs(float(mixture.curve(32)) - truth) < 0.02 < abs(float(averaged.curve(32)) - truth)


def test_samples_that_repeat_gain_nothing():
    """At temperature 0 all samples of a question are one: more of them buy no questions."""
    once = np.random.default_rng(7).random(400) < 0.4
    right = np.repeat(once[:, None], 8, axis=1).astype(float)
    found = fit_ttspm(right)
    assert found.point is None and "bounded from below" in found.why
    assert found.p[0] > 0.99
    assert found.f_max[0] < once.mean() < found.f_max[1]
    mixture = fit_beta(right)
    assert float(mixture.curve(32)) == pytest.approx(once.mean(), abs=0.02)


def test_all_wrong_and_all_right_are_intervals():
    wrong = fit_ttspm(np.zeros((50, 8)))
    assert wrong.point is None and wrong.solved[1] == pytest.approx(1 - 0.025 ** (1 / 50), rel=1e-6)
    right = fit_ttspm(np.ones((50, 8)))
    assert right.point is None and right.p[0] > 0.98 and right.p[1] == 1.0
    for grades in (np.zeros((50, 8)), np.ones((50, 8))):
        with pytest.raises(InfeasibleError, match="all 400 samples are"):
            fit_beta(grades)


@pytest.mark.parametrize(
    ("grades", "error", "why"),
    [
        (np.ones((20, 1)), InfeasibleError, "cannot be told apart"),
        (np.full((3, 4), np.nan), SpecError, "12 of 12 grades are missing"),
        (np.full((3, 4), 0.5), SpecError, "not 0 or 1"),
        (np.ones(4), SpecError, "expected \\[questions, samples\\]"),
        (np.empty((0, 4)), SpecError, "expected \\[questions, samples\\]"),
    ],
)
def test_bad_pilots_are_one_clear_sentence(grades, error, why):
    with pytest.raises(error, match=why):
        fit_ttspm(grades)


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda: saturation(0.1, 0.5, 0.0), "a gain of 0"),
        (lambda: saturation(0.1, 0.5, -1.0), "a gain of -1"),
        (lambda: saturation(1.1, 0.5, 0.1), "p is 1.1"),
        (lambda: BetaTTSPM(a=1, b=1, f_max=1).saturation(0.0), "a gain of 0"),
        (lambda: BetaTTSPM(a=0, b=1, f_max=1), "both above 0"),
        (lambda: TwoRate(p=0.5, q=-0.1, f_max=1), "q is -0.1"),
        (lambda: fit_rounds(np.ones((4, 4)), grading_noise=1.0), "grading noise 1"),
    ],
)
def test_what_cannot_be_is_said(call, why):
    with pytest.raises(SpecError, match=why):
        call()


def rounds(p, q, num, count, seed, misgraded=0.0):
    rng = np.random.default_rng(seed)
    state, seen = np.zeros(num, dtype=bool), []
    for _ in range(count):
        draw = rng.random(num)
        state = np.where(state, draw >= q, draw < p)
        seen.append(state ^ (rng.random(num) < misgraded))
    return np.stack(seen, axis=1)


def test_flips_are_detected_and_two_rates_found():
    found = fit_rounds(rounds(0.3, 0.1, 500, 8, 0))
    assert isinstance(found.model, TwoRate) and found.ratio > 3.84
    assert (found.model.p, found.model.q) == pytest.approx((0.3, 0.1), abs=0.03)
    late = rounds(0.3, 0.1, 5000, 20, 1)[:, -1].mean()
    assert float(found.model.curve(20)) == pytest.approx(late, abs=0.03)
    assert float(found.absorbing.curve(20)) > late + 0.15, "absorbing promises too much"


def test_right_answers_that_stay_are_left_alone():
    for seed in range(5):
        found = fit_rounds(rounds(0.2, 0.0, 400, 8, seed))
        assert isinstance(found.model, TTSPM) and found.ratio == 0 and found.flips == 0
        assert found.model.p == pytest.approx(0.2, abs=0.03)


def test_a_few_wrong_grades_are_not_flips():
    kept = sum(
        isinstance(
            fit_rounds(rounds(0.3, 0.0, 400, 8, s, misgraded=0.002), grading_noise=0.01).model,
            TTSPM,
        )
        for s in range(5)
    )
    assert kept == 5


def test_held_out_likelihood_is_that_of_the_counts():
    right = np.array([[1, 0], [0, 0], [1, 1]])
    model = TTSPM(p=0.5, f_max=0.8)
    chances = [0.8 * 0.5, 0.8 * 0.25 + 0.2, 0.8 * 0.25]
    assert log_likelihood(model, right) == pytest.approx(np.log(chances).mean())
