"""The catalog entry of data filtering: its checks, on measured losses and on runs made here."""

from pathlib import Path

import numpy as np
import pytest

from plimsoll.catalog.contract import Context
from plimsoll.catalog.data_filtering import SYSTEM, repeated_runs
from plimsoll.catalog.data_filtering_epochs import families, held_out_error, repeated_table
from plimsoll.catalog.data_filtering_real import NOISE, outcome, trained
from plimsoll.catalog.verdicts import run_system
from plimsoll.laws.forms import Chinchilla, RepeatedDataAndSize

DATA = Path(__file__).resolve().parents[2] / "../shared/data"
needs_data = pytest.mark.skipif(not (DATA / "laws").exists(), reason="no measured points here")


@needs_data
@pytest.mark.slow
def test_every_check_passes() -> None:
    rows = list(run_system(SYSTEM, Context(data=DATA)))
    assert [f"{r.claim}: {r.what}" for r in rows if r.verdict == "fail"] == []
    assert sum(r.verdict == "pass" for r in rows) == 20


def test_what_needs_no_data_passes_without_it() -> None:
    rows = list(run_system(SYSTEM, Context(seeds=(0,))))
    assert {r.verdict for r in rows} <= {"pass", "shown", "not run", "not reproduced"}
    assert sum(r.verdict == "pass" for r in rows) >= 12


@needs_data
def test_losses_with_other_seeds_are_averaged() -> None:
    early, late = repeated_runs(Context(data=DATA))
    assert (early.seen / 4e9).tolist() == [1, 2, 3, 4, 6, 8]
    assert (late.seen / 4e9).tolist() == [10, 13.75]
    assert late.error[1] == pytest.approx(
        (2.693317 + 2.691274 + 2.692641 + 2.692532 + 2.696432) / 5, abs=1e-4
    )


def test_runs_are_the_same_again() -> None:
    """Pools are ranked as they were made, and noise makes a pool worse."""
    alone, unions = trained(0)
    assert alone.shape == (len(NOISE), 9) and unions.shape == (4, 4)
    assert (np.diff(alone[:, -1]) > 0).all()
    fitted = outcome(0).fitted
    assert [p.b for p in fitted.pools] == sorted(p.b for p in fitted.pools)
    trained.cache_clear()
    again, _ = trained(0)
    assert np.array_equal(again, alone)


@needs_data
def test_splits_over_limited_tokens_are_judged_on_measured_runs() -> None:
    """Families hold one pool and one budget, and surplus parameters decide."""
    table = repeated_table(Context(data=DATA))
    found = families(table)
    assert len(found) == 19
    for family in found:
        compute = family.runs.compute
        assert (family.runs.column("unique") == family.unique).all()
        assert compute.max() / compute.min() < 1.4
    ours, plain, tokens = (
        np.array([f.runs.loss[f.pick(*rates)] - f.runs.loss.min() for f in found[-2:]])
        for rates in ((15.4, 5.31), (np.inf, np.inf), (15.4, np.inf))
    )
    assert ours.mean() <= 0.007 and ours.mean() < tokens.mean()
    assert plain.min() >= 0


@needs_data
def test_repeats_fitted_early_predict_later_ones() -> None:
    context = Context(data=DATA)
    ours = held_out_error(context, RepeatedDataAndSize())
    plain = held_out_error(context, Chinchilla())
    assert ours.value < 0.025 < plain.value
