"""The catalog entry of TTSPM; its curves, fits and rules are tested on their own."""

import numpy as np
import pytest

from plimsoll.catalog.contract import Context
from plimsoll.catalog.ttspm import SYSTEM
from plimsoll.catalog.ttspm_real import rounds_of, samples_of, trained
from plimsoll.catalog.verdicts import run_system


def test_every_quick_check_passes() -> None:
    rows = list(run_system(SYSTEM, Context(), quick=True))
    assert [f"{r.claim}: {r.what}" for r in rows if r.verdict == "fail"] == []
    assert sum(r.verdict == "pass" for r in rows) == 9


def test_a_tiny_model_learns_and_its_grades_are_those_of_its_answers() -> None:
    early, late = trained("product", (5, 60), seed=0)
    grades, said, truth = samples_of(late, questions=30, samples=4, seed=1)
    assert np.array_equal(grades, said == truth[:, None])
    before = samples_of(early, questions=300, samples=4, seed=1)[0]
    after = samples_of(late, questions=300, samples=4, seed=1)[0]
    assert after.mean() >= before.mean()
    again = samples_of(late, questions=300, samples=4, seed=1)[0]
    assert np.array_equal(after, again)
    assert rounds_of(late, questions=20, rounds=3, seed=0).shape == (20, 3)


@pytest.mark.slow
def test_every_check_passes() -> None:
    rows = list(run_system(SYSTEM, Context()))
    assert [f"{r.claim}: {r.what}" for r in rows if r.verdict == "fail"] == []
