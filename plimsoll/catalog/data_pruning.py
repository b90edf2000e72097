"""Data pruning: with a ranking of difficulty, error falls faster than any power of the examples.

The solved model is ``laws/pruning.py``; perceptrons trained here are ``pruned_perceptrons.py``,
digits ``pruned_digits.py`` (they need scikit-learn, which ships the images). Scores and pruning
are ``data/prune.py``.
Source: arXiv 2206.14486.
"""

import functools
from collections.abc import Callable
from typing import Literal

import numpy as np

from plimsoll.catalog.contract import (
    AtLeast,
    AtMost,
    Between,
    Check,
    Claim,
    Context,
    Measured,
    Report,
    System,
)
from plimsoll.catalog.pruned_digits import (
    KEEPS,
    SEEDS,
    accuracies,
    digits,
    kept_of,
    train_scores,
)
from plimsoll.catalog.pruned_perceptrons import DIMENSIONS, TRIALS, Way, mean_error
from plimsoll.data.prune import prune
from plimsoll.laws.pruning import ParetoPoint, pareto, perceptron_error
from plimsoll.laws.rough_pruning import probe_error

__all__ = ["POINTS", "SYSTEM", "envelope_slope", "random_slopes"]

POINTS = ((2.0, 1.0), (4.0, 1.0), (4.0, 0.6), (2.0, 0.3), (8.0, 0.3), (20.0, 0.15))
_FEW, _MANY, _SHARE = 1.0, 8.0, 0.3
_ROUGH: tuple[tuple[int, float, float, Literal["hard", "easy"]], ...] = (
    (10, 6.0, 0.5, "hard"),
    (10, 10.0, 0.3, "hard"),
    (20, 4.0, 0.75, "hard"),
    (20, 6.0, 0.5, "hard"),
    (0, 1.0, 0.3, "easy"),
    (0, 8.0, 0.3, "easy"),
)
"""Degrees between probe and teacher, alpha_tot, the fraction kept, and which."""


def _theory_against_runs(context: Context) -> Measured:
    gaps, shown = [], []
    for alpha, f in POINTS:
        theory = perceptron_error(alpha, f)
        ran = float(np.mean([mean_error(alpha, f, "hard", seed) for seed in context.seeds]))
        gaps.append(abs(theory - ran))
        shown.append(f"({alpha:g}, {f:g}) {theory:.4f} and {ran:.4f}")
    return Measured(
        value=max(gaps),
        values=tuple(gaps),
        detail=f"theory and runs at (alpha_tot, f): {'; '.join(shown)}; {DIMENSIONS} dimensions, "
        f"{TRIALS * len(context.seeds)} trials",
    )


def _random_against_runs(context: Context) -> Measured:
    """The theory of hard examples against runs that keep examples at random."""
    gaps = [
        abs(
            perceptron_error(alpha, f)
            - float(np.mean([mean_error(alpha, f, "random", s) for s in context.seeds]))
        )
        for alpha, f in POINTS
        if f < 1
    ]
    return Measured(value=min(gaps), values=tuple(gaps), detail="the same points with f < 1")


def _kept_three(context: Context) -> Measured:
    ran = [mean_error(30.0, 0.1, "hard", seed) for seed in context.seeds]
    return Measured(
        value=perceptron_error(30.0, 0.1),
        detail=f"3 kept a dimension of 30; runs {np.mean(ran):.4f} +- {np.std(ran):.4f}, at random "
        f"{perceptron_error(3.0, 1.0):.4f}",
    )


def _kept_three_random(context: Context) -> Measured:
    return Measured(value=perceptron_error(3.0, 1.0), detail="3 a dimension at random")


@functools.cache
def random_slopes() -> dict[float, float]:
    """Local log-log slope of the error of random examples over alpha."""
    step = 1.02
    return {
        alpha: float(
            np.log(perceptron_error(alpha * step, 1.0) / perceptron_error(alpha / step, 1.0))
            / np.log(step**2)
        )
        for alpha in (1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0)
    }


@functools.cache
def _envelope() -> tuple[ParetoPoint, ...]:
    return tuple(pareto(alpha) for alpha in (1.5, 2.0, 2.5))


def envelope_slope() -> float:
    """Log-log slope of the least error over any fraction, from alpha 1.5 to 2.5."""
    first, _, last = _envelope()
    return float(np.log(last.error / first.error) / np.log(last.alpha / first.alpha))


