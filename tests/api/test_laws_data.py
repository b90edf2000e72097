"""``laws filter``, ``laws density`` and limited tokens, as a user runs them."""

import json
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from plimsoll.api.laws_advise import advise
from plimsoll.api.laws_budget import allocate, predict_loss
from plimsoll.api.laws_density import densities, read_models
from plimsoll.api.laws_filter import filter_pools
from plimsoll.catalog.data_filtering import POOLS, RELEASED
from plimsoll.laws.quality import best_pool, mix
from plimsoll.laws.repeats import worth
from plimsoll.spec.errors import SpecError
from tests.command_line import plimsoll

LAW = {"factor": RELEASED.a, "floor": RELEASED.d, "normaliser": RELEASED.normaliser}
OPTIONS = ["--factor", "0.025", "--floor", "0.1", "--per", "100k"]
DATA = Path(__file__).resolve().parents[2] / "../shared/data/laws"


@pytest.fixture
def pools(tmp_path):
    path = tmp_path / "pools.csv"
    rows = [f"{p.name},{p.samples},{p.b},{p.tau}" for p in reversed(POOLS)]
    path.write_text("\n".join(["pool,samples,b,tau", *rows]) + "\n")
    return path


@pytest.fixture
def runs(tmp_path):
    path = tmp_path / "runs.csv"
    rows = [
        f"{p.name},{p.samples:.0f},{n:.0f},{RELEASED.error(mix([p]), n):.6f}"
        for p in POOLS
        for n in (6.4e6, 12.8e6, 32e6, 64e6, 128e6)
    ]
    path.write_text("\n".join(["pool,samples,seen,error", *rows]) + "\n")
    return path


def test_the_published_decisions(pools):
    """One pool at small budgets, three at the largest, whatever the order of the file."""
    budgets = [1.28e9, 32e6, 64e6, 128e6, 640e6]
    answer = filter_pools(pools, budgets, **LAW)
    assert [len(choice.pools) for choice in answer.choices] == [1, 1, 2, 2, 3]
    assert answer.choices[-1].errors == best_pool(RELEASED, POOLS, 1.28e9).errors
    data = answer.data()
    assert data["budgets"][0]["samples"] == 32e6
    assert data["budgets"][-1]["pools"] == ["top 10 %", "10-20 %", "20-30 %"]
    starred = [row for row in answer.report().tables[1].rows if row[-1].endswith("*")]
    assert [row[0] for row in starred] == ["+ 20-30 %"]


def test_runs_are_fitted_and_judged_on_their_longest(runs):
    answer = filter_pools(runs, [640e6], floor=0.1)
    assert answer.fitted is not None
    assert max(answer.fitted.held_out.values()) < 0.01
    assert [len(choice.pools) for choice in answer.choices] == [2]
    for pool, true in zip(answer.pools, POOLS, strict=True):
        assert pool.name == true.name
        assert pool.b == pytest.approx(true.b, rel=0.05)
    assert any("5 times the longest run" in note for note in answer.report().notes)


def test_an_error_that_stays_is_searched_and_said(runs):
    lines = runs.read_text().splitlines()
    runs.write_text("\n".join(lines[:11]) + "\n")
    answer = filter_pools(runs, [640e6])
    assert answer.law.d == pytest.approx(0.1, abs=0.05)
    assert any("--floor" in note for note in answer.report().notes)


def test_unequal_pools_are_weighted_and_said(tmp_path):
    path = tmp_path / "pools.csv"
    path.write_text("pool,samples,b,tau\nbig,4e7,-0.12,5\nsmall,1e7,-0.16,5\n")
    answer = filter_pools(path, [5e7], **LAW)
    by_hand = RELEASED.error(mix(answer.pools), 5e7)
    assert answer.choices[0].errors[1] == pytest.approx(by_hand)
    assert any("differ in size" in note for note in answer.report().notes)


@pytest.mark.parametrize(
    ("text", "words", "code", "said"),
    [
        ("pool,samples,b,tau\na,1e6,-0.1,5\n", [], 2, "--factor"),
        ("pool,samples,seen,error\na,1e6,1e6,0.5\n", OPTIONS, 2, "leave --factor"),
        ("pool,samples,seen,error\na,1e6,1e6,0.5\n", [], 3, "runs: 1 of 3"),
        ("pool,samples,q\na,1,1\n", [], 2, "runs to fit"),
        ("pool,samples,b,tau\na,1e6,0.1,5\n", OPTIONS, 2, "below zero"),
        ("pool,samples,b,tau\na,1e6,-0.1,5\na,1e6,-0.1,5\n", OPTIONS, 2, "twice"),
        ("pool,samples,b,tau\na,1e6,-0.1,5\n", [*OPTIONS, "--fading", "x"], 2, "utility or data"),
        (
            "pool,samples,seen,error\na,1e6,1e6,3.5\na,1e6,2e6,3.2\na,1e6,4e6,2.1\n",
            [],
            2,
            "divide losses",
        ),
        (
            "pool,samples,seen,error\na,1e6,1e6,0.5\na,2e6,2e6,0.4\na,1e6,2e6,0.4\n",
            [],
            2,
            "expected one size",
        ),
    ],
)
def test_bad_pools(tmp_path, text, words, code, said):
    path = tmp_path / "pools.csv"
    path.write_text(text)
    done = plimsoll("laws", "filter", "--pools", str(path), "--samples", "64M", *words)
    assert done.code == code and said in done.err and done.out == ""


