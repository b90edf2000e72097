"""A datastore against parameters: the form, the split of a budget, what an answer costs."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.laws.datastore import (
    RETRIEVER_PARAMS,
    answer_cost,
    build_flops,
    compute_optimal,
    size_alone,
    sweep,
)
from plimsoll.laws.fit import bootstrap, fit
from plimsoll.laws.forms import DatastoreTerm
from plimsoll.laws.law import PUBLISHED, Law, law_of, law_of_fit, saved
from plimsoll.laws.predict import predict
from plimsoll.laws.table import LossTable, read_table
from plimsoll.spec.errors import InfeasibleError, SpecError
from plimsoll.spec.io import write

NAMED = {
    "E": 0.4, "A": 300.0, "B": 300.0, "C": 0.9,
    "alpha": 0.33, "beta": 0.29, "gamma": 0.2, "S0": 1e7,
}  # fmt: skip
SIZES, TOKENS = 1e7 * 4.0 ** np.arange(4), 1e9 * 4.0 ** np.arange(4)
STORES = np.array([0.0, 1e7, 1e8, 1e9, 1e10])


def table_of(named=NAMED, noise=0.0):
    n, d, s = (part.ravel() for part in np.meshgrid(SIZES, TOKENS, STORES, indexing="ij"))
    x = {"params": n, "tokens": d, "datastore": s}
    loss = np.exp(DatastoreTerm().log_loss(DatastoreTerm().coordinates_of(named), x))
    spread = np.random.default_rng(0).normal(0, noise, len(n))
    return LossTable(name="made here", columns=x, loss=loss * np.exp(spread))


def law_by_hand(named=NAMED):
    form = DatastoreTerm()
    return Law(
        name="by hand",
        form=form,
        theta=form.coordinates_of(named),
        box={"params": (1e7, 1e10), "tokens": (1e9, 1e12), "datastore": (0.0, 1e12)},
        rmse=None,
        unit="nats",
        points=0,
        source="made here",
    )


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_gradient_is_that_of_the_loss(seed):
    form = DatastoreTerm()
    rng = np.random.default_rng(seed)
    theta = form.coordinates_of(NAMED) + rng.normal(0, 0.1, 8)
    x = {
        "params": 10 ** rng.uniform(6, 10, 6),
        "tokens": 10 ** rng.uniform(8, 12, 6),
        "datastore": np.append(0.0, 10 ** rng.uniform(5, 12, 5)),
    }
    step = 1e-6
    for at in range(8):
        shift = np.zeros(8)
        shift[at] = step
        slope = (form.log_loss(theta + shift, x) - form.log_loss(theta - shift, x)) / (2 * step)
        assert np.allclose(form.gradient(theta, x)[:, at], slope, atol=1e-7)


def test_a_fit_finds_the_constants_it_was_made_with():
    found = fit(DatastoreTerm(), table_of())
    assert found.rmse < 1e-4
    for name in ("E", "C", "alpha", "beta", "gamma"):
        assert found.named[name] == pytest.approx(NAMED[name], rel=0.02)
    noisy = fit(DatastoreTerm(), table_of(noise=0.01))
    assert noisy.rmse == pytest.approx(0.01, rel=0.25)
    assert noisy.named["gamma"] == pytest.approx(NAMED["gamma"], rel=0.3)


def test_a_law_goes_into_a_file_and_back_with_runs_that_had_no_store(tmp_path):
    law = law_of_fit(bootstrap(fit(DatastoreTerm(), table_of(noise=0.01)), draws=10))
    assert law.box["datastore"] == (0.0, 1e10)
    write(saved(law), tmp_path / "law.yaml")
    again = law_of(str(tmp_path / "law.yaml"))
    point = {"params": 1e8, "tokens": 1e10, "datastore": 0.0}
    assert predict(again, point).loss == pytest.approx(predict(law, point).loss, rel=1e-9)
    assert not predict(again, point).outside
    assert predict(again, {**point, "datastore": 1e11}).outside == {"datastore": 10.0}
    with pytest.raises(SpecError, match="datastore is missing"):
        predict(again, {"params": 1e8, "tokens": 1e10})
    bad = replace(saved(law), box={**law.box, "params": (0.0, 1e8)})
    write(bad, tmp_path / "bad.yaml")
    with pytest.raises(SpecError, match=r"box\.params"):
        law_of(str(tmp_path / "bad.yaml"))


def test_only_a_datastore_may_be_zero(tmp_path):
    file = tmp_path / "runs.csv"
    file.write_text("params,tokens,datastore,loss\n1e7,1e9,0,3\n1e7,1e9,1e8,2.5\n")
    columns = {"params": "params", "tokens": "tokens", "datastore": "datastore"}
    assert read_table(file, columns).columns["datastore"].tolist() == [0.0, 1e8]
    for bad, name in (("0,1e9,0,3", "params"), ("1e7,1e9,0,0", "loss"), ("1e7,1e9,-1,3", "datast")):
        file.write_text(f"params,tokens,datastore,loss\n1e7,1e9,0,3\n{bad}\n")
        with pytest.raises(SpecError, match=f"line 3: {name}"):
            read_table(file, columns)


def test_the_cost_of_an_index_is_a_forward_pass_and_small_beside_training():
    share = build_flops(RETRIEVER_PARAMS, 1.4e12) / (6 * 7e9 * 2e12)
    assert 0.0035 < share < 0.004


def test_the_split_spends_the_budget_and_beats_every_other():
    law = law_by_hand()
    found = compute_optimal(law, 1e21)
    spent = 6 * found.params * found.tokens + 2 * RETRIEVER_PARAMS * found.datastore
    assert spent == pytest.approx(1e21, rel=1e-9)
    assert found.store_flops == pytest.approx(2 * RETRIEVER_PARAMS * found.datastore)
    rng = np.random.default_rng(0)
    n = found.params * np.exp(rng.normal(0, 0.3, 4000))
    s = found.datastore * np.exp(rng.normal(0, 0.3, 4000))
    d = (1e21 - 2 * RETRIEVER_PARAMS * s) / (6 * n)
    keep = (d > 0) & (s <= 1e13)
    others = law.predict({"params": n[keep], "tokens": d[keep], "datastore": s[keep]})
    assert others.min() >= found.loss * (1 - 1e-9)
    assert not found.edge


def test_at_the_optimum_a_flop_is_worth_the_same_everywhere():
    law = law_by_hand({**NAMED, "S0": 1e10})
    found = compute_optimal(law, 1e21, retriever_params=1e9)
    assert not found.edge

    def loss(n, d, s):
        x = {"params": n, "tokens": d, "datastore": s}
        return float(law.predict({k: np.array([v]) for k, v in x.items()})[0])

    n, d, s, step = found.params, found.tokens, found.datastore, 1e-4
    by_tokens = (loss(n, d * (1 + step), s) - loss(n, d, s)) / (6 * n * d * step)
    by_size = (loss(n * (1 + step), d, s) - loss(n, d, s)) / (6 * n * d * step)
    by_store = (loss(n, d, s * (1 + step)) - loss(n, d, s)) / (2 * 1e9 * s * step)
    assert by_tokens == pytest.approx(by_store, rel=0.02)
    assert by_tokens == pytest.approx(by_size, rel=0.02)


def test_a_store_is_on_the_frontier_unless_it_is_worth_nothing():
    for budget in 10.0 ** np.arange(19, 23):
        found = compute_optimal(law_by_hand(), budget)
        alone = compute_optimal(law_by_hand(), budget, most_tokens=0.0)
        assert found.datastore > 0 and alone.datastore == 0
        assert found.loss < alone.loss
        nothing = compute_optimal(law_by_hand({**NAMED, "C": 1e-9, "gamma": 0.01}), budget)
        assert nothing.store_fraction < 1e-3


def test_a_store_has_limits_and_says_so():
    found = compute_optimal(law_by_hand(), 1e22, most_tokens=1e10)
    assert found.datastore == pytest.approx(1e10)
    assert "the largest datastore allowed" in found.edge
    far = compute_optimal(law_by_hand(), 5.9e22, stretch=1.0)
    assert "allowed" in far.edge


def test_a_sweep_falls_and_starts_from_the_model_alone():
    law = law_by_hand()
    found = sweep(law, params=1e9, tokens=1e11, datastore=1e11, fractions=(0, 0.01, 0.1, 1))
    losses = [point.loss for point in found]
    assert losses == sorted(losses, reverse=True) and len(set(losses)) == 4
    alone = predict(law, {"params": 1e9, "tokens": 1e11, "datastore": 0.0}).loss
    assert losses[0] == pytest.approx(alone)
    assert found[-1].store_flops == 2 * RETRIEVER_PARAMS * 1e11
    with pytest.raises(SpecError, match="fractions"):
        sweep(law, params=1e9, tokens=1e11, datastore=1e11, fractions=(1.5,))


def test_what_size_alone_has_the_same_loss():
    law = law_by_hand()
    point = {"params": 1e9, "tokens": 1e11, "datastore": 1e6}
    loss = predict(law, point).loss
    size = size_alone(law, loss, tokens=1e11, most_params=1e13)
    assert size > 1e9
    assert predict(law, {**point, "params": size, "datastore": 0.0}).loss == pytest.approx(
        loss, rel=1e-4
    )
    assert size_alone(law, 0.5, tokens=1e11, most_params=1e13) == float("inf")


def test_retrieved_text_and_the_search_are_not_free():
    alone = answer_cost(7e9, tokens=100, retrieved_tokens=0)
    with_store = answer_cost(7e9, tokens=100, retrieved_tokens=3 * 340, chunks=1e9)
    assert alone.total == 2 * 7e9 * 100
    assert with_store.retrieved == 2 * 7e9 * 1020 and with_store.search == 2 * 768 * 1e9
    assert with_store.total > 10 * alone.total


def test_what_cannot_be_split_is_said():
    with pytest.raises(SpecError, match="chinchilla has inputs params, tokens"):
        compute_optimal(PUBLISHED["chinchilla"], 1e22)
    with pytest.raises(SpecError, match="retriever params is 0"):
        compute_optimal(law_by_hand(), 1e22, retriever_params=0)
    with pytest.raises(SpecError, match="stretch 0.5"):
        compute_optimal(law_by_hand(), 1e22, stretch=0.5)
    with pytest.raises(SpecError, match="most tokens -1"):
        compute_optimal(law_by_hand(), 1e22, most_tokens=-1)
    with pytest.raises(InfeasibleError, match="no size from"):
        compute_optimal(law_by_hand(), 1e10)
    short = table_of().rows(np.arange(80) % 5 < 3)
    with pytest.raises(InfeasibleError, match="4 distinct datastore"):
        fit(DatastoreTerm(), short)
