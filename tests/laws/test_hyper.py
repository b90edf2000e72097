"""Learning rate and batch size: published values, plateaus, sweeps, and what is refused."""

import numpy as np
import pytest

from plimsoll.catalog.step_law import best_points, made_sweep
from plimsoll.laws.hyper import STEP_LAW, StepLaw, suggest
from plimsoll.laws.hyper_sweep import bowls, fit_hyper, read_sweep, regret
from plimsoll.laws.table import LossTable
from plimsoll.spec.errors import InfeasibleError, SpecError

VALUES = [
    (1e9, 1e11, 1.63e-3, 1.108e6),
    (7e9, 1.4e12, 9.17e-4, 5.00e6),
    (70e9, 15e12, 3.68e-4, 1.936e7),
]


@pytest.mark.parametrize(("params", "tokens", "lr", "batch"), VALUES)
def test_published_values(params, tokens, lr, batch):
    found = suggest(params, tokens, seq_len=2048)
    assert found.lr == pytest.approx(lr, rel=2e-3)
    assert found.best_batch_tokens == pytest.approx(batch, rel=1e-3)
    assert found.batch_tokens % 2048 == 0
    assert found.in_box == (params == 1e9)


def test_the_batch_is_what_the_devices_can_be_given():
    found = suggest(1e9, 1e11, seq_len=2048, data_parallel=64, micro_batch=4)
    assert found.batch_sequences % 256 == 0
    assert found.batch_tokens == found.batch_sequences * 2048
    assert abs(found.batch_tokens - found.best_batch_tokens) <= 256 * 2048 / 2
    assert found.steps == round(1e11 / found.batch_tokens)
    assert found.excess == pytest.approx(
        STEP_LAW.excess(1.0, found.batch_tokens / found.best_batch_tokens)
    )


def test_the_plateau_costs_what_it_says_at_its_corners():
    found = suggest(1e9, 1e11, seq_len=2048)
    costs = [
        STEP_LAW.excess(lr / found.lr, batch / found.best_batch_tokens)
        for lr in found.lr_range
        for batch in found.batch_range
    ]
    assert max(costs) == pytest.approx(found.plateau, rel=1e-9)
    assert min(costs) > 0


def test_a_law_without_a_bowl_has_no_plateau():
    bare = StepLaw(
        lr_factor=1.0,
        lr_params=-0.5,
        lr_tokens=0.1,
        batch_factor=1.0,
        batch_tokens=0.5,
        params_box=(1e8, 1e9),
        tokens_box=(1e9, 1e10),
    )
    found = suggest(2e8, 5e9, seq_len=128, law=bare)
    assert found.lr_range is None and found.batch_range is None and found.in_box


@pytest.mark.parametrize(
    ("options", "error", "why"),
    [
        ({"params": 0.0}, SpecError, "params is 0"),
        ({"tokens": -1.0}, SpecError, "tokens is -1"),
        ({"tokens": float("nan")}, SpecError, "tokens is nan"),
        ({"seq_len": 0}, SpecError, "sequence length is 0"),
        ({"data_parallel": 0}, SpecError, "data-parallel size is 0"),
        ({"tokens": 1e5, "data_parallel": 64}, SpecError, "one step of 64 x 1 sequences"),
        ({"data_parallel": 4096}, InfeasibleError, "its plateau ends at"),
    ],
)
def test_what_cannot_be_is_one_clear_sentence(options, error, why):
    arguments = {"params": 1e9, "tokens": 1e11, "seq_len": 2048, **options}
    with pytest.raises(error, match=why):
        suggest(arguments.pop("params"), arguments.pop("tokens"), **arguments)


def test_published_optima_give_these_exponents():
    law = fit_hyper(best_points(), within=0, draws=0).law
    assert (law.lr_params, law.lr_tokens, law.batch_tokens) == pytest.approx(
        (-0.82, 0.29, 0.50), abs=0.01
    )
    wider = fit_hyper(best_points(), within=0, draws=0, batch_on_params=True).law
    assert (wider.batch_tokens, wider.batch_params) == pytest.approx((0.54, -0.35), abs=0.01)


