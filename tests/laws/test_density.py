"""Capability density: inversion, refusals, records, and what must not be mixed."""

from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.laws.density import (
    RatedModel,
    ReferenceCurve,
    ScoreLadder,
    density,
    fit_ladder,
    fit_reference,
)
from plimsoll.laws.density_trend import (
    DAYS_PER_MONTH,
    bootstrap_trend,
    predict_size,
    trend,
    without_each_family,
)
from plimsoll.laws.forms.two_powers import TwoPowers
from plimsoll.laws.rated_models import read_rated_models, read_release_months
from plimsoll.laws.table import LossTable
from plimsoll.spec.errors import InfeasibleError, SpecError

CURVE = ReferenceCurve(
    a=18.0,
    b=22.0,
    alpha=0.18,
    beta=0.22,
    gamma=-11.0,
    middle=0.46,
    floor=0.25,
    span=0.7,
    sizes=(5e6, 8e8),
)
LADDER = ScoreLadder(
    m=24.0, s=1.3, floor=0.25, span=0.75, sizes=(7e9, 6.5e10), benchmarks=("MMLU",)
)
START = date(2023, 1, 1)


def model(name, params, score, day=None, **more):
    return RatedModel(
        name=name, family=name[0], params=params, scores={"MMLU": score}, released=day, **more
    )


def growing(rate=0.006, months=12, seed=0):
    """A record every month, whose density grows at ``rate`` a day, and worse models beside it."""
    rng = np.random.default_rng(seed)
    found = []
    for month in range(months):
        day = date(2023, 1 + month, 1)
        rho = float(np.exp(rate * (day - START).days))
        size = 5e9 * (month + 1)
        score = float(LADDER.score(np.array(rho * size)))
        found.append(model(f"a{month}", size, score, day))
        for other in range(4):
            worse = rho * size * float(rng.uniform(0.2, 0.8))
            low = float(LADDER.score(np.array(worse)))
            found.append(model(f"{'bcde'[other]}{month}", size, low, day))
    return found


@settings(max_examples=30, deadline=None)
@given(size=st.floats(5e7, 3e11))
def test_both_references_are_inverted_exactly(size):
    score = float(CURVE.score(np.array(size), np.array(1e12)))
    place = (score - CURVE.floor) / CURVE.span
    if 0.05 <= place <= 0.95:
        assert CURVE.effective_size(score) == pytest.approx(size, rel=1e-6)
    ladder_score = float(LADDER.score(np.array(size)))
    if 0.05 <= (ladder_score - 0.25) / 0.75 <= 0.95:
        assert LADDER.effective_size(ladder_score) == pytest.approx(size, rel=1e-9)


@settings(max_examples=20, deadline=None)
@given(low=st.floats(0.3, 0.85), more=st.floats(0.001, 0.05))
def test_a_better_score_is_worth_more(low, more):
    assert LADDER.effective_size(low + more) > LADDER.effective_size(low)
    assert CURVE.effective_size(low + more) > CURVE.effective_size(low)


@pytest.mark.parametrize("score", [-0.1, 0.2, 0.25, 0.27, 0.99, 1.0, 1.2, float("nan")])
def test_the_ends_of_the_sigmoid_are_refused_not_clipped(score):
    with pytest.raises(InfeasibleError, match="not invertible"):
        LADDER.effective_size(score)
    with pytest.raises(InfeasibleError, match="not invertible"):
        CURVE.effective_size(score)


def test_no_size_is_good_enough():
    few = replace(CURVE, tokens=1e9)
    with pytest.raises(InfeasibleError, match="better than any reference size"):
        few.effective_size(0.9)
    assert CURVE.effective_size(0.9) > 1e11


def test_the_form_has_exact_gradients_and_starts_near():
    form = TwoPowers()
    x = {"params": np.array([1e7, 1e8, 1e9]), "tokens": np.array([1e9, 1e8, 1e10])}
    theta = form.coordinates_of({"a": 18.0, "b": 22.0, "alpha": 0.18, "beta": 0.22})
    slope = form.gradient(theta, x)
    for i in range(4):
        step = np.zeros(4)
        step[i] = 1e-6
        numeric = (form.log_loss(theta + step, x) - form.log_loss(theta - step, x)) / 2e-6
        assert slope[:, i] == pytest.approx(numeric, rel=1e-5)
    assert form.named(theta)["b"] == pytest.approx(22.0)


