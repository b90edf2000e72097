"""Rules that stop sampling: chances by hand, monotone, and what they save."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.serving.policies.sampling import AdaptiveSamples, SettledVotes
from plimsoll.spec.errors import SpecError


def rule(**options):
    return AdaptiveSamples(
        **{"a": 0.5, "b": 2.0, "f_max": 0.8, "value": 1.0, "price": 0.01, "most": 64, **options}
    )


def test_the_chance_is_that_of_the_posterior():
    rng = np.random.default_rng(0)
    p = np.where(rng.random(400_000) < 0.8, rng.beta(0.5, 2.0, 400_000), 0.0)
    for wrong in (0, 1, 5, 20):
        weight = (1 - p) ** wrong
        assert rule().chance(wrong) == pytest.approx((weight * p).sum() / weight.sum(), rel=0.03)


@settings(max_examples=60, deadline=None)
@given(
    a=st.floats(0.05, 5), b=st.floats(0.05, 20), f=st.floats(0.05, 1), price=st.floats(1e-4, 0.5)
)
def test_chances_fall_and_what_stopped_stays_stopped(a, b, f, price):
    one = rule(a=a, b=b, f_max=f, price=price)
    chances = [one.chance(n) for n in range(64)]
    assert all(x >= y for x, y in zip(chances, chances[1:], strict=False))
    going = [one.more(n, 0) for n in range(66)]
    assert going == sorted(going, reverse=True) and not going[64]


def test_a_right_answer_ends_it():
    assert rule().more(3, 0)
    assert not rule().more(3, 1)
    assert not rule(price=0.5).more(0, 0), "not even the first is worth its price"


def test_dearer_samples_stop_sooner():
    lasts = [sum(rule(price=c).more(n, 0) for n in range(64)) for c in (0.005, 0.01, 0.02, 0.05)]
    assert lasts == sorted(lasts, reverse=True) and lasts[0] > lasts[-1]


def test_the_lead_is_a_tail_of_coins():
    one = SettledVotes(confidence=0.95)
    assert one.lead([]) == one.lead([2, 2]) == 0.5
    rng = np.random.default_rng(1)
    share = rng.beta(6, 3, 400_000)
    assert one.lead([2, 5, 1]) == pytest.approx((share > 0.5).mean(), abs=3e-3)


def test_votes_stop_when_settled():
    one = SettledVotes(confidence=0.95, least=2, most=10)
    assert one.more([]) and one.more([1])
    assert not one.more([5])
    assert one.more([3, 3])
    assert not one.more([5, 5]), "no more than that many"


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: rule(a=0.0), "a and b above 0"),
        (lambda: rule(f_max=1.5), "a share from above 0"),
        (lambda: rule(price=0.0), "expected all above 0"),
        (lambda: rule(most=0), "expected all above 0"),
        (lambda: SettledVotes(confidence=0.4), "confidence between"),
        (lambda: SettledVotes(confidence=0.9, least=0), "a least of 1"),
    ],
)
def test_what_cannot_be_is_refused(make, why):
    with pytest.raises(SpecError, match=why):
        make()


def test_a_long_row_of_wrong_samples_does_not_overflow():
    """The chance that a question had none right is then 0 in floating point."""
    one = AdaptiveSamples(a=4e5, b=6e5, f_max=1.0, value=1.0, price=0.01, most=100_000)
    assert one.chance(50_000) == pytest.approx(4e5 / (1e6 + 50_000))
    assert one.more(50_000, 0)
