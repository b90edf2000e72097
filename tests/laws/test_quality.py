"""Laws of quality and quantity: limits, unions, fits, and what they refuse."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.laws.quality import (
    EffectiveData,
    QualityPool,
    RepeatUtility,
    best_pool,
    effective_samples,
    epoch_ends,
    mix,
    utility_exponent,
)
from plimsoll.laws.quality_fit import PoolRuns, fit_floor, fit_pools
from plimsoll.spec.errors import InfeasibleError, SpecError

LAW = RepeatUtility(a=0.025, d=0.1, normaliser=1e5)
POOLS = tuple(
    QualityPool(name=f"pool {i}", samples=12.8e6, b=b, tau=tau)
    for i, (b, tau) in enumerate([(-0.16, 6.73), (-0.125, 8.55), (-0.10, 5.27), (-0.085, 2.27)])
)


def runs(law, pool, multiples=(0.3, 0.6, 1.0, 1.5, 2, 3, 4), noise=0.0, seed=0):
    seen = pool.samples * np.array(multiples)
    error = np.array([law.error(mix([pool]), n) for n in seen.tolist()])
    error = error + np.random.default_rng(seed).normal(0, noise, len(seen))
    return PoolRuns(name=pool.name, samples=pool.samples, seen=seen, error=error)


@settings(max_examples=40, deadline=None)
@given(n=st.floats(1e5, 1e10), b=st.floats(-0.5, -0.01), d=st.floats(0, 0.5))
def test_without_fading_both_laws_are_a_power_law(n, b, d):
    pool = QualityPool(name="p", samples=12.8e6, b=b, tau=float("inf"))
    for law in (RepeatUtility(a=2.0, d=d, normaliser=1e5), EffectiveData(a=2, d=d, normaliser=1e5)):
        assert law.error(mix([pool]), n) == pytest.approx((2 * n / 1e5) ** b + d, rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(n=st.floats(1e3, 12.8e6), tau=st.floats(0.01, 100))
def test_within_one_epoch_half_lives_have_no_influence(n, tau):
    other = replace(POOLS[0], tau=tau)
    for law in (LAW, EffectiveData(a=0.025, d=0.1, normaliser=1e5)):
        assert law.error(mix([other]), n) == law.error(mix([POOLS[0]]), n)


@settings(max_examples=40, deadline=None)
@given(n=st.floats(1e5, 1e9), more=st.floats(1.01, 20), tau=st.floats(0.5, 20))
def test_more_samples_never_hurt_and_shorter_half_lives_never_help(n, more, tau):
    pool = replace(POOLS[0], tau=tau)
    for law in (LAW, EffectiveData(a=0.025, d=0.1, normaliser=1e5)):
        assert law.error(mix([pool]), n * more) <= law.error(mix([pool]), n)
        longer = replace(pool, tau=tau * 2)
        assert law.error(mix([longer]), n) <= law.error(mix([pool]), n) * (1 + 1e-12)


def test_a_union_sees_a_sample_once_a_pass():
    """The half-life in passes of the union grows with the number of pools; without that the
    errors of unions are far higher."""
    union = mix(POOLS[:2])
    assert union.samples == 25.6e6
    assert union.tau == pytest.approx([13.46, 17.1])
    forgotten = replace(union, tau=np.array([6.73, 8.55]))
    n = 640e6
    assert LAW.error(union, n) == pytest.approx(0.6436, abs=5e-4)
    assert LAW.error(forgotten, n) > LAW.error(union, n) + 0.01
    same = mix([POOLS[0], replace(POOLS[0], name="again")])
    long = QualityPool(name="l", samples=25.6e6, b=-0.16, tau=13.46)
    assert LAW.error(same, n) == pytest.approx(LAW.error(mix([long]), n))


def test_unequal_pools_weigh_by_their_size():
    big = replace(POOLS[0], samples=38.4e6)
    union = mix([big, POOLS[1]])
    assert union.weights == pytest.approx([0.75, 0.25])
    assert union.tau == pytest.approx([6.73 / 0.75, 8.55 / 0.25])
    assert union.exponents(1)[0] == pytest.approx(-0.75 * 0.16 - 0.25 * 0.125)
    parts = [replace(POOLS[0], name=f"part {i}") for i in range(3)]
    whole = mix([*parts, POOLS[1]])
    tripled = replace(big, tau=3 * 6.73)
    assert LAW.error(mix([tripled, POOLS[1]]), 3e8) == pytest.approx(LAW.error(whole, 3e8))


def test_the_public_code_lets_d_fade_and_the_formula_does_not():
    """The numbers of its objective at 128 M samples, which adds d before the later epochs."""

    def theirs(pools, n):
        union = mix(pools)
        ends = epoch_ends(n, union.samples) / 1e5
        b = union.exponents(len(ends))
        first = (0.025 * ends[0]) ** b[0] + 0.1
        return first * np.exp(b[1:] @ np.diff(np.log(ends)))

    found = [theirs(POOLS[: k + 1], 128e6) for k in range(4)]
    assert found == pytest.approx([0.7127, 0.7040, 0.7323, 0.7587], abs=5e-4)
    ours = best_pool(LAW, POOLS, 128e6).errors
    assert ours == pytest.approx([0.7361, 0.7229, 0.7460, 0.7685], abs=5e-4)


def test_the_last_epoch_may_be_cut_short():
    ends = epoch_ends(25.0, 10.0)
    assert ends.tolist() == [10.0, 20.0, 25.0]
    assert epoch_ends(20.0, 10.0).tolist() == [10.0, 20.0]
    assert epoch_ends(3.0, 10.0).tolist() == [3.0]
    by_hand = np.log(10) + 2**-0.5 * np.log(20 / 10) + 2**-1.0 * np.log(25 / 20)
    assert utility_exponent(ends, np.array([2.0]))[0] == pytest.approx(by_hand)
    assert effective_samples(ends, np.array([1.0]))[0] == pytest.approx(10 + 5 + 1.25)
    total = (0.025 * 25e6 / 1e5) ** -0.16 + 0.1
    pool = replace(POOLS[0], samples=1e7, tau=2.0)
    assert LAW.error(mix([pool]), 25e6) > total


def test_the_two_laws_differ():
    other = EffectiveData(a=0.025, d=0.1, normaliser=1e5)
    pool = replace(POOLS[0], tau=1.0)
    assert abs(other.error(mix([pool]), 2e8) - LAW.error(mix([pool]), 2e8)) > 0.02


@pytest.mark.parametrize("kind", ["utility", "data"])
def test_known_laws_are_recovered_from_their_pools(kind):
    made = RepeatUtility if kind == "utility" else EffectiveData
    law = made(a=0.03, d=0.1, normaliser=1e5)
    given_runs = [runs(law, pool) for pool in POOLS[:3]]
    found = fit_pools(given_runs, d=0.1, kind=kind, normaliser=1e5)
    assert found.law.a == pytest.approx(0.03, rel=0.02)
    for pool, true in zip(found.pools, POOLS, strict=False):
        assert pool.b == pytest.approx(true.b, rel=0.01)
        assert pool.tau == pytest.approx(true.tau, rel=0.05)
    assert found.residual < 1e-7 and not found.unidentified
    n = 1e9
    true_errors = [law.error(mix(POOLS[: k + 1]), n) for k in range(3)]
    assert best_pool(found.law, found.pools, n).errors == pytest.approx(true_errors, abs=2e-3)


def test_the_floor_is_found_when_it_is_not_given():
    given_runs = [runs(LAW, pool) for pool in POOLS[:2]]
    found = fit_floor(given_runs, np.array([0.0, 0.05, 0.1, 0.15]), normaliser=1e5)
    assert found.law.d == 0.1


def test_what_the_runs_do_not_fix_is_said():
    once = runs(LAW, POOLS[0], multiples=(0.2, 0.5, 0.8, 1.0))
    found = fit_pools([once], d=0.1, normaliser=1e5)
    assert any("tau, since no run went beyond the first epoch" in u for u in found.unidentified)
    steep = replace(POOLS[0], b=-0.9)
    edge = fit_pools([runs(replace(LAW, a=0.03), steep)], d=0.1, normaliser=1e5)
    assert any("at the edge of its range" in u for u in edge.unidentified)


def test_a_shared_a_pins_utilities_that_a_free_one_trades_off():
    """Two pools that differ in utility alone, measured with noise: with a of its own each, the
    fits of one and the same pool scatter more than with a common one."""
    shared, free = [], []
    for seed in range(6):
        given_runs = [runs(LAW, p, noise=0.003, seed=[seed, i]) for i, p in enumerate(POOLS)]
        together = fit_pools(given_runs, d=0.1, normaliser=1e5, values=30)
        alone = fit_pools(given_runs[:1], d=0.1, normaliser=1e5, values=30)
        shared.append(together.pools[0].b)
        free.append(alone.pools[0].b)
    assert np.std(shared) < np.std(free)


def test_runs_that_cannot_be_fitted():
    good = runs(LAW, POOLS[0])
    two = replace(good, seen=good.seen[:2], error=good.error[:2])
    with pytest.raises(InfeasibleError, match="2 runs for b and tau"):
        fit_pools([two], d=0.1)
    with pytest.raises(SpecError, match=r"not above d = 0.9; expected errors \(not accuracies"):
        fit_pools([good], d=0.9)
    with pytest.raises(SpecError, match="7 of seen, 6 of error"):
        fit_pools([replace(good, error=good.error[:6])], d=0.1)
    with pytest.raises(SpecError, match="0 samples to train on"):
        fit_pools([replace(good, seen=good.seen * 0)], d=0.1)
    with pytest.raises(SpecError, match="no runs"):
        fit_pools([], d=0.1)


def test_pools_and_budgets_that_cannot_be():
    with pytest.raises(SpecError, match="0.5 samples to train on"):
        best_pool(LAW, POOLS, 0.5)
    with pytest.raises(SpecError, match="no pools to choose from"):
        best_pool(LAW, (), 1e6)
    with pytest.raises(SpecError, match="expected different pools"):
        mix([POOLS[0], POOLS[0]])
    for change, message in (
        ({"b": 0.1}, "b is 0.1; expected a number below zero"),
        ({"tau": 0.0}, "tau is 0.0"),
        ({"samples": 0.0}, "samples is 0.0"),
    ):
        with pytest.raises(SpecError, match=message):
            replace(POOLS[0], **change)


@settings(max_examples=30, deadline=None)
@given(low=st.floats(6.7, 9.5), more=st.floats(0.0, 1.0))
def test_more_budget_never_keeps_fewer_pools(low, more):
    few, many = (best_pool(LAW, POOLS, 10.0**e) for e in (low, low + more))
    assert len(few.pools) <= len(many.pools)
    assert few.pools == tuple(p.name for p in POOLS[: len(few.pools)])
