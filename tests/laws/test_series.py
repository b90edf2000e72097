"""Laws of forecasters along one axis: planted ones recovered, unfair comparisons refused."""

import numpy as np
import pytest

from plimsoll.laws.forms.single_power import SinglePower
from plimsoll.laws.series import (
    alpha_gap,
    fit_axes,
    fit_axis,
    lower_envelope,
    suggest_series,
)
from plimsoll.laws.series_table import SeriesLooks, SeriesRuns, read_series_runs, shipped_runs
from plimsoll.spec.errors import InfeasibleError, SpecError

SIZES = 2048.0 * 4.0 ** np.arange(5)
SEEDS = 3


def planted(x, alpha, scale, floor, noise=0.0, seed=0):
    loss = floor + (scale / x) ** alpha
    return loss * np.exp(np.random.default_rng(seed).normal(0, noise, len(x)))


def runs(alpha=0.3, floor=0.4, noise=0.005, offset=0.0):
    """Both architectures over sizes at equal tokens, and 131,072 parameters over data."""
    rows = []
    for arch in ("decoder", "encoder"):
        for seed in range(SEEDS):
            rows += [(arch, size, seed, 320_000.0, 320_000.0) for size in SIZES]
            rows += [(arch, SIZES[3], seed, 320_000 / 4.0**k, 320_000.0) for k in (1, 2, 3)]
    arch, params, seeds, data, seen = (np.array(column) for column in zip(*rows, strict=True))
    loss = planted(params, alpha, 2e3, floor, noise) * (data / 320_000) ** -0.1
    return SeriesRuns(
        name="planted",
        arch=arch,
        params=params,
        seed=seeds.astype(float),
        data_tokens=data,
        seen_tokens=seen,
        scores={"nll": loss - offset},
    )


