"""Capability density: what a model's score is worth in parameters, and how fast that grows.

The law is ``laws/density.py``, the trend ``laws/density_trend.py``. Scores are the public MMLU of
base models, dates the months of their announcements; the reference is the first Llama ladder
(7 to 65 B), so densities are relative to it and not to the paper's own small models. The closed
loop makes models of known density and asks for it back.
Source: arXiv 2412.04315; scores of ryoungj/ObsScaling (Apache-2.0).
"""

from collections.abc import Callable, Sequence
from datetime import date

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
from plimsoll.catalog.density_small_models import Densities, densities
from plimsoll.laws.density import (
    RatedModel,
    Reference,
    ReferenceCurve,
    density,
    fit_ladder,
    fit_reference,
)
from plimsoll.laws.density_trend import Trend, bootstrap_trend, trend, without_each_family
from plimsoll.laws.rated_models import read_rated_models, read_release_months
from plimsoll.laws.table import LossTable
from plimsoll.spec.errors import InfeasibleError

__all__ = ["SYSTEM", "base_models", "recovered", "trend_on"]

_SINCE = date(2023, 1, 1)
_LEAST = 0.30
_DRAWS = 300
_TRUE = ReferenceCurve(
    a=18.0,
    b=22.0,
    alpha=0.18,
    beta=0.22,
    gamma=-11.0,
    middle=0.46,
    floor=0.25,
    span=0.70,
    sizes=(5.25e6, 8.28e8),
)
_SIZES = (5.25e6, 31.5e6, 106e6, 245e6, 477e6, 828e6)
_RATIOS = (10, 15, 20, 30, 40, 60)
_NOISE = 2e-4
_LOUD = 1e-3
_MODELS = 50
_BEYOND = (-0.02, 0.0, 0.01, 0.03, 0.97, 0.99, 1.02)


def base_models(context: Context) -> list[RatedModel]:
    """Base models with their MMLU and months of release."""
    months = read_release_months(context.file("laws/model_release_months.csv"))
    path = context.file("laws/obsscaling_base_llm_benchmark_eval.csv")
    return read_rated_models(path, months, ("MMLU",))


def trend_on(context: Context, families: Sequence[str] = ("Llama",)) -> Trend:
    """The trend relative to the ladder of those families."""
    models = base_models(context)
    ladder = fit_ladder([m for m in models if m.family in families], ("MMLU",), floor=0.25)
    return trend(ladder, models, since=_SINCE, least_score=_LEAST)


def _shown(found: Trend) -> str:
    line, every = found.line, found.every_month
    left_out = ", ".join(f"{n} {why}" for why, n in found.excluded.items())
    beyond = sum(d.outside != 1 for d in found.rated)
    best = found.frontier[-1]
    return (
        f"{line.points} records of {len(found.rated)} models, R2 {line.r2:.2f}, doubling "
        f"{line.doubling_months:.2f} months; through the best of every month "
        f"{every.doubling_months:.2f} months, R2 {every.r2:.2f}. Left out: {left_out}. "
        f"{beyond} are worth sizes outside the ladder's; the last record, {best.model.name}, has "
        f"{best.total:.1f} on this benchmark alone"
    )


def _line(value: Callable[[Trend], float], *families: str) -> Callable[[Context], Measured]:
    def compute(context: Context) -> Measured:
        found = trend_on(context, families or ("Llama",))
        return Measured(value=value(found), detail=_shown(found))

    return compute


def _bootstrap(at: float) -> Callable[[Context], Measured]:
    def compute(context: Context) -> Measured:
        found = trend_on(context)
        ends = tuple(
            float(np.percentile(bootstrap_trend(found, draws=_DRAWS, seed=seed), at))
            for seed in context.seeds
        )
        detail = f"{_DRAWS} draws over models with the reference kept, seeds {context.seeds}"
        return Measured(value=float(np.median(ends)), values=ends, detail=detail)

    return compute


def _families(pick: Callable[[Sequence[float]], float]) -> Callable[[Context], Measured]:
    def compute(context: Context) -> Measured:
        months = without_each_family(trend_on(context))
        value = pick(list(months.values()))
        at = next(name for name, m in months.items() if m == value)
        return Measured(
            value=value,
            detail=f"without {at}; {len(months)} families left out in turn, the ladder kept",
        )

    return compute