def _steepest(context: Context) -> Measured:
    slopes = random_slopes()
    shown = ", ".join(f"{slope:.2f} at {alpha:g}" for alpha, slope in slopes.items())
    return Measured(value=min(slopes.values()), values=tuple(slopes.values()), detail=shown)


def _shallowest(context: Context) -> Measured:
    slopes = random_slopes()
    return Measured(value=max(slopes.values()), detail=f"{slopes[1.4]:.2f} at 1.4")


def _envelope_slope(context: Context) -> Measured:
    shown = "; ".join(
        f"alpha {p.alpha:g}: best fraction {p.fraction:.2g}, error {p.error:.4f}, at random "
        f"{p.random_error:.4f}"
        for p in _envelope()
    )
    return Measured(value=envelope_slope(), detail=f"{shown}; fractions from 0.02 to 1")


def _random_envelope(context: Context) -> Measured:
    first, _, last = _envelope()
    ratio = last.random_error / first.random_error
    return Measured(value=float(np.log(ratio) / np.log(last.alpha / first.alpha)))


def _ways(alpha: float, way: Way) -> Callable[[Context], Measured]:
    def compute(context: Context) -> Measured:
        values = tuple(mean_error(alpha, _SHARE, way, seed) for seed in context.seeds)
        return Measured(
            value=float(np.mean(values)),
            values=values,
            detail=f"30 % of {alpha:g} a dimension kept, {TRIALS} trials a seed",
        )

    return compute


def _order(alpha: float, best: Way, worst: Way) -> Callable[[Context], Measured]:
    """Smallest distance between neighbours in the expected order, of any seed."""
    middle = ({"hard", "easy", "random"} - {best, worst}).pop()

    def compute(context: Context) -> Measured:
        gaps = []
        for seed in context.seeds:
            first, second, third = (
                mean_error(alpha, _SHARE, way, seed)  # type: ignore[arg-type]
                for way in (best, middle, worst)
            )
            gaps.append(min(second - first, third - second))
        return Measured(
            value=min(gaps), values=tuple(gaps), detail=f"{best} < {middle} < {worst}, each seed"
        )

    return compute


def _auto(context: Context) -> Measured:
    """Share of pilots that choose easy when few, hard when many."""
    right = []
    for seed in context.seeds:
        for alpha, way in ((_FEW, "easy"), (_MANY, "hard")):
            scores = np.arange(100.0)

            def pilot(kept: np.ndarray, alpha: float = alpha, seed: int = seed) -> float:
                hard = bool(kept.min() > 0)  # the highest scores
                return mean_error(alpha, _SHARE, "hard" if hard else "easy", seed)

            found = prune(scores, _SHARE, direction="auto", pilot=pilot)
            right.append(found.direction == way)
    return Measured(value=float(np.mean(right)), detail=f"{len(right)} pilots, 1 and 8 a dimension")


def _rough_against_runs(context: Context) -> Measured:
    """Rough probes with hard examples, and perfect ones with easy examples."""
    gaps, shown = [], []
    for degrees, alpha, f, way in _ROUGH:
        angle = float(np.radians(degrees))
        theory = probe_error(alpha, f, angle=angle, keep=way)
        ran = float(np.mean([mean_error(alpha, f, way, s, angle) for s in context.seeds]))
        gaps.append(abs(theory - ran))
        shown.append(f"{degrees} degrees, {alpha:g}, {f:g} {way}: {theory:.4f} and {ran:.4f}")
    return Measured(value=max(gaps), values=tuple(gaps), detail="; ".join(shown))


def _perfect_against_rough_runs(context: Context) -> Measured:
    """The theory of a perfect probe against runs with rough ones."""
    gaps = [
        abs(
            perceptron_error(alpha, f)
            - np.mean([mean_error(alpha, f, way, s, float(np.radians(d))) for s in context.seeds])
        )
        for d, alpha, f, way in _ROUGH
        if d
    ]
    return Measured(value=float(max(gaps)), values=tuple(map(float, gaps)))


def _best_with_probe(degrees: float) -> Callable[[Context], Measured]:
    """The least error with three kept examples a dimension, over fractions kept."""

    def compute(context: Context) -> Measured:
        errors = {
            f: probe_error(3.0 / f, f, angle=float(np.radians(degrees)))
            for f in (1.0, 0.75, 0.5, 0.4, 0.3, 0.2, 0.1)
        }
        best = min(errors, key=lambda f: errors[f])
        shown = ", ".join(f"{f:g}: {error:.4f}" for f, error in errors.items())
        return Measured(value=errors[best], detail=f"error by fraction {shown}")

    return compute