def test_filter_on_the_command_line(pools, tmp_path):
    page = tmp_path / "page.html"
    words = ["laws", "filter", "--pools", str(pools), "--samples", "32M,640M", *OPTIONS]
    done = plimsoll(*words, "--report", str(page))
    assert done.code == 0 and "1 pool at 32M samples, 2 pools at 640M" in done.out
    assert "next:  plimsoll laws filter" in done.out
    assert "Error of the union" in page.read_text()
    assert len(json.loads(plimsoll(*words, "--json").out)["budgets"]) == 2
    assert plimsoll(*words[:-6], "--samples", "0", *OPTIONS).code == 2


def scores(path, *, months=True):
    """A ladder, and models whose density doubles every four months."""
    rows = ["model,family,params,MMLU,month"]

    def score(size):
        return 0.25 + 0.75 / (1 + np.exp(-(np.log(size) - 24.3) / 1.4))

    for n in (7e9, 13e9, 33e9, 65e9):
        rows.append(f"ladder-{n / 1e9:g}B,Ladder,{n:g},{score(n):.6f},2023-02")
    for k in range(6):
        size = 20e9 / 1.5**k
        month = f"{2023 + (2 + 4 * k) // 12}-{(2 + 4 * k) % 12 + 1:02d}" if months else ""
        rows.append(f"new-{k},New{k},{size:g},{score(size * 2 ** (k + 0.5)):.6f},{month}")
    path.write_text("\n".join(rows) + "\n")
    return path


def rated(path, **asked):
    columns = {"model": "model", "family": "family", "params": "params", "released": "month"}
    models = read_models(path, columns, ["MMLU"], None)
    return densities(models, ["MMLU"], ["Ladder"], source=str(path), **asked)


def test_a_made_trend_comes_back(tmp_path):
    answer = rated(scores(tmp_path / "scores.csv"), since=date(2023, 3, 1))
    data = answer.data()
    assert data["trend"]["records"]["doubling_months"] == pytest.approx(4.0, rel=0.02)
    low, high = data["trend"]["doubling_months_95"]
    assert low <= 4.05 and high >= 3.95
    best = data["models"][0]
    assert best["name"] == "new-5" and best["density_total"] == pytest.approx(2**5.5, rel=0.01)
    json.dumps(data, allow_nan=False)
    assert "--size-for" in answer.report().next_command


def test_the_size_that_a_score_will_take(tmp_path):
    """A doubling later half the size does."""
    path = scores(tmp_path / "scores.csv")
    sizes = [
        rated(path, since=date(2023, 3, 1), size_for=0.6, at=day).data()["trend"]["forecast"]
        for day in (date(2025, 1, 1), date(2025, 5, 1))
    ]
    assert sizes[0]["params"] / sizes[1]["params"] == pytest.approx(2, rel=0.03)
    low, high = sizes[1]["params_at_95"]
    assert low <= sizes[1]["params"] * 1.001 and high >= sizes[1]["params"] * 0.999
    assert sizes[1]["days_beyond_last_record"] > 0


def test_without_dates_there_are_densities_and_no_trend(tmp_path):
    path = scores(tmp_path / "scores.csv", months=False)
    models = read_models(path, {"model": "model"}, ["MMLU"], None)
    answer = densities(models, ["MMLU"], ["Ladder"], source="x")
    assert answer.grown is None and answer.data()["trend"] is None
    assert "densest" in answer.report().title
    with pytest.raises(SpecError, match="no months"):
        densities(models, ["MMLU"], ["Ladder"], source="x", size_for=0.5, at=date(2025, 1, 1))