def recovered(seed: int, noise: float, *, two_steps: bool = True) -> tuple[float, int, int]:
    """(largest relative error of density, models rated, models refused) of made-up models whose
    scores spread over the sigmoid and beyond, with ``noise`` in ln loss and in scores.
    ``two_steps`` False reads sizes off the reference models alone, by a sigmoid in ln N."""
    rng = np.random.default_rng(seed)
    n = np.repeat(_SIZES, len(_RATIOS))
    d = n * np.tile(_RATIOS, len(_SIZES))
    loss = _TRUE.a * n**-_TRUE.alpha + _TRUE.b * d**-_TRUE.beta
    runs = LossTable(
        name="made reference",
        columns={"params": n, "tokens": d},
        loss=loss * np.exp(rng.normal(0, noise, len(n))),
    )
    losses = np.linspace(0.1, 0.9, 40)
    scores = _TRUE.score_at(losses) + rng.normal(0, noise, len(losses))
    curve: Reference = fit_reference(runs, losses, scores, floor=_TRUE.floor)
    if not two_steps:
        small = [
            RatedModel(name="r", family="r", params=float(p), scores={"score": float(s)})
            for p, s in zip(n, _TRUE.score_at(loss), strict=True)
        ]
        curve = fit_ladder(small, ("score",), floor=_TRUE.floor, top=_TRUE.floor + _TRUE.span)
    places = np.concatenate([rng.uniform(0.06, 0.94, _MODELS), _BEYOND])
    worst, rated, refused = 0.0, 0, 0
    for i, place in enumerate(places.tolist()):
        true_score = _TRUE.floor + _TRUE.span * place
        rho = float(np.exp(rng.normal(0, 1)))
        known = i < _MODELS
        size = _TRUE.effective_size(true_score) / rho if known else 1e9
        score = true_score + rng.normal(0, noise) * known
        model = RatedModel(name=f"m{i}", family="made", params=size, scores={"score": score})
        try:
            found = density(curve, model)
        except InfeasibleError:
            refused += 1
            continue
        rated += 1
        worst = max(worst, abs(found.total / rho - 1) if known else float("inf"))
    return worst, rated, refused


def _closed_loop(noise: float, *, two_steps: bool = True) -> Callable[[Context], Measured]:
    def compute(context: Context) -> Measured:
        found = [recovered(seed, noise, two_steps=two_steps) for seed in context.seeds]
        errors = tuple(worst for worst, _, _ in found)
        rated = min(rated for _, rated, _ in found)
        return Measured(
            value=max(errors),
            values=errors,
            detail=f"largest of {rated} models between 6 and 94 % of the sigmoid, worth 1e8 to "
            f"5e11 parameters at 1e12 tokens; reference of {len(_SIZES) * len(_RATIOS)} runs up to "
            f"8.3e8; noise {noise:g} in ln loss and score",
        )

    return compute


def _refused(context: Context) -> Measured:
    found = [recovered(seed, _NOISE) for seed in context.seeds]
    shares = tuple(refused / len(_BEYOND) for _, _, refused in found)
    return Measured(
        value=min(shares),
        values=shares,
        detail=f"{len(_BEYOND)} scores below the floor, above the top or within 5 % of either, "
        f"and {min(rated for _, rated, _ in found)} of {_MODELS} others answered",
    )


def _small(
    value: Callable[[Densities], float], pick: Callable[..., float]
) -> Callable[[Context], Measured]:
    def compute(context: Context) -> Measured:
        found = [densities(seed) for seed in context.seeds]
        values = tuple(value(one) for one in found)
        shown = f"seed {context.seeds[0]}: {found[0].shown}; 4 networks each"
        return Measured(value=float(pick(values)), values=values, detail=shown)

    return compute


def _small_twin(context: Context) -> Measured:
    """Densities of noisy networks of one seed over those of the next, the smallest."""
    found = [densities(seed).plain for seed in context.seeds]
    values = tuple(a / b for a, b in zip(found, [*found[1:], found[0]], strict=True))
    return Measured(value=min(values), values=values)


_CLAIMS = (
    Claim(
        id="growth",
        text="ln of the largest density grows by so much a day",
        value=0.007,
        unit="1/day",
        setup="29 open base models, five benchmarks, the paper's own reference models",
        where="Figure 1",
    ),
    Claim(
        id="doubling",
        text="the largest density doubles in so many months",
        value=3.3,
        unit="months",
        setup="as above; 3.5 months over 51 models in the journal version",
        where="Figure 1",
    ),
    Claim(
        id="spread",
        text="R2 of the line through the records",
        value=0.93,
        where="section 3",
    ),
    Claim(
        id="inversion",
        text="density follows from a score by a law of loss and a sigmoid of score over loss",
        where="section 2",
    ),
    Claim(
        id="price",
        text="the price of inference at GPT-3.5's level fell by this factor from January 2023",
        value=266.7,
        unit="times",
        where="section 4",
    ),
    Claim(id="cleaner", text="better data make a denser model", where="section 5"),
    Claim(
        id="compressed",
        text="pruned and distilled models are usually less dense than what they came from",
        where="Figure 5",
    ),
)

_MEASURED = "MMLU of public base models; ladder of the first Llama"