@pytest.mark.parametrize("floor", [False, True])
def test_gradients_and_coordinates_of_the_form(floor):
    form, x = SinglePower(axis="tokens", floor=floor), {"tokens": SIZES}
    named = {"alpha": 0.3, "x_c": 5e3, "E": 0.7 if floor else 0.0}
    theta = form.coordinates_of(named)
    assert form.named(theta) == pytest.approx(named)
    value = np.exp(form.log_loss(theta, x))
    assert value == pytest.approx(named["E"] + (5e3 / SIZES) ** 0.3)
    for i in range(len(theta)):
        step = 1e-6 * (np.arange(len(theta)) == i)
        slope = (form.log_loss(theta + step, x) - form.log_loss(theta - step, x)) / 2e-6
        assert np.allclose(form.gradient(theta, x)[:, i], slope, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(("alpha", "floor"), [(0.2, 0.0), (0.4, 0.5)])
def test_a_planted_law_is_found_with_or_without_its_floor(alpha, floor):
    x = np.tile(SIZES, SEEDS)
    law = fit_axis("params", x, planted(x, alpha, 1e3, floor, 0.002))
    assert law.alpha == pytest.approx(alpha, rel=0.05)
    assert law.floor == pytest.approx(floor, abs=0.03)
    assert law.r2 > 0.99 and law.held_out < 0.01
    low, high = law.alpha_interval()
    assert low < law.alpha < high


def test_the_largest_size_does_not_choose_the_form_that_predicts_it():
    """Of the stored runs five sizes of the decoder ask for a floor, the smaller four do not."""
    key = "decoder", "params"
    chosen, bare, floored = (
        fit_axes(shipped_runs(), "id_excess", floor=floor)[key] for floor in (None, False, True)
    )
    assert chosen.floor > 0 and chosen.fit.form == floored.fit.form
    assert chosen.held_out == bare.held_out > 5 * floored.held_out


def test_intervals_cover_planted_exponents():
    x = np.tile(SIZES, SEEDS)
    hit = 0
    for seed in range(40):
        law = fit_axis("params", x, planted(x, 0.25, 1e3, 0.0, 0.02, seed), floor=False)
        low, high = law.alpha_interval()
        hit += low <= 0.25 <= high
    assert hit >= 24  # three seeds a size: resampling them is known to be narrow


def test_one_seed_gives_no_interval():
    law = fit_axis("params", SIZES, planted(SIZES, 0.25, 1e3, 0.0))
    assert np.isnan(law.alpha_interval()).all()


def test_axes_of_both_architectures():
    found = fit_axes(runs(), "nll")
    assert set(found) == {
        (arch, axis) for arch in ("encoder", "decoder") for axis in ("params", "tokens")
    }
    law = found["encoder", "params"]
    assert law.alpha == pytest.approx(0.3, abs=0.08) and law.floor == pytest.approx(0.4, abs=0.1)
    assert found["decoder", "tokens"].alpha == pytest.approx(0.1, abs=0.01)


def test_repeated_data_is_not_data():
    """The law of data is in distinct tokens; all those runs saw as many in all."""
    table = runs()
    law = fit_axes(table, "nll")["encoder", "tokens"]
    assert law.fit.box["tokens"] == (5_000.0, 320_000.0)
    assert (table.seen_tokens == 320_000).all()
    law_of_size = fit_axes(table, "nll")["encoder", "params"]
    assert len(law_of_size.fit.table) == 5  # runs that repeated data are not among them


def test_a_negative_likelihood_needs_a_declared_offset():
    table = runs(offset=2.0)
    with pytest.raises(SpecError, match="means nothing until an offset"):
        fit_axes(table, "nll")
    law = fit_axes(table.above("nll", -2.0), "nll")["encoder", "params"]
    assert law.alpha == pytest.approx(0.3, abs=0.08)
    assert table.above("nll", -2.0).above("nll", 0.5).offsets == {"nll": -1.5}


def test_the_offset_decides_the_exponent_of_a_law_without_a_floor():
    """Why it must be declared: the same losses, another zero, another exponent."""
    x = np.tile(SIZES, SEEDS)
    loss = planted(x, 0.3, 2e3, 0.0, 0.002)
    alphas = [fit_axis("params", x, loss + by, floor=False).alpha for by in (0.0, 0.5, 1.0)]
    assert alphas[0] > 1.5 * alphas[1] > 1.5 * 1.2 * alphas[2]


def test_unequal_tokens_are_refused():
    table = runs()
    more = np.where(table.params > 1e5, 2.0, 1.0)
    unfair = SeriesRuns(
        name="planted",
        arch=table.arch,
        params=table.params,
        seed=table.seed,
        data_tokens=table.data_tokens * more,
        seen_tokens=table.seen_tokens * more,
        scores=table.scores,
    )
    with pytest.raises(SpecError, match="at equal tokens, not at equal steps"):
        fit_axes(unfair, "nll")


def test_too_few_sizes_are_said():
    table = runs()
    with pytest.raises(InfeasibleError, match="has three sizes at equal tokens"):
        fit_axes(table.rows((table.params < 1e4) & (table.data_tokens == 320_000)), "nll")


def test_the_lower_envelope_is_never_beaten_by_a_cheaper_point():
    rng = np.random.default_rng(0)
    compute, loss = rng.uniform(1, 100, 300), rng.uniform(1, 2, 300)
    x, best = lower_envelope(compute, loss)
    assert (np.diff(x) > 0).all() and (np.diff(best) < 0).all()
    for c, value in zip(compute, loss, strict=True):
        assert best[x <= c].min() <= value


def test_compute_takes_the_best_size_at_each_budget():
    tokens = 1e4 * 2.0 ** np.arange(8)
    params, seen = (a.ravel() for a in np.meshgrid(SIZES, tokens))
    loss = 0.3 + (1e3 / params) ** 0.4 + (1e4 / seen) ** 0.4
    looks = SeriesLooks(
        arch=np.repeat("encoder", len(loss)),
        params=params,
        seed=np.zeros(len(loss)),
        tokens=seen,
        loss=loss,
    )
    law = fit_axes(runs(), "nll", looks=looks)["encoder", "compute"]
    assert law.alpha == pytest.approx(0.2, abs=0.07)  # half of 0.4, as both are bought
    assert law.fit.box["compute"][1] == 6 * SIZES[-1] * tokens[-1]


def test_two_exponents_are_compared_in_pairs():
    x = np.tile(SIZES, SEEDS)
    noise = np.random.default_rng(3).normal(0, 0.02, len(x))
    first, second = (
        fit_axis("params", x, planted(x, alpha, 1e3, 0.0) * np.exp(noise), floor=False)
        for alpha in (0.3, 0.25)
    )
    gap, low, high = alpha_gap(first, second)
    assert gap == pytest.approx(0.05, abs=1e-3)
    alone = first.alpha_interval()
    assert high - low < 0.2 * (alone[1] - alone[0])  # the noise they share cancels


def test_exponents_with_and_without_a_floor_do_not_compare():
    x = np.tile(SIZES, SEEDS)
    first = fit_axis("params", x, planted(x, 0.3, 1e3, 0.5), floor=True)
    second = fit_axis("params", x, planted(x, 0.3, 1e3, 0.5), floor=False)
    with pytest.raises(SpecError, match="with and without a floor do not compare"):
        alpha_gap(first, second)
    assert first.alpha > 1.5 * second.alpha


@pytest.mark.parametrize(
    ("target", "horizon", "architecture", "first"),
    [
        ("ood-mape", "fixed", "encoder", "data"),
        ("ood-mape", "varying", "decoder", "data"),
        ("id-nll", "fixed", "encoder", "params"),
    ],
)
def test_guidelines(target, horizon, architecture, first):
    found = suggest_series(target=target, horizon=horizon)
    assert (found.architecture, found.first) == (architecture, first)
    assert len(found.reasons) == 2


def test_what_was_measured_goes_before_guidelines():
    x = np.tile(SIZES, SEEDS)
    steep = fit_axis("params", x, planted(x, 0.5, 1e3, 0.0, 0.001))
    flat = fit_axis("tokens", x, planted(x, 0.05, 1e3, 0.0, 0.001))
    assert steep.gain(4.0) == pytest.approx(1 - 4**-0.5, abs=0.01)
    found = suggest_series(
        target="ood-mape", horizon="fixed", measured={"params": steep, "tokens": flat}
    )
    assert found.first == "params" and "four times the parameters" in found.reasons[-1]


def test_targets_that_are_none_are_refused():
    with pytest.raises(SpecError, match="expected id-nll, ood-nll or ood-mape"):
        suggest_series(target="mape", horizon="fixed")


HEADER = "arch,params,seed,data_tokens,seen_tokens,nll\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("params,nll\n2048,1\n", "data_tokens, seen_tokens missing"),
        (HEADER + "encoder,2048,0,many,10,1\n", "line 2: data_tokens is 'many'"),
        (HEADER + "encoder,0,0,10,10,1\n", "line 2: params is 0; expected 1 or more"),
        (HEADER + "encoder,2048,0,20,10,1\n", "20 distinct tokens of 10 seen"),
        (HEADER + "encoder,2048,0,10,10,nan\n", "nll is 'nan'"),
    ],
)
def test_tables_that_are_wrong_are_refused_with_the_line(tmp_path, text, words):
    path = tmp_path / "runs.csv"
    path.write_text(text)
    with pytest.raises(SpecError, match=words):
        read_series_runs(path, ["nll"])


def test_a_table_of_ones_own_is_read(tmp_path):
    path = tmp_path / "runs.csv"
    rows = [f"{size:.0f},1000,1000,{(1e3 / size) ** 0.2 - 1}\n" for size in SIZES]
    path.write_text("params,data_tokens,seen_tokens,nll\n" + "".join(rows))
    table = read_series_runs(path, ["nll"])
    with pytest.raises(SpecError, match="runs.csv: nll is"):
        fit_axes(table, "nll")
    assert fit_axes(table.above("nll", -1.0), "nll")["", "params"].alpha == pytest.approx(0.2)