@pytest.mark.skipif(not DATA.exists(), reason="no measured points here")
def test_public_scores(tmp_path):
    columns = "model=Model,family=Model Family,params=Model Size (B)*1e9"
    done = plimsoll(
        "laws", "density", str(DATA / "obsscaling_base_llm_benchmark_eval.csv"),
        "--benchmarks", "MMLU", "--reference", "Llama", "--columns", columns,
        "--released", str(DATA / "model_release_months.csv"),
        "--since", "2023-01", "--least-score", "0.3", "--json",
    )  # fmt: skip
    trend = json.loads(done.out)["trend"]
    assert 3.1 <= trend["records"]["doubling_months"] <= 4.0
    assert trend["doubling_months_95"][0] < trend["records"]["doubling_months"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--reference", "Lader"], 2, "Did you mean Ladder"),
        (["--reference", "New1"], 3, "sizes: 1 of 3"),
        (["--at", "2025-01"], 2, "both --size-for and --at"),
        (["--size-for", "0.5", "--at", "soon"], 2, "expected a month"),
        (["--by", "all"], 2, "total or active"),
        (["--floor", "1.5"], 2, "--floor 1.5"),
        (["--columns", "model=model,size=params"], 2, "unknown 'size'"),
        (["--size-for", "0.9999", "--at", "2025-01"], 3, "not invertible"),
    ],
)
def test_bad_scores(tmp_path, words, code, said):
    path = scores(tmp_path / "scores.csv")
    base = ["--reference", "Ladder"] if "--reference" not in words else []
    if "--columns" not in words:
        base += ["--columns", "model=model,family=family,params=params,released=month"]
    done = plimsoll("laws", "density", str(path), "--benchmarks", "MMLU", *base, *words)
    assert done.code == code and said in done.err and done.out == ""


def test_epochs_over_a_limited_pool():
    answer = allocate("chinchilla", 1e22, unique=2e10)
    data = answer.data()["epochs"]
    best = data["best"]
    assert best["epochs"] == pytest.approx(answer.found.tokens / 2e10)
    assert best["fresh_tokens_worth"] == pytest.approx(float(worth(answer.found.tokens, 2e10)))
    for row in data["by_epochs"]:
        assert row["loss"] >= best["loss"]
        assert 6 * row["params"] * row["tokens"] == pytest.approx(1e22, rel=1e-3)
    assert data["unlimited"]["loss"] < best["loss"]
    again = predict_loss(
        "chinchilla",
        {"params": answer.found.params, "tokens": answer.found.tokens, "unique": 2e10},
    )
    assert again.found.loss == pytest.approx(answer.found.loss)
    assert "--unique 2e+10" in answer.report().next_command


def test_epochs_with_serving_spend_the_same_budget():
    answer = allocate("chinchilla", 1e23, serve_tokens=1e12, on="64xH100-SXM", unique=2e10)
    data = answer.data()["epochs"]
    for row in data["by_epochs"]:
        assert 6 * row["params"] * row["tokens"] < 1e23
        assert row["loss"] >= data["best"]["loss"] * (1 - 1e-6)
    assert answer.alone is not None and answer.alone.loss < answer.found.loss


def test_enough_tokens_are_said_to_be_enough_and_too_few_too_few():
    enough = allocate("chinchilla", 1e22, unique=4e11)
    assert any("no token is seen twice" in note for note in enough.report().notes)
    few = allocate("chinchilla", 1e23, unique=1e9)
    assert few.data()["epochs"]["beyond_measured_epochs"]
    assert any("collect more data" in note for note in few.report().notes)
    beyond = allocate("repeats", 1e22, unique=1e12)
    assert any("fitted on 100M to 178B different" in note for note in beyond.report().notes)


def test_advice_says_that_tokens_run_out():
    answer = advise("chinchilla", 1e23, on="64xH100-SXM", unique=1e11)
    report = answer.report()
    assert "epochs" in report.title and "--unique 1e+11" in report.next_command
    assert any("different tokens there are: they repeat" in note for note in report.notes)
    names = [row[0] for row in answer.data()["others"]]
    assert "ten times the different tokens" in names


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--unique", "0"], "expected 1 or more"),
        (["--unique", "x"], "not a count"),
        (["--law", "repeats"], "say with --unique"),
    ],
)
def test_bad_limits(words, said):
    done = plimsoll("laws", "allocate", "--flops", "1e22", *words)
    assert done.code == 2 and said in done.err and done.out == ""


def test_a_floor_that_is_searched_is_not_told_by_the_run_held_out(runs):
    """What is predicted of a pool's longest run is the same whatever that run came to."""
    header, *lines = runs.read_text().splitlines()[:6]
    said = []
    for factor in (1.0, 1.1):
        *rest, error = lines[-1].split(",")
        last = ",".join([*rest, f"{factor * float(error):.6f}"])
        runs.write_text("\n".join([header, *lines[:-1], last]) + "\n")
        fitted = filter_pools(runs, [640e6]).fitted
        assert fitted is not None and not fitted.floor_given
        off = fitted.held_out["top 10 %"]
        said.append([factor * float(error) * (1 + sign * off) for sign in (1, -1)])
    assert min(abs(a - b) for a in said[0] for b in said[1]) < 1e-5
