"""Pictures of laws say what tables and ``--json`` say, and their titles claim what holds."""

import csv
import json
import re

import numpy as np
import pytest

from plimsoll.api.law_maps import budgets_of, flop_curves, law_runs
from plimsoll.api.laws_budget import allocate, predict_loss
from plimsoll.api.laws_fit import fit_law
from plimsoll.laws.allocate import compute_optimal
from plimsoll.laws.fit import fit
from plimsoll.laws.forms import Chinchilla
from plimsoll.laws.law import PUBLISHED, law_of_fit
from plimsoll.laws.table import LossTable
from plimsoll.report.html_figures import plotly_figure
from tests.command_line import plimsoll
from tests.law_answers import FAR_LINE, NAMED, by_kind, compared, fitted, split, table


def test_a_fit_draws_the_runs_and_numbers_of_its_json():
    answer = fitted()
    data, drawn = answer.data(), by_kind(answer)
    assert list(drawn) == ["extrapolation", "residuals", "iso-loss", "iso-flop"]
    rows = {row["line"]: row for row in data["runs"]}
    for kind in ("residuals", "iso-loss"):
        picture = drawn[kind]
        runs = picture.runs if kind == "iso-loss" else picture.series[0].runs
        assert [run.line for run in runs] == list(rows)
        for run in runs:
            row = rows[run.line]
            assert (run.loss, run.predicted, run.far) == (
                row["loss"], row["predicted"], row["outlier"]
            )  # fmt: skip
            assert run.inputs == {"params": row["params"], "tokens": row["tokens"]}
            assert run.x == 6 * row["params"] * row["tokens"]
    residuals = [run.residual_ln for run in drawn["residuals"].series[0].runs]
    np.testing.assert_allclose(residuals, answer.found.residuals, rtol=1e-9, atol=1e-12)
    far = [run.line for run in drawn["residuals"].series[0].runs if run.far]
    assert far == data["outlier_lines"] and FAR_LINE in far
    bound = drawn["residuals"].bound_ln
    assert [abs(r) > bound for r in residuals].count(True) == len(far)
    assert f"{len(far)} of 36 are far off" in drawn["residuals"].title


def test_what_was_held_out_is_the_same_everywhere():
    answer = fitted()
    said, picture = answer.data()["held_out"], by_kind(answer)["extrapolation"]
    assert len(said["runs"]) == len(picture.held_out) == 4
    for run, row in zip(picture.held_out, said["runs"], strict=True):
        assert (run.line, run.loss, run.predicted, run.low, run.high) == tuple(
            row[key] for key in ("line", "loss", "predicted", "low", "high")
        )
        assert run.low < run.predicted < run.high
    errors = [abs(run.predicted / run.loss - 1) for run in picture.held_out]
    assert said["error"] == pytest.approx(np.mean(errors), rel=1e-9)
    assert f"{said['num_within']} of 4 inside their 90 % interval" in picture.title
    lines = {run.line for run in picture.fitted}
    assert not lines & {run.line for run in picture.held_out} and len(lines) == 32


def test_the_line_of_an_extrapolation_is_the_least_loss_and_leaves_the_box_where_it_says():
    answer = fitted()
    (line,) = by_kind(answer)["extrapolation"].lines
    law = law_of_fit(answer.held.rest)
    for flops, loss in list(zip(line.xs, line.losses, strict=True))[::8]:
        assert compute_optimal(law, flops, stretch=100).loss == pytest.approx(loss, rel=1e-6)
    assert line.xs[-1] == pytest.approx(10 * answer.found.table.compute.max())
    edge = compute_optimal(law, line.box_ends_at, stretch=100)
    beyond = [edge.params / law.box["params"][1], edge.tokens / law.box["tokens"][1]]
    assert max(beyond) == pytest.approx(1, abs=0.01)
    widths = np.log(np.array(line.highs) / np.array(line.lows))
    inside = np.array(line.xs) < line.box_ends_at
    assert widths[~inside][-1] > 2 * widths[inside].max()