def test_a_known_bowl_is_found_again():
    table = made_sweep(0, noise=1e-5)
    for bowl in bowls(table):
        assert bowl.convex
        assert bowl.hessian == pytest.approx(STEP_LAW.bowl, rel=0.02)
    found = fit_hyper(table, draws=200)
    assert found.law.lr_params == pytest.approx(STEP_LAW.lr_params, abs=0.1)
    assert np.mean([c.nearest for c in regret(table, found.law)]) < 1e-3


def test_other_coefficients_same_regret():
    """The trap of this law: on a flat plateau an exponent far off costs next to nothing."""
    table = made_sweep(1)
    n, d = 5e8, 3e10
    other = StepLaw(
        lr_factor=float(STEP_LAW.lr(n, d)) / n**-0.766 / d**0.197,
        lr_params=-0.766,
        lr_tokens=0.197,
        batch_factor=float(STEP_LAW.batch(n, d)) / d**0.613,
        batch_tokens=0.613,
        params_box=STEP_LAW.params_box,
        tokens_box=STEP_LAW.tokens_box,
    )
    published = np.mean([c.nearest for c in regret(table, STEP_LAW)])
    moved = np.mean([c.nearest for c in regret(table, other)])
    assert abs(moved - published) < 5e-4
    constant = StepLaw(
        lr_factor=1e-3,
        lr_params=0.0,
        lr_tokens=0.0,
        batch_factor=5e5,
        batch_tokens=0.0,
        params_box=STEP_LAW.params_box,
        tokens_box=STEP_LAW.tokens_box,
    )
    assert np.mean([c.nearest for c in regret(table, constant)]) > 3 * published


def test_diverged_runs_go_by_the_rule():
    table = made_sweep(2)
    assert (table.loss == 11).any()
    clean = table.rows(table.loss < 11)
    assert fit_hyper(table, draws=0).law.lr_params == fit_hyper(clean, draws=0).law.lr_params
    assert fit_hyper(table, draws=0).kept < len(clean)


def test_the_loss_of_the_last_step_spoils_the_fit():
    """Unsmoothed losses scatter by half a percent: the points kept are then chance."""

    def cost(noise):
        found = []
        for seed in range(3):
            law = fit_hyper(made_sweep(seed, noise=noise), draws=0).law
            n, d = 2e9, 2e11
            ratio = float(law.lr(n, d)) / float(STEP_LAW.lr(n, d))
            batch = float(law.batch(n, d)) / float(STEP_LAW.batch(n, d))
            found.append(STEP_LAW.excess(ratio, batch))
        return np.mean(found)

    assert cost(5e-3) > 2 * cost(2e-4)


def test_active_parameters_are_another_law():
    """Cells of the same N that differ in another column are kept apart; N decides the pick."""
    table = made_sweep(3)
    active = LossTable(
        name="active",
        columns={
            **table.columns,
            "params": table.columns["params"] / 8,
            "total": table.columns["params"],
        },
        loss=table.loss,
    )
    whole = [c.nearest for c in regret(table, STEP_LAW)]
    wrong = [c.nearest for c in regret(active, STEP_LAW)]
    assert len(whole) == len(wrong) == 15
    assert np.mean(wrong) > 4 * np.mean(whole)


def test_one_ratio_of_tokens_to_parameters_cannot_tell():
    table = made_sweep(0)
    one = table.rows(np.isclose(table.columns["tokens"] / table.columns["params"], 20))
    with pytest.raises(InfeasibleError, match="cannot be told apart"):
        fit_hyper(one)


HEADER = "N,D,lr,bs,smooth loss\n"


def test_sequences_need_their_length(tmp_path):
    path = tmp_path / "sweep.csv"
    path.write_text(HEADER + "2e8,4e9,0.002,128,2.6\n2e8,4e9,0.004,128,2.7\n")
    with pytest.raises(SpecError, match="no sequence length was given"):
        read_sweep(path)
    with pytest.raises(SpecError, match="if it is in sequences, give their length"):
        read_sweep(path, batch_in="tokens")
    assert read_sweep(path, seq_len=2048).columns["batch"].tolist() == [262144.0, 262144.0]


def test_a_batch_larger_than_the_run_is_refused(tmp_path):
    path = tmp_path / "sweep.csv"
    path.write_text(HEADER + "2e8,1e6,0.002,1024,2.6\n")
    with pytest.raises(SpecError, match="a batch of 2,097,152 tokens in a run of 1,000,000"):
        read_sweep(path, seq_len=2048)