def test_a_reference_without_noise_is_recovered():
    n, d = (a.ravel() for a in np.meshgrid([5e6, 3e7, 1e8, 8e8], [10, 20, 60]))
    x = {"params": n, "tokens": n * d}
    loss = 18 * n**-0.18 + 22 * (n * d) ** -0.22
    losses = np.linspace(0.1, 0.9, 20)
    found = fit_reference(
        LossTable(name="made", columns=x, loss=loss), losses, CURVE.score_at(losses), floor=0.25
    )
    for name in ("a", "b", "alpha", "beta", "gamma", "middle", "span"):
        assert getattr(found, name) == pytest.approx(getattr(CURVE, name), rel=1e-3)
    with pytest.raises(InfeasibleError, match="do not fall with loss"):
        fit_reference(LossTable(name="made", columns=x, loss=loss), losses, losses, floor=0.25)


def test_mixtures_without_active_parameters_are_flagged():
    known = model("m", 5e10, 0.6, active_params=1e10, experts=True)
    found = density(LADDER, known)
    assert found.active == pytest.approx(5 * found.total) and not found.flags
    blind = density(LADDER, replace(known, active_params=None))
    assert blind.active is None and "without a count of active" in blind.flags[0]
    dense = density(LADDER, model("d", 5e10, 0.6))
    assert dense.active == dense.total


def test_worth_outside_the_ladder_is_said():
    found = density(LADDER, model("q", 5e8, 0.8))
    assert found.outside > 1.5 and "outside the reference's sizes" in found.flags[0]


def test_scores_are_averaged_before_they_are_inverted():
    both = replace(LADDER, benchmarks=("MMLU", "ARC"))
    one = RatedModel(name="m", family="m", params=1e10, scores={"MMLU": 0.4, "ARC": 0.7})
    assert density(both, one).effective == pytest.approx(LADDER.effective_size(0.55))
    with pytest.raises(SpecError, match="its score on ARC is None"):
        density(both, model("m", 1e10, 0.4))


def test_the_growth_of_records_is_recovered_and_that_of_all_models_is_another():
    found = trend(LADDER, growing(), since=START)
    assert found.line.rate_per_day == pytest.approx(0.006, rel=1e-6)
    assert found.line.doubling_months == pytest.approx(np.log(2) / 0.006 / DAYS_PER_MONTH)
    assert [d.model.name for d in found.frontier] == [f"a{m}" for m in range(12)]
    worse = [
        *growing(),
        model("z", 1e10, 0.31, date(2023, 6, 2)),
        model("y", 1e10, 0.31, date(2023, 9, 2)),
    ]
    spoiled = trend(LADDER, worse, since=START)
    assert spoiled.line.rate_per_day == pytest.approx(0.006, rel=1e-6)
    assert abs(spoiled.every_month.rate_per_day / 0.006 - 1) > 0.02
    assert spoiled.every_month.r2 < spoiled.line.r2


def test_time_is_days_not_the_rank_of_the_release():
    some = [m for m in growing() if m.name in {"a0", "a1", "a2", "a11"}]
    assert trend(LADDER, some, since=START).line.rate_per_day == pytest.approx(0.006, rel=1e-6)


def test_who_does_not_count_is_counted():
    models = growing()
    models += [model("n", 1e10, 0.5), model("o", 1e10, 0.5, date(2022, 5, 1))]
    models += [model("p", 1e10, 0.99, date(2023, 5, 1)), model("r", 1e10, 0.26, date(2023, 5, 1))]
    found = trend(LADDER, models, since=START, least_score=0.27)
    assert found.excluded == {
        "no release date": 1,
        "released earlier": 1,
        "score not invertible": 1,
        "score of 0.27 or less": 1,
    }
    experts = [replace(m, experts=True) for m in models if m.name == "a3"]
    active = trend(LADDER, [*growing(), *experts], since=START, by="active")
    assert active.excluded == {"active parameters not known": 1}


