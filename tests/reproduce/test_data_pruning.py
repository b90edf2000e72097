"""The catalog entry of data pruning: theory, trained perceptrons, digits where they are there."""

import importlib.util

import numpy as np
import pytest

from plimsoll.catalog.contract import Context
from plimsoll.catalog.data_pruning import SYSTEM
from plimsoll.catalog.pruned_perceptrons import largest_margin, trial_error
from plimsoll.catalog.verdicts import run_system
from plimsoll.laws.pruning import perceptron_error

needs_digits = pytest.mark.skipif(
    importlib.util.find_spec("sklearn") is None, reason="scikit-learn is not installed"
)


@pytest.mark.slow
def test_every_check_of_perceptrons_passes() -> None:
    rows = [r for r in run_system(SYSTEM, Context(), quick=True)]
    assert [f"{r.claim}: {r.what}" for r in rows if r.verdict == "fail"] == []
    assert sum(r.verdict == "pass" for r in rows) >= 18


@needs_digits
@pytest.mark.slow
def test_what_is_dropped_of_the_digits_is_not_missed() -> None:
    rows = [r for r in run_system(SYSTEM, Context()) if r.claim in ("prototypes", "sound")]
    assert {r.verdict for r in rows} <= {"pass", "shown"} and len(rows) >= 4


def test_without_the_digits_their_checks_are_left_out() -> None:
    if importlib.util.find_spec("sklearn") is None:
        digits = [c for c in SYSTEM.checks if c.claim in ("prototypes", "sound")]
        assert digits and all(check.optional for check in digits)
    else:
        rows = [r for r in run_system(SYSTEM, Context(seeds=(0,)), quick=True)]
        assert next(r for r in rows if r.claim == "sound").verdict == "pass"


def test_the_margin_is_the_largest() -> None:
    """Every example at distance one or more, and none of many other planes does better."""
    rng = np.random.default_rng(0)
    turned = rng.normal(size=(60, 20))
    turned *= np.sign(turned @ rng.normal(size=20))[:, None]
    w = largest_margin(turned)
    assert (turned @ w).min() == pytest.approx(1.0, abs=1e-8)
    best = 1 / np.linalg.norm(w)
    for _ in range(200):
        other = w + rng.normal(0, 0.1, 20) * np.abs(w).mean()
        assert (turned @ other).min() / np.linalg.norm(other) <= best + 1e-12


def test_a_bias_would_be_another_problem() -> None:
    """A plane that need not pass through the origin has a larger margin on the same examples, and
    so is not the student of the theory."""
    theory = perceptron_error(4.0, 1.0)
    plain = np.mean([trial_error(4.0, 1.0, "hard", seed, dim=100) for seed in range(4)])
    assert abs(plain - theory) < 0.015
    gains = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(400, 100))
        sign = np.sign(x @ rng.normal(size=100))[:, None]
        free = largest_margin(np.hstack([x, np.full((400, 1), 30.0)]) * sign)[:100]
        gains.append(np.linalg.norm(largest_margin(x * sign)) / np.linalg.norm(free) - 1)
    assert min(gains) > 0 and max(gains) > 0.002


def test_trials_are_the_same_again() -> None:
    assert trial_error(4.0, 0.3, "hard", 3) == trial_error(4.0, 0.3, "hard", 3)
    assert trial_error(4.0, 0.3, "hard", 3) != trial_error(4.0, 0.3, "hard", 4)
