"""Data filtering: the best threshold of quality depends on how much one trains.

The laws are ``laws/quality.py``, their fit ``laws/quality_fit.py``; ``data/curate.py`` turns a
choice into a threshold. Decisions from the released parameters are arithmetic; the law of
repetition is fitted on measured losses; pools of four qualities are made and trained on in
``data_filtering_real.py``.
Source: arXiv 2404.07177; losses of huggingface/datablations (Apache-2.0).
"""

import csv
from collections.abc import Callable
from typing import Literal

import numpy as np

from plimsoll.catalog.contract import (
    AtLeast,
    AtMost,
    Check,
    Claim,
    Context,
    Measured,
    Report,
    System,
)
from plimsoll.catalog.data_filtering_epochs import CHECKS as EPOCH_CHECKS
from plimsoll.catalog.data_filtering_epochs import CLAIM as EPOCH_CLAIM
from plimsoll.catalog.data_filtering_real import BUDGETS, NOISE, Outcome, outcome
from plimsoll.laws.forms.contract import Floats
from plimsoll.laws.quality import QualityPool, RepeatUtility, best_pool, mix
from plimsoll.laws.quality_fit import PoolRuns, fit_floor
from plimsoll.spec.errors import SpecError

__all__ = ["POOLS", "RELEASED", "SYSTEM", "repeated_runs", "table_errors"]

RELEASED = RepeatUtility(a=0.025, d=0.1, normaliser=1e5)
POOLS = tuple(
    QualityPool(name=name, samples=12.8e6, b=b, tau=tau)
    for name, b, tau in (
        ("top 10 %", -0.16, 6.73),
        ("10-20 %", -0.125, 8.55),
        ("20-30 %", -0.10, 5.27),
        ("30-40 %", -0.085, 2.27),
    )
)
_TABLE = {
    32e6: (0.8296, 0.8446, 0.8658, 0.8832),
    64e6: (0.7728, 0.7786, 0.8022, 0.8226),
    128e6: (0.7361, 0.7229, 0.7460, 0.7685),
    640e6: (0.7143, 0.6436, 0.6507, 0.6715),
    1280e6: (0.7142, 0.6328, 0.6289, 0.6454),
}
"""Errors worked out by hand from the formula, by samples seen, of the best 1, 2, 3 and 4 pools."""

_CHOSEN = (1, 1, 2, 2, 3)
_JUDGED = 3
_NEVER_FADING = (np.inf, np.inf)


def table_errors(pools: tuple[QualityPool, ...] = POOLS) -> Floats:
    """[budgets, unions] of the law with the released parameters."""
    return np.array([best_pool(RELEASED, pools, n).errors for n in _TABLE])


def _never_fading() -> tuple[QualityPool, ...]:
    return tuple(
        QualityPool(name=p.name, samples=p.samples, b=p.b, tau=float("inf")) for p in POOLS
    )


def _table(pools: tuple[QualityPool, ...]) -> Callable[[Context], Measured]:
    def compute(context: Context) -> Measured:
        off = np.abs(table_errors(pools) - np.array(list(_TABLE.values())))
        return Measured(
            value=float(off.max()),
            detail="largest of 20 errors (5 budgets, 4 unions) from the released parameters, "
            "against the formula worked out by hand",
        )

    return compute


def _choices(pools: tuple[QualityPool, ...]) -> Callable[[Context], Measured]:
    def compute(context: Context) -> Measured:
        kept = [len(best_pool(RELEASED, pools, n).pools) for n in _TABLE]
        right = sum(k == c for k, c in zip(kept, _CHOSEN, strict=True))
        shown = ", ".join(f"{10 * k} % at {n / 1e6:g} M" for k, n in zip(kept, _TABLE, strict=True))
        return Measured(value=right / len(kept), detail=shown)

    return compute


def _direction(context: Context) -> Measured:
    """Smallest change of pools kept from one budget to the next, on many grids of budgets."""
    worst, most = 0.0, 0
    for seed in context.seeds:
        rng = np.random.default_rng(seed)
        budgets = np.sort(10 ** rng.uniform(6.7, 9.5, 200))
        kept = [len(best_pool(RELEASED, POOLS, float(n)).pools) for n in budgets]
        worst = min(worst, float(np.diff(kept).min()))
        most = max(most, max(kept))
    return Measured(
        value=worst,
        detail=f"200 budgets from 5 M to 3 B samples a seed; up to {most} pools kept. "
        "Below 4 M the law gives errors above one, where the order of utilities turns round",
    )