def test_base_and_instruct_models_are_not_mixed():
    models = growing()
    with pytest.raises(SpecError, match="base and instruct"):
        trend(LADDER, [*models, replace(models[0], instruct=True)], since=START)
    with pytest.raises(InfeasibleError, match="2 records"):
        trend(LADDER, growing(months=2), since=START)
    with pytest.raises(SpecError, match="expected total or active"):
        trend(LADDER, models, since=START, by="all")


def test_resampling_and_leaving_families_out():
    found = trend(LADDER, growing(), since=START)
    months = bootstrap_trend(found, draws=50, seed=1)
    assert len(months) == 50 and np.array_equal(months, bootstrap_trend(found, draws=50, seed=1))
    low, high = np.percentile(months, [2.5, 97.5])
    assert low <= found.line.doubling_months * 1.001 <= high * 1.01
    without = without_each_family(found)
    assert set(without) == {"a", "b", "c", "d", "e"}
    assert without["b"] == pytest.approx(found.line.doubling_months)
    assert without["a"] != pytest.approx(found.line.doubling_months, rel=1e-3)


def test_the_same_score_needs_half_the_size_a_doubling_later():
    found = trend(LADDER, growing(), since=START)
    now, later = date(2023, 12, 1), date(2024, 3, 26)
    first = predict_size(found, LADDER, now, 0.6)
    second = predict_size(found, LADDER, later, 0.6)
    days = (later - now).days
    assert second.params / first.params == pytest.approx(np.exp(-0.006 * days), rel=1e-6)
    assert first.days_beyond == 0 and second.days_beyond == days


def test_ladders_that_are_none():
    rungs = [model(f"l{i}", p, s) for i, (p, s) in enumerate([(7e9, 0.4), (1e10, 0.5)])]
    with pytest.raises(InfeasibleError, match="ladder of 2 sizes"):
        fit_ladder(rungs, ("MMLU",), floor=0.25)
    falling = [model(f"l{i}", p, s) for i, (p, s) in enumerate([(1e9, 0.6), (1e10, 0.5)])]
    with pytest.raises(InfeasibleError, match="do not rise"):
        fit_ladder([*falling, model("x", 1e11, 0.4)], ("MMLU",), floor=0.25)
    with pytest.raises(SpecError, match="base models only"):
        fit_ladder([replace(r, instruct=True) for r in rungs], ("MMLU",), floor=0.25)


def files(tmp_path: Path, month="2023-07", score="0.5", size="7"):
    scores = tmp_path / "scores.csv"
    scores.write_text(
        "Model,Model Family,Model Size (B),MMLU,date\n"
        f"a,A,{size},{score},2024-08-09\nx-8x7B,X,45,,2024-08-09\n"
    )
    months = tmp_path / "months.csv"
    months.write_text(f"model,release_month\na,{month}\n")
    return scores, months


def test_tables_are_read_and_dates_are_those_of_release(tmp_path):
    scores, months = files(tmp_path)
    one, two = read_rated_models(scores, read_release_months(months), ("MMLU",))
    assert one.released == date(2023, 7, 1) and one.params == 7e9 and not one.experts
    assert two.released is None and two.scores == {} and two.experts


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"month": "July 2023"}, "line 2: release_month of a is 'July 2023'; expected YYYY-MM"),
        ({"month": "2023-13"}, "expected YYYY-MM"),
        ({"score": "50.1"}, "a percentage must be divided by 100"),
        ({"score": "good"}, "is 'good'; expected a number"),
        ({"size": "0"}, "expected a positive number"),
    ],
)
def test_bad_tables_are_one_sentence_with_the_line(tmp_path, change, message):
    scores, months = files(tmp_path, **change)
    with pytest.raises(SpecError, match=message):
        read_rated_models(scores, read_release_months(months), ("MMLU",))


def test_a_leaderboard_date_is_not_taken_for_a_release(tmp_path):
    scores, _ = files(tmp_path)
    with pytest.raises(SpecError, match="release_month"):
        read_release_months(scores)
