"""The catalog entry of forecasters of series; models, data and laws are tested on their own."""

from itertools import pairwise

import numpy as np
import pytest

from plimsoll.catalog import tsfm_runs
from plimsoll.catalog.contract import Context
from plimsoll.catalog.tsfm_scaling import SYSTEM, laws
from plimsoll.catalog.verdicts import run_system
from plimsoll.data.series import generate
from plimsoll.laws.series import suggest_series
from plimsoll.laws.series_table import shipped_looks, shipped_rates, shipped_runs


def test_every_quick_check_passes() -> None:
    rows = list(run_system(SYSTEM, Context(), quick=True))
    assert [f"{r.claim}: {r.what}" for r in rows if r.verdict == "fail"] == []
    assert sum(r.verdict == "pass" for r in rows) >= 5


def test_the_stored_sweep_is_whole_and_fair() -> None:
    """Five sizes, two architectures, three seeds, all at equal tokens, each with its own rate."""
    runs = shipped_runs()
    fresh = runs.data_tokens == runs.data_tokens.max()
    cells = set(zip(runs.arch[fresh], runs.params[fresh], runs.seed[fresh], strict=True))
    assert len(cells) == int(fresh.sum()) == 2 * 5 * 3
    assert sorted(set(runs.params.tolist())) == [2048.0 * 4**k for k in range(5)]
    assert len(set(runs.seen_tokens[fresh].tolist())) == 1
    shares = runs.data_tokens.max() / np.unique(runs.data_tokens)
    assert shares == pytest.approx([64, 16, 4, 1], rel=0.01)
    assert len(shipped_rates()) == 10 and len(set(shipped_rates().values())) > 3


def test_losses_never_cross_the_entropy_of_the_generators() -> None:
    runs = shipped_runs()
    for kind in ("id", "ood"):
        least = runs.scores[f"{kind}_excess"] - 2 * runs.scores[f"{kind}_error"]
        assert (least > 0).all()
    looks = shipped_looks()
    assert len(looks.loss) == 30 * 12 and (looks.loss > 0).all()


def test_runs_come_down_on_their_way() -> None:
    looks = shipped_looks()
    for arch in ("encoder", "decoder"):
        mean = [
            looks.loss[(looks.arch == arch) & (looks.tokens == at)].mean()
            for at in np.unique(looks.tokens)
        ]
        assert sum(b < a for a, b in pairwise(mean)) >= 10


def test_advice_from_the_stored_laws_names_both_gains() -> None:
    measured = {axis: laws("ood_mape")["decoder", axis] for axis in ("params", "tokens")}
    advice = suggest_series(target="ood-mape", horizon="fixed", measured=measured)
    assert advice.architecture == "encoder"
    more = measured["tokens"].gain(4.0) > measured["params"].gain(4.0)
    assert advice.first == ("data" if more else "params")


def pool(seed: int = 0):
    return generate(("seasonal", "counts"), seed, num=40, length=192, leads=64, gaps=0.2)


@pytest.mark.parametrize("arch", tsfm_runs.ARCHITECTURES)
def test_a_tiny_run_learns_and_is_the_same_again(arch: tsfm_runs.Arch) -> None:
    first, again = (
        tsfm_runs.train(arch, 8, pool(), seed=1, rate=0.01, tokens=20_000, watch=pool(5))
        for _ in range(2)
    )
    assert first.looks == again.looks and len(first.looks) == 12
    assert first.looks[-1].excess < first.looks[0].excess
    assert first.looks[-1].tokens == 20_000 // 384 * 384


def test_a_run_on_little_data_stops_early_and_keeps_its_best_look() -> None:
    """With a rate so high that it soon gets worse, what is kept is what was best."""
    few, watch = pool().first(8), pool(5)
    kept = tsfm_runs.train(
        "encoder", 16, few, seed=1, rate=0.03, tokens=200_000, watch=watch, keep_best=True
    )
    losses = [look.excess for look in kept.looks]
    assert len(losses) < 12 and losses[-1] > min(losses)
    assert tsfm_runs._excess(kept.model, watch) == pytest.approx(min(losses), abs=1e-6)


@pytest.mark.slow
def test_every_check_passes() -> None:
    rows = list(run_system(SYSTEM, Context()))
    assert [f"{r.claim}: {r.what}" for r in rows if r.verdict == "fail"] == []