_CHECKS = (
    Check(
        claim="growth",
        title="rate of the records since 2023, relative to the first Llama ladder",
        how="derived",
        band=Between(0.0057, 0.0073),
        unit="1/day",
        compute=_line(lambda t: t.line.rate_per_day),
        ablation=_line(lambda t: t.every_month.rate_per_day),
        ablation_title="the best of every month in place of the records",
        fitted_on=_MEASURED,
    ),
    Check(
        claim="doubling",
        title="doubling time of the records since 2023",
        how="derived",
        band=Between(3.1, 4.0),
        unit="months",
        compute=_line(lambda t: t.line.doubling_months),
        ablation=_line(lambda t: t.every_month.doubling_months),
        ablation_title="the best of every month in place of the records",
        fitted_on=_MEASURED,
    ),
    Check(
        claim="doubling",
        title="doubling time relative to the ladders of Llama and Llama 2 together",
        how="derived",
        band=Between(3.1, 4.0),
        unit="months",
        compute=_line(lambda t: t.line.doubling_months, "Llama", "Llama-2"),
        fitted_on="MMLU of public base models; ladders of two families",
    ),
    Check(
        claim="doubling",
        title="lower end of the 95 % interval over resampled models",
        how="derived",
        band=Between(2.4, 3.0),
        unit="months",
        compute=_bootstrap(2.5),
        fitted_on=_MEASURED,
    ),
    Check(
        claim="doubling",
        title="upper end of the 95 % interval over resampled models",
        how="derived",
        band=Between(4.0, 4.6),
        unit="months",
        compute=_bootstrap(97.5),
        fitted_on=_MEASURED,
    ),
    Check(
        claim="doubling",
        title="shortest doubling time without any one family",
        how="derived",
        band=AtLeast(2.5),
        unit="months",
        compute=_families(min),
        fitted_on=_MEASURED,
    ),
    Check(
        claim="doubling",
        title="longest doubling time without any one family",
        how="derived",
        band=AtMost(3.9),
        unit="months",
        compute=_families(max),
        fitted_on=_MEASURED,
    ),
    Check(
        claim="spread",
        title="R2 of the records' line",
        how="derived",
        band=AtLeast(0.8),
        compute=_line(lambda t: t.line.r2),
        ablation=_line(lambda t: t.every_month.r2),
        ablation_title="the best of every month in place of the records",
        fitted_on=_MEASURED,
    ),
    Check(
        claim="inversion",
        title="largest error of a known density, both steps fitted",
        how="derived",
        band=AtMost(0.05),
        compute=_closed_loop(_NOISE),
        ablation=_closed_loop(_NOISE, two_steps=False),
        ablation_title="sizes read off the reference models' scores, without the law of loss",
    ),
    Check(
        claim="inversion",
        title="the same with five times the noise",
        how="derived",
        band=Report("how much noise a thousandfold extrapolation bears is shown, not judged"),
        compute=_closed_loop(_LOUD),
    ),
    Check(
        claim="inversion",
        title="share of scores beyond the sigmoid's ends that are refused",
        how="derived",
        band=AtLeast(1.0),
        compute=_refused,
    ),
    Check(
        claim="cleaner",
        title="density of a small network trained on clean answers, least of the seeds",
        how="run",
        band=AtLeast(1.0),
        compute=_small(lambda d: d.clean, min),
        slow=True,
    ),
    Check(
        claim="cleaner",
        title="the same over that of its twin on noisy answers",
        how="run",
        band=AtLeast(1.25),
        compute=_small(lambda d: d.clean / d.plain, min),
        slow=True,
        ablation=_small_twin,
        ablation_title="networks on noisy answers of another seed in place of clean ones",
    ),
    Check(
        claim="compressed",
        title="density after pruning by magnitude over that before",
        how="run",
        band=AtMost(1.0),
        compute=_small(lambda d: d.pruned / d.plain, max),
        slow=True,
    ),
    Check(
        claim="compressed",
        title="density after retraining the pruned network over that before retraining",
        how="run",
        band=AtLeast(1.0),
        compute=_small(lambda d: d.retrained / d.pruned, min),
        slow=True,
    ),
    Check(
        claim="compressed",
        title="density of the pruned and retrained network over that before pruning",
        how="run",
        band=Report("either way by seed: a third fewer weights, retrained on a quarter more"),
        compute=_small(lambda d: d.retrained / d.plain, np.median),
        slow=True,
    ),
)

SYSTEM = System(
    id="densing-law",
    title="Densing law: capability density and its growth",
    arxiv="2412.04315",
    family="laws",
    summary=(
        "A model's density is the size a reference model needs for its score over its own size; "
        "the largest density of open models grows exponentially with time"
    ),
    claims=_CLAIMS,
    rooms=(
        "laws/density.py",
        "laws/density_trend.py",
        "laws/rated_models.py",
        "laws/forms/two_powers.py",
    ),
    checks=_CHECKS,
    not_reproduced={
        "price": "a history of prices is not among the measured data",
    },
)