def _points_lost(metric: str, keep: float) -> Callable[[Context], Measured]:
    def compute(context: Context) -> Measured:
        found = accuracies()
        lost = 100 * (found.full - found.pruned[metric, keep])
        return Measured(
            value=float(lost.mean()), values=tuple(lost.tolist()), detail=_digits_shown()
        )

    return compute


def _points_won(metric: str, keep: float) -> Callable[[Context], Measured]:
    def compute(context: Context) -> Measured:
        found = accuracies()
        won = 100 * (found.pruned[metric, keep] - found.pruned["random", keep])
        error = won.std(ddof=1) / np.sqrt(len(won))
        return Measured(
            value=float(won.mean()),
            values=tuple(won.tolist()),
            detail=f"standard error {error:.2f}; {_digits_shown()}",
        )

    return compute


def _errors_won(metric: str, keep: float) -> Callable[[Context], Measured]:
    """Points won over random in standard errors over the seeds."""

    def compute(context: Context) -> Measured:
        found = accuracies()
        won = 100 * (found.pruned[metric, keep] - found.pruned["random", keep])
        error = float(won.std(ddof=1) / np.sqrt(len(won)))
        return Measured(
            value=float(won.mean()) / error,
            detail=f"{won.mean():.2f} +- {error:.2f} points; {_digits_shown()}",
        )

    return compute


def _digits_shown() -> str:
    found = accuracies()
    shown = [f"all {100 * found.full.mean():.2f} %"]
    for keep in KEEPS:
        rest = ", ".join(
            f"{metric} {100 * found.pruned[metric, keep].mean():.2f}"
            for metric in ("prototypes", "el2n", "random", "easy")
        )
        shown.append(f"{keep:.0%} kept: {rest}")
    return f"accuracy over {SEEDS} seeds: {'; '.join(shown)}"


def _same_again(context: Context) -> Measured:
    """Share of seeds whose kept examples do not change when images to judge are replaced."""
    images, labels = digits()
    same = []
    for seed in context.seeds:
        order = np.random.default_rng(seed).permutation(len(images))
        train, judge = order[:1200], order[1200:]
        spoiled = images.copy()
        spoiled[judge] = np.random.default_rng(seed).random(spoiled[judge].shape)
        for metric in ("prototypes", "el2n"):
            kept = [
                kept_of(train_scores(source[train], labels[train], seed)[metric], 0.5)
                for source in (images, spoiled)
            ]
            same.append(np.array_equal(*kept))
    return Measured(value=float(np.mean(same)), detail="prototypes and EL2N, scored twice each")


_CLAIMS = (
    Claim(
        id="theory",
        text="the error of a student trained on the hardest examples follows from two equations",
        setup="perceptron, perfect probe",
        where="section 2, Figure 1",
    ),
    Claim(
        id="faster",
        text="error falls faster than any power of the examples kept, down to exponentially",
        where="Figure 1",
    ),
    Claim(
        id="direction",
        text="keep hard examples when data are plentiful, easy ones when they are scarce",
        where="Figures 1 and 2",
    ),
    Claim(
        id="prototypes",
        text="a self-supervised metric allows 20 % of ImageNet to be dropped without loss",
        where="Figures 5 and 6",
    ),
    Claim(
        id="sound",
        text="scores see training examples alone, and the same seed keeps the same examples",
    ),
    Claim(
        id="rough",
        text="with a probe at an angle to the teacher the exponential gains stop",
        where="Figure 2",
    ),
)