def test_contours_budgets_and_points_of_a_split_agree_with_the_law():
    answer = split()
    data, picture = answer.data(), by_kind(answer)["iso-loss"]
    law = answer.law
    for one in picture.contours:
        x = {"params": np.array(one.params), "tokens": np.array(one.tokens)}
        np.testing.assert_allclose(law.predict(x), one.loss, rtol=1e-9)
    best, alone = picture.points
    for point, said in ((best, data["chosen"]), (alone, data["training_alone"])):
        assert (point.params, point.tokens, point.loss) == tuple(
            said[key] for key in ("params", "tokens", "loss")
        )
    assert best.loss in [one.loss for one in picture.contours]
    training, serving = picture.budgets
    spent = 6 * np.array(training.params) * np.array(training.tokens)
    np.testing.assert_allclose(spent, 1e23, rtol=1e-9)
    params, tokens = np.array(serving.params), np.array(serving.tokens)
    np.testing.assert_allclose(
        6 * params * tokens + answer.weigh(params) * 2 * params * 1e12, 1e23, rtol=1e-9
    )
    # the contour touches its budget's line and no split of that budget is better
    assert law.predict({"params": params, "tokens": tokens}).min() >= best.loss * (1 - 1e-6)
    for one in picture.optimal:
        assert compute_optimal(law, one.flops, stretch=100).loss == pytest.approx(one.loss)


def test_curves_of_a_split_are_marked_where_the_verb_answers():
    answer = split()
    data, picture = answer.data(), by_kind(answer)["iso-flop"]
    named = {one.name: one for one in picture.curves}
    assert list(named) == ["1e22 FLOPs", "1e23 FLOPs", "1e24 FLOPs", "1e23 FLOPs with serving"]
    for name, said in (
        ("1e23 FLOPs with serving", data["chosen"]),
        ("1e23 FLOPs", data["training_alone"]),
    ):
        least = named[name].least
        assert (least.params, least.loss) == (said["params"], said["loss"])
        assert min(named[name].losses) >= least.loss * (1 - 1e-9)
    assert [one.serving for one in picture.curves] == [False, False, False, True]
    assert picture.colors == (0, 1, 2, 1)
    low, high = re.search(r"from (\S+)B to (\S+)B lie within 0.5 %", picture.title).groups()
    mine = named["1e23 FLOPs with serving"]
    good = [
        n for n, v in zip(mine.params, mine.losses, strict=True) if v <= mine.least.loss * 1.005
    ]
    assert (float(low), float(high)) == pytest.approx((good[0] / 1e9, good[-1] / 1e9), rel=0.01)


def test_a_limited_pool_is_drawn_where_its_tokens_end_and_by_the_limited_law():
    answer = allocate("chinchilla", 1e22, unique=2e10)
    drawn = by_kind(answer)
    pool = drawn["iso-loss"].budgets[-1]
    assert pool.name == "20B different tokens" and set(pool.tokens) == {2e10}
    least = next(one.least for one in drawn["iso-flop"].curves if one.name == "1e22 FLOPs")
    assert (least.params, least.loss) == (answer.found.params, answer.found.loss)
    assert least.loss > allocate("chinchilla", 1e22).found.loss
    (chart,) = predict_loss("repeats", {"params": 7e9, "tokens": 2e11, "unique": 2e10}).pictures()
    assert chart.budgets[-1].name == "20B different tokens"


def test_an_answer_at_an_edge_is_not_drawn_as_a_minimum():
    drawn = by_kind(allocate("kaplan", 1e22))
    assert "loss still falls at the largest size allowed" in drawn["iso-flop"].title
    curve = next(one for one in drawn["iso-flop"].curves if one.name == "1e22 FLOPs")
    assert curve.edge and curve.least.params == pytest.approx(max(curve.params), rel=1e-3)
    assert "no optimum" in drawn["iso-loss"].notes[0]
    marks = [trace["name"] for trace in plotly_figure(drawn["iso-flop"])["data"]]
    assert "stands at an edge" in marks


def test_the_forms_of_a_comparison_are_drawn_with_the_errors_of_its_table():
    answer = compared()
    drawn = by_kind(answer)
    errors = {one["form"]: one["held_out_error"] for one in answer.data()["forms"]}
    series = {one.name: one.runs for one in drawn["residuals"].series}
    assert set(series) == {"chinchilla", "chinchilla-q", "kaplan"}
    for name, runs in series.items():
        off = [abs(run.predicted / run.loss - 1) for run in runs]
        assert errors[name]["compute"] == pytest.approx(np.mean(off), rel=1e-9)
    lines = {one.name: one for one in drawn["extrapolation"].lines}
    assert set(lines) == set(series)
    ends = [one.losses[-1] for one in lines.values()]
    apart = re.search(r"are (\S+) % apart", drawn["extrapolation"].title).group(1)
    assert float(apart) == pytest.approx(100 * (max(ends) / min(ends) - 1), abs=0.06)