def repeated_runs(context: Context) -> tuple[PoolRuns, PoolRuns]:
    """Measured losses of 2.81 B parameters on 4 B different tokens: up to 8 epochs, and beyond
    (repeats with other seeds averaged)."""
    path = context.file("laws/datablations_val_losses.csv")
    losses: dict[float, list[float]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["params"] == "2810000000" and row["unique_tokens"] == "4000000000":
                losses.setdefault(float(row["epochs"]), []).append(float(row["val_loss_c4"]))
    if len(losses) < 8:
        raise SpecError(f"{path}: {len(losses)} numbers of epochs on 4 B tokens; expected 8")
    epochs = np.array(sorted(losses))
    mean = np.array([np.mean(losses[e]) for e in epochs.tolist()])
    early = epochs <= 8
    first, rest = (
        PoolRuns(name="4 B tokens", samples=4e9, seen=4e9 * epochs[part], error=mean[part])
        for part in (early, ~early)
    )
    return first, rest


def _predicted(
    kind: Literal["utility", "data"], *, fading: bool = True
) -> Callable[[Context], Measured]:
    def compute(context: Context) -> Measured:
        early, late = repeated_runs(context)
        found = fit_floor(
            [early],
            np.arange(0.0, 2.7, 0.1),
            kind=kind,
            normaliser=1e9,
            values=30,
            a=(1e-6, 10.0),
            b=(0.005, 2.0),
            tau=(1.0, 10.0) if fading else _NEVER_FADING,
        )
        union = mix(found.pools)
        ours = np.array([found.law.error(union, n) for n in late.seen.tolist()])
        off = np.abs(ours - late.error)
        pool = found.pools[0]
        return Measured(
            value=float(off.mean()),
            values=tuple(off.tolist()),
            detail=f"fitted on {len(early.seen)} runs of 1 to 8 epochs, predicted at "
            f"{', '.join(f'{n / 4e9:.4g}' for n in late.seen)} epochs; b {pool.b:.3f}, half-life "
            f"{pool.tau:.2f} epochs, d {found.law.d:.1f} nats (all fitted)",
        )

    return compute


def _trained(
    value: Callable[[Outcome], float], *, worst: Callable[..., float], fading: bool = True
) -> Callable[[Context], Measured]:
    def compute(context: Context) -> Measured:
        found = [outcome(seed, fading=fading) for seed in context.seeds]
        values = tuple(value(one) for one in found)
        kept = found[0].predicted.argmin(axis=1) + 1
        best = found[0].measured.argmin(axis=1) + 1
        return Measured(
            value=worst(values),
            values=values,
            detail=f"4 pools of 400 with {', '.join(f'{n:.0%}' for n in NOISE)} labels replaced; "
            f"budgets of {', '.join(f'{b:g}' for b in BUDGETS)} pools; seed {context.seeds[0]} "
            f"keeps {', '.join(map(str, kept))} of 4, best were {', '.join(map(str, best))}; "
            "24 repeats a seed",
        )

    return compute


def _one_epoch(context: Context) -> Measured:
    """Largest change of any error within the first epoch when half-lives are changed."""
    largest = 0.0
    for seed in context.seeds:
        rng = np.random.default_rng(seed)
        for _ in range(50):
            n = float(rng.uniform(1e5, 12.8e6))
            other = tuple(
                QualityPool(name=p.name, samples=p.samples, b=p.b, tau=rng.uniform(0.1, 50))
                for p in POOLS
            )
            mine, theirs = (best_pool(RELEASED, p, n).errors for p in (POOLS, other))
            largest = max(largest, float(np.abs(np.subtract(mine, theirs)).max()))
    return Measured(value=largest, detail="150 budgets below one pool, half-lives 0.1 to 50")


def _power_law(context: Context) -> Measured:
    """Largest relative distance from (a·n)^b + d without fading."""
    largest = 0.0
    for n in np.geomspace(1e6, 1e10, 60).tolist():
        for pool in _never_fading():
            plain = (RELEASED.a * n / RELEASED.normaliser) ** pool.b + RELEASED.d
            largest = max(largest, abs(RELEASED.error(mix([pool]), n) / plain - 1))
    return Measured(value=largest, detail="60 budgets up to 780 epochs, four utilities")


_CLAIMS = (
    Claim(
        id="budget",
        text="aggressive filtering wins at small budgets, and lower quality must be added at "
        "large ones",
        setup="DataComp medium, pools of 12.8 M pairs ranked by quality, ImageNet error",
        where="Figures 1 and 4",
    ),
    Claim(
        id="repetition",
        text="the utility of a sample halves every few repetitions",
        setup="half-lives of 2.3 to 8.6 epochs as released",
        where="section 3",
    ),
    Claim(
        id="unions",
        text="laws fitted on single pools predict their unions without training on them",
        where="Figures 5 and 6",
    ),
    Claim(
        id="laion",
        text="LAION's filter loses to none beyond so many samples",
        value=450e6,
        unit="samples",
        where="Figure 1",
    ),
)

_RELEASED = "the released parameters of the utility law"

_CHECKS = (
    Check(
        claim="budget",
        title="largest distance of errors to the formula's",
        how="derived",
        band=AtMost(5e-4),
        compute=_table(POOLS),
        ablation=_table(_never_fading()),
        ablation_title="utilities that never fade",
        fitted_on=_RELEASED,
    ),
    Check(
        claim="budget",
        title="share of budgets with the right pools kept",
        how="derived",
        band=AtLeast(1.0),
        compute=_choices(POOLS),
        ablation=_choices(_never_fading()),
        ablation_title="utilities that never fade",
        fitted_on=_RELEASED,
    ),
    Check(
        claim="budget",
        title="fewest pools added as the budget grows (never less than none)",
        how="derived",
        band=AtLeast(0.0),
        compute=_direction,
        fitted_on=_RELEASED,
    ),
    Check(
        claim="repetition",
        title="error of losses predicted at 10 and 13.8 epochs, utility law",
        how="derived",
        band=AtMost(0.010),
        unit="nats",
        compute=_predicted("utility"),
        ablation=_predicted("utility", fading=False),
        ablation_title="utilities that never fade",
        fitted_on="measured losses of 1 to 8 epochs",
    ),
    Check(
        claim="repetition",
        title="the same without fading",
        how="derived",
        band=AtLeast(0.018),
        unit="nats",
        compute=_predicted("utility", fading=False),
        fitted_on="measured losses of 1 to 8 epochs",
    ),
    Check(
        claim="repetition",
        title="the same with samples that fade in place of their utility",
        how="derived",
        band=Report("another law of the same source, for comparison"),
        unit="nats",
        compute=_predicted("data"),
        fitted_on="measured losses of 1 to 8 epochs",
    ),
    Check(
        claim="repetition",
        title="distance to a power law of samples without fading",
        how="derived",
        band=AtMost(1e-9),
        compute=_power_law,
    ),
    Check(
        claim="repetition",
        title="influence of half-lives within the first epoch",
        how="derived",
        band=AtMost(0.0),
        compute=_one_epoch,
    ),
    Check(
        claim="unions",
        title="rank correlation of predicted and measured errors of unions, least of the seeds",
        how="run",
        band=AtLeast(0.8),
        compute=_trained(lambda o: o.rank_correlation(_JUDGED), worst=min),
    ),
    Check(
        claim="unions",
        title="error of the union chosen above the best one's, at three budgets up to 8 pools",
        how="run",
        band=AtMost(0.01),
        compute=_trained(lambda o: o.gap(_JUDGED), worst=max),
        ablation=_trained(lambda o: o.gap(_JUDGED), worst=min, fading=False),
        ablation_title="a law without fading keeps the best pool alone",
    ),
    Check(
        claim="unions",
        title="the same with a fourth budget of 16 pools",
        how="run",
        band=Report("four times further than any run that was fitted on"),
        compute=_trained(lambda o: o.gap(len(BUDGETS)), worst=max),
    ),
    Check(
        claim="budget",
        title="error of the best pool alone above the best union's, largest of three budgets",
        how="run",
        band=AtLeast(0.01),
        compute=_trained(lambda o: o.best_only_loses(_JUDGED), worst=min),
        ablation=_trained(lambda o: o.best_only_loses(1), worst=max),
        ablation_title="at the smallest budget alone",
    ),
)

SYSTEM = System(
    id="data-filtering",
    title="Quality against quantity: scaling laws for data filtering",
    arxiv="2404.07177",
    family="laws",
    summary=(
        "Utilities of quality-ranked pools fade with repetition; from each pool's own law follow "
        "the errors of their unions, and how many to keep for a budget"
    ),
    claims=(*_CLAIMS, EPOCH_CLAIM),
    rooms=(
        "laws/quality.py",
        "laws/quality_fit.py",
        "laws/pool_table.py",
        "laws/repeats.py",
        "laws/forms/repeats.py",
        "data/curate.py",
    ),
    checks=(*_CHECKS, *EPOCH_CHECKS),
    not_reproduced={
        "laion": "needs the image-text pairs and hundreds of millions of samples of training",
    },
)