_CHECKS = (
    Check(
        claim="theory",
        title="largest distance of theory and trained perceptrons",
        how="run",
        band=AtMost(0.01),
        compute=_theory_against_runs,
        ablation=_random_against_runs,
        ablation_title="perceptrons trained on as many examples at random (smallest distance)",
    ),
    Check(
        claim="faster",
        title="error with three kept examples a dimension of thirty",
        how="derived",
        band=Between(0.0166, 0.0186),
        compute=_kept_three,
        ablation=_kept_three_random,
        ablation_title="three at random",
    ),
    Check(
        claim="faster",
        title="steepest slope of random examples, alpha 1 to 8",
        how="derived",
        band=AtLeast(-0.95),
        compute=_steepest,
    ),
    Check(
        claim="faster",
        title="shallowest slope of random examples, alpha 1 to 8",
        how="derived",
        band=Report("-0.5 was expected throughout; the theory reaches it from alpha 1.5 on"),
        compute=_shallowest,
    ),
    Check(
        claim="faster",
        title="slope of the best fraction's error, alpha 1.5 to 2.5",
        how="derived",
        band=AtMost(-3.0),
        compute=_envelope_slope,
        ablation=_random_envelope,
        ablation_title="examples at random",
    ),
    *(
        Check(
            claim="direction",
            title=f"error of {way} examples, 30 % of {alpha:g} a dimension kept",
            how="run",
            band=Between(value - 0.02, value + 0.02),
            compute=_ways(alpha, way),
        )
        for alpha, way, value in (
            (_FEW, "hard", 0.459),
            (_FEW, "random", 0.366),
            (_FEW, "easy", 0.268),
            (_MANY, "hard", 0.075),
            (_MANY, "easy", 0.082),
            (_MANY, "random", 0.154),
        )
    ),
    Check(
        claim="direction",
        title="scarce data: easy before random before hard, smallest distance",
        how="run",
        band=AtLeast(0.0),
        compute=_order(_FEW, "easy", "hard"),
        ablation=_order(_FEW, "hard", "random"),
        ablation_title="the order of plentiful data",
    ),
    Check(
        claim="direction",
        title="plentiful data: hard before easy before random, smallest distance",
        how="run",
        band=AtLeast(0.0),
        compute=_order(_MANY, "hard", "random"),
        ablation=_order(_MANY, "easy", "hard"),
        ablation_title="the order of scarce data",
    ),
    Check(
        claim="direction",
        title="share of pilots that choose the better direction",
        how="run",
        band=AtLeast(1.0),
        compute=_auto,
    ),
    Check(
        claim="rough",
        title="largest distance of theory and runs, probes 10 and 20 degrees off, easy examples",
        how="run",
        band=AtMost(0.01),
        compute=_rough_against_runs,
        ablation=_perfect_against_rough_runs,
        ablation_title="the theory of a perfect probe",
    ),
    Check(
        claim="rough",
        title="least error with three kept a dimension, by a probe 20 degrees off",
        how="derived",
        band=AtLeast(0.05),
        compute=_best_with_probe(20.0),
        ablation=_best_with_probe(0.0),
        ablation_title="a perfect probe",
    ),
    Check(
        claim="prototypes",
        title="points of accuracy lost on digits, 80 % kept by prototypes",
        how="run",
        band=AtMost(0.5),
        unit="points",
        compute=_points_lost("prototypes", 0.8),
        slow=True,
        optional=True,
    ),
    Check(
        claim="prototypes",
        title="standard errors won over random on digits, 50 % kept by prototypes",
        how="run",
        band=AtLeast(3.0),
        unit="errors",
        compute=_errors_won("prototypes", 0.5),
        ablation=_errors_won("easy", 0.5),
        ablation_title="the half nearest to the prototypes",
        slow=True,
        optional=True,
    ),
    Check(
        claim="prototypes",
        title="points won over random on digits, 50 % kept by prototypes",
        how="run",
        band=Report(
            "one point was expected; all the images are worth 1.4 more than a random half, of "
            "which prototypes win most, by a network of one hidden layer"
        ),
        unit="points",
        compute=_points_won("prototypes", 0.5),
        slow=True,
        optional=True,
    ),
    Check(
        claim="prototypes",
        title="points won over random on digits, 50 % kept by EL2N",
        how="run",
        band=Report("shown beside it; needs labels and ten short trainings"),
        unit="points",
        compute=_points_won("el2n", 0.5),
        slow=True,
        optional=True,
    ),
    Check(
        claim="sound",
        title="share of prunings that replaced images to judge leave as they were",
        how="run",
        band=AtLeast(1.0),
        compute=_same_again,
        optional=True,
    ),
)

SYSTEM = System(
    id="data-pruning",
    title="Beyond power laws: pruning data by difficulty",
    arxiv="2206.14486",
    family="laws",
    summary=(
        "Keeping the hard examples of plentiful data, or the easy ones of scarce data, makes "
        "error fall faster than any power of their number"
    ),
    claims=_CLAIMS,
    rooms=("laws/pruning.py", "laws/rough_pruning.py", "data/prune.py"),
    checks=_CHECKS,
)
