"""Probes that know the teacher only roughly, and easy examples."""

import numpy as np
import pytest

from plimsoll.laws.pruning import perceptron_error
from plimsoll.laws.rough_pruning import probe_error
from plimsoll.spec.errors import SpecError


@pytest.mark.parametrize(("alpha", "f"), [(2.0, 1.0), (4.0, 0.6), (2.0, 0.3), (8.0, 0.3)])
def test_a_perfect_probe_gives_the_same_by_another_way(alpha, f):
    assert probe_error(alpha, f) == pytest.approx(perceptron_error(alpha, f), abs=2e-6)


def test_a_probe_that_is_hardly_off_is_near_a_perfect_one():
    assert probe_error(4.0, 0.5, angle=0.01) == pytest.approx(perceptron_error(4.0, 0.5), abs=2e-3)


@pytest.mark.parametrize("angle", [0.2, 0.6])
def test_with_all_kept_the_probe_does_not_matter(angle):
    assert probe_error(3.0, 1.0, angle=angle) == pytest.approx(0.14284, abs=1e-4)
    assert probe_error(3.0, 1.0, angle=angle, keep="easy") == pytest.approx(0.14284, abs=1e-4)


def test_a_rougher_probe_is_worse_and_its_gain_stops():
    errors = [probe_error(10.0, 0.3, angle=float(np.radians(d))) for d in (0, 5, 10, 20)]
    assert errors == sorted(errors) and errors[3] > 2.5 * errors[0]
    deeper = [probe_error(3.0 / f, f, angle=float(np.radians(20))) for f in (0.75, 0.5, 0.2)]
    assert deeper[1] < deeper[0] < deeper[2]


def test_easy_examples_win_when_few_and_lose_when_many():
    few = [probe_error(1.0, 0.3, keep=way) for way in ("easy", "hard")]
    many = [probe_error(8.0, 0.3, keep=way) for way in ("easy", "hard")]
    assert few[0] < perceptron_error(0.3, 1.0) < few[1]
    assert many[1] < many[0] < perceptron_error(2.4, 1.0)


@pytest.mark.parametrize(
    ("alpha", "f", "angle", "message"),
    [
        (2.0, 0.0, 0.0, "fraction kept of 0"),
        (-1.0, 0.5, 0.0, "-1 examples a dimension"),
        (2.0, 0.5, 2.0, "an angle of 2"),
        (2.0, 0.5, float("nan"), "an angle of nan"),
    ],
)
def test_what_cannot_be(alpha, f, angle, message):
    with pytest.raises(SpecError, match=message):
        probe_error(alpha, f, angle=angle)