def test_a_prediction_is_beside_the_cheapest_run_of_its_loss():
    answer = predict_loss("chinchilla", {"params": 7e9, "tokens": 2e12})
    (picture,) = answer.pictures()
    run, cheapest = picture.points
    assert run.loss == pytest.approx(cheapest.loss, rel=1e-9)
    least = compute_optimal(PUBLISHED["chinchilla"], cheapest.flops)
    assert least.loss == pytest.approx(run.loss, rel=1e-5)
    assert f"{run.flops / cheapest.flops:.3g} times fewer" in picture.title
    streams = fit_law(streams_table(), form="parscale")
    assert [one.kind for one in streams.pictures()] == ["extrapolation", "residuals"]


def streams_table():
    from plimsoll.laws.forms import ParScale

    form = ParScale()
    n, p = np.meshgrid([5e8, 7e8, 1e9, 1.6e9, 3e9, 4e9], [1.0, 2, 4, 8], indexing="ij")
    x = {"params": n.ravel(), "streams": p.ravel()}
    theta = form.coordinates_of({"E": 1.3, "A": 0.2, "alpha": 0.19, "k": 0.33})
    noise = np.random.default_rng(0).normal(0, 1e-3, n.size)
    return LossTable(
        name="streams", columns=x, loss=np.exp(form.log_loss(theta, x) + noise)
    )  # fmt: skip


def test_budgets_are_those_of_the_runs_where_these_were_made_at_budgets():
    made = np.repeat([3e18, 2e19, 1.5e20], 6)
    n = np.sqrt(made / 120) * np.tile(np.geomspace(0.25, 4, 6), 3)
    form = Chinchilla()
    x = {"params": n, "tokens": made / 6 / n}
    loss = np.exp(form.log_loss(form.coordinates_of(NAMED), x))
    found = fit(form, LossTable(name="iso", columns=x, loss=loss))
    budgets = budgets_of(found)
    assert budgets == pytest.approx([3e18, 2e19, 1.5e20])
    asked = [(f"{c:g}", c, 0.0, 1.0) for c in budgets]
    curves = flop_curves(law_of_fit(found), asked, runs=law_runs(found)).curves
    assert [len(one.runs) for one in curves] == [6, 6, 6]
    for one in curves:
        for run in one.runs:
            at = np.interp(np.log(run.inputs["params"]), np.log(one.params), one.losses)
            assert run.loss == pytest.approx(at, rel=2e-3) or run.inputs["params"] > one.params[-1]
    rng = np.random.default_rng(0)
    x = {"params": 10 ** rng.uniform(7, 10, 30), "tokens": 10 ** rng.uniform(9, 11, 30)}
    loss = np.exp(form.log_loss(form.coordinates_of(NAMED), x))
    scattered = fit(form, LossTable(name="scattered", columns=x, loss=loss))
    budgets = np.array(budgets_of(scattered))
    compute = scattered.table.compute
    assert len(budgets) > 2 and compute.min() <= budgets.min() <= budgets.max() <= compute.max()
    np.testing.assert_allclose(np.log10(budgets), np.log10(budgets).round(), atol=1e-12)


def test_the_page_the_files_and_the_json_of_one_command_agree(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = table()
    with open("runs.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["params", "tokens", "loss"])
        rows.writerows(zip(*runs.columns.values(), runs.loss, strict=True))
    words = ("laws", "fit", "runs.csv", "--form", "chinchilla", "--json")
    done = plimsoll(*words, "--report", "page.html", "--figures", "drawn")
    assert done.code == 0, done.err
    data = json.loads(done.out)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    embedded = re.search(r'id="report">(.*?)</script>', page, flags=re.DOTALL).group(1)
    drawn = {one["kind"]: one for one in json.loads(embedded)["pictures"]}
    for one, row in zip(drawn["residuals"]["series"][0]["runs"], data["runs"], strict=True):
        assert (one["line"], one["loss"], one["predicted"]) == (
            row["line"], row["loss"], row["predicted"]
        )  # fmt: skip
    held = drawn["extrapolation"]["held_out"]
    assert [one["low"] for one in held] == [row["low"] for row in data["held_out"]["runs"]]
    assert drawn["iso-loss"]["box_params"] == data["box"]["params"]
    assert data["parameters"] == pytest.approx(fitted().data()["parameters"], rel=1e-6)
    names = sorted(path.name for path in (tmp_path / "drawn").iterdir())
    kinds = ("extrapolation", "residuals", "iso-loss", "iso-flop")
    assert names == sorted(f"{k}-{n}.{e}" for k, n in enumerate(kinds, 1) for e in ("svg", "png"))
