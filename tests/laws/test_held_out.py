"""Held-out runs: which they are, what the fit to the rest says, and that the fit never saw them."""

import numpy as np
import pytest

from plimsoll.laws.compare import compare, select
from plimsoll.laws.fit import fit
from plimsoll.laws.forms import FORMS, Chinchilla, ParScale
from plimsoll.laws.held_out import deciding_split, hold_out
from plimsoll.laws.table import LossTable
from tests.law_answers import table
from tests.laws.test_fit import surface


def test_the_top_tenth_of_compute_is_held_out_and_predicted_by_the_rest():
    runs = table()
    held = hold_out(Chinchilla(), runs, draws=20)
    assert held.split == "compute" and len(held.test) == 4
    assert held.test.compute.min() >= held.rest.table.compute.max()
    assert len(held.rest.table) + len(held.test) == len(runs)
    assert not set(held.test.lines) & set(held.rest.table.lines)
    said = np.array([one.loss for one in held.predictions])
    np.testing.assert_allclose(said, held.rest.predict(held.test.columns), rtol=1e-12)
    alone = fit(Chinchilla(), held.rest.table)
    np.testing.assert_allclose(alone.theta, held.rest.theta, rtol=1e-9)


def test_losses_that_are_held_out_change_no_prediction():
    runs = table()
    split = deciding_split(runs)
    loss = np.where(split.turns[0], runs.loss * 1.3, runs.loss)
    moved = LossTable(name=runs.name, columns=runs.columns, loss=loss, lines=runs.lines)
    one, other = (hold_out(Chinchilla(), t, draws=0) for t in (runs, moved))
    assert one.predictions == other.predictions
    assert other.error > 0.15 > 0.02 > one.error


def test_it_is_the_error_that_decides_between_forms_whoever_made_the_fit():
    runs = table()
    found = compare(FORMS.values(), runs)
    chosen = next(one for one in found if one.form.name == "chinchilla")
    reused = hold_out(chosen.form, runs, draws=0, rest=chosen.rest)
    assert reused.error == chosen.errors["compute"]
    assert reused.rest is chosen.rest["compute"][0]
    assert hold_out(chosen.form, runs, draws=0).error == pytest.approx(reused.error, rel=1e-9)


def test_intervals_hold_what_they_promise_where_the_form_is_right():
    named = {"E": 1.7, "A": 400.0, "B": 410.0, "alpha": 0.34, "beta": 0.28}
    sizes, tokens = 1e7 * 4.0 ** np.arange(6), 1e9 * 4.0 ** np.arange(6)
    inside = total = 0
    for seed in range(12):
        clean = surface(Chinchilla(), named, sizes, tokens)
        noise = np.random.default_rng(seed).normal(0, 2e-3, len(clean))
        noisy = LossTable(name="t", columns=clean.columns, loss=clean.loss * np.exp(noise))
        held = hold_out(Chinchilla(), noisy, draws=60, seed=seed)
        inside, total = inside + held.num_within, total + len(held.test)
    assert 0.8 <= inside / total <= 1.0


def test_too_few_runs_give_no_check():
    runs = table()
    few = runs.rows(np.argsort(runs.compute)[::7])
    assert fit(Chinchilla(), few) and hold_out(Chinchilla(), few, draws=0) is None


def test_a_table_without_tokens_holds_out_its_largest_sizes_and_can_choose():
    form = ParScale()
    n, p = np.meshgrid([5e8, 7e8, 1e9, 1.6e9, 3e9, 4e9], [1.0, 2, 4, 8], indexing="ij")
    x = {"params": n.ravel(), "streams": p.ravel()}
    theta = form.coordinates_of({"E": 1.3, "A": 0.2, "alpha": 0.19, "k": 0.33})
    runs = LossTable(name="streams", columns=x, loss=np.exp(form.log_loss(theta, x)))
    held = hold_out(form, runs, draws=0)
    assert held.split == "params" and set(held.test.columns["params"]) == {4e9}
    assert select(compare(FORMS.values(), runs)).form.inputs == ("params", "streams")
