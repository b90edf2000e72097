"""Power laws of forecasters of series, in parameters, data and compute, and what they advise.

Each law is L = (x_c/x)^alpha or has a floor added, the others being ample. Parameters: runs at
equal tokens that saw nothing twice. Data: the largest model that was trained on several amounts;
distinct tokens count, repeats do not. Compute, 6·N·tokens: those states of runs on their way that
no cheaper one beats (runs with a falling learning rate are worse on their way than ended there).
A floor is taken where it lowers Akaike's criterion (corrected for few points) over all runs; the
prediction of the largest x is of a form that was chosen, as it was fitted, without it.
Exponents have intervals from resampling the seeds of each point, the same ones for every score,
so that two exponents are compared in pairs.
Sources: arXiv 2410.12360; 2001.08361 for the axes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from plimsoll.laws.fit import Fit, fit
from plimsoll.laws.forms.contract import Floats
from plimsoll.laws.forms.single_power import SinglePower
from plimsoll.laws.minimise import minimise_many
from plimsoll.laws.series_table import SeriesLooks, SeriesRuns
from plimsoll.laws.table import LossTable
from plimsoll.spec.errors import InfeasibleError, SpecError

__all__ = [
    "Advice",
    "AxisLaw",
    "alpha_gap",
    "fit_axes",
    "fit_axis",
    "lower_envelope",
    "suggest_series",
]

Axis = Literal["params", "tokens", "compute"]
_DELTA = 0.05
"""Runs of one setting differ by a percent or two, so squares count up to five."""
_DRAWS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisLaw:
    """``fit`` of means over seeds at each x. ``held_out``: relative error at the largest x of a fit
    to the others, which chose its form too, NaN where those are too few. ``alpha_draws`` [b], empty
    with one seed."""

    axis: Axis
    arch: str
    score: str
    fit: Fit
    held_out: float
    alpha_draws: Floats = field(default_factory=lambda: np.empty(0))

    @property
    def alpha(self) -> float:
        """The exponent."""
        return self.fit.named["alpha"]

    @property
    def floor(self) -> float:
        """What no amount removes; 0 without one."""
        return self.fit.named["E"]

    @property
    def r2(self) -> float:
        """Of ln loss."""
        return self.fit.r2

    def alpha_interval(self, level: float = 0.9) -> tuple[float, float]:
        """From resampled seeds; NaN with one seed."""
        return _interval(self.alpha_draws, level)

    def gain(self, times: float) -> float:
        """Share of the loss at the largest x that ``times`` as much of it removes."""
        x = float(self.fit.box[self.fit.form.inputs[0]][1])
        now, then = self.fit.predict({self.axis: np.array([x, times * x])}).tolist()
        return 1 - then / now


def _interval(draws: Floats, level: float) -> tuple[float, float]:
    if not len(draws):
        return float("nan"), float("nan")
    tail = 50 * (1 - level)
    low, high = np.percentile(draws, [tail, 100 - tail]).tolist()
    return low, high


def fit_axis(
    axis: Axis,
    x: Floats,
    loss: Floats,
    *,
    arch: str = "",
    score: str = "loss",
    floor: bool | None = None,
    seed: int = 0,
) -> AxisLaw:
    """One law of runs [n] (several at an x are seeds); ``floor`` None: by Akaike's criterion.

    Raises:
        SpecError: values that are not positive.
        InfeasibleError: fewer than three distinct x.
    """
    table = LossTable(name=f"{arch or 'runs'} along {axis}", columns={axis: x}, loss=loss)
    best = _best(axis, table, floor)
    return AxisLaw(
        axis=axis,
        arch=arch,
        score=score,
        fit=best,
        held_out=_held_out(axis, table, floor),
        alpha_draws=_resampled(best, x, loss, seed),
    )


def _best(axis: Axis, table: LossTable, floor: bool | None) -> Fit:
    """With a floor, without, or as Akaike's criterion has it on these points."""
    forms = [SinglePower(axis=axis, floor=False)]
    if floor or (floor is None and len(np.unique(table.columns[axis])) >= 4):
        forms.append(SinglePower(axis=axis, floor=True))
    if floor:
        del forms[0]
    found = [fit(form, table, delta=_DELTA) for form in forms]
    return min(found, key=lambda one: _akaike(one, table.columns[axis], table.loss))


def _akaike(found: Fit, x: Floats, loss: Floats) -> float:
    """Corrected for few points; the variance is a parameter too."""
    name = found.form.inputs[0]
    residuals = np.log(loss) - np.log(found.predict({name: x}))
    num, size = len(loss), len(found.form.coordinates) + 1
    if num <= size + 1:
        return float("inf") if found.named["E"] else 0.0
    spread = max(float((residuals**2).mean()), 1e-12)
    return num * float(np.log(spread)) + 2 * size + 2 * size * (size + 1) / (num - size - 1)


def _held_out(axis: Axis, table: LossTable, floor: bool | None) -> float:
    x = table.columns[axis]
    top = x == x.max()
    try:
        rest = _best(axis, table.rows(~top), floor)
    except InfeasibleError:
        return float("nan")
    truth = float(table.loss[top].mean())
    return abs(float(rest.predict({axis: x[top][:1]})[0]) / truth - 1)


def _resampled(found: Fit, x: Floats, loss: Floats, seed: int) -> Floats:
    """Exponents of fits to runs drawn anew among those of each x; as many draws for any score."""
    groups = [np.flatnonzero(x == value) for value in np.unique(x)]
    if min(len(group) for group in groups) < 2:
        return np.empty(0)
    rng = np.random.default_rng(seed)
    counts = np.zeros((_DRAWS, len(x)))
    for group in groups:
        even = np.full(len(group), 1 / len(group))
        counts[:, group] = rng.multinomial(len(group), even, _DRAWS)
    starts = np.repeat(found.theta[None], _DRAWS, axis=0)
    drawn = minimise_many(
        found.form,
        {found.form.inputs[0]: x},
        np.log(loss),
        delta=_DELTA,
        starts=starts,
        counts=counts,
    )
    return drawn[:, 0]


def lower_envelope(compute: Floats, loss: Floats) -> tuple[Floats, Floats]:
    """(compute, loss) of the points that no cheaper one equals or beats, by compute."""
    order = np.lexsort((loss, compute))
    sorted_loss = loss[order]
    before = np.concatenate([[np.inf], np.minimum.accumulate(sorted_loss)[:-1]])
    kept = order[sorted_loss < before]
    return compute[kept], loss[kept]


def fit_axes(
    runs: SeriesRuns,
    score: str,
    *,
    looks: SeriesLooks | None = None,
    floor: bool | None = None,
) -> dict[tuple[str, Axis], AxisLaw]:
    """The laws of each architecture; by (architecture, axis), those axes that runs allow.

    ``floor`` as for ``fit_axis``: False where exponents are to be compared, since those of laws
    with and without a floor do not.

    Raises:
        SpecError: sizes compared at unequal tokens; a score that needs an offset.
        InfeasibleError: no axis of any architecture has three distinct values.
    """
    found: dict[tuple[str, Axis], AxisLaw] = {}
    values = runs.score(score)
    for arch in sorted(set(runs.arch.tolist())):
        mine = runs.arch == arch
        fresh = mine & (runs.data_tokens >= 0.999 * runs.seen_tokens)
        if len(np.unique(runs.params[fresh])) >= 3:
            seen = np.unique(runs.seen_tokens[fresh])
            if seen.max() > 1.01 * seen.min():
                raise SpecError(
                    f"{runs.name}: {arch or 'runs'} of different sizes saw from {seen.min():g} to "
                    f"{seen.max():g} tokens; expected as many for all, since a law of parameters "
                    "compares at equal tokens, not at equal steps"
                )
            found[arch, "params"] = fit_axis(
                "params",
                runs.params[fresh],
                values[fresh],
                arch=arch,
                score=score,
                floor=floor,
            )
        for size in np.unique(runs.params[mine])[::-1]:
            part = mine & (runs.params == size)
            if len(np.unique(runs.data_tokens[part])) >= 3:
                found[arch, "tokens"] = fit_axis(
                    "tokens",
                    runs.data_tokens[part],
                    values[part],
                    arch=arch,
                    score=score,
                    floor=floor,
                )
                break
        if looks is not None and (looks.arch == arch).any():
            law = _of_compute(looks, arch, score, floor)
            if law is not None:
                found[arch, "compute"] = law
    if not found:
        raise InfeasibleError(
            f"{runs.name}: no architecture has three sizes at equal tokens or three amounts of "
            "data at one size",
            binding="the design of the runs",
            change="train three sizes or more on as many tokens each, none of them repeated",
        )
    return found


def _of_compute(looks: SeriesLooks, arch: str, score: str, floor: bool | None) -> AxisLaw | None:
    """Seeds are averaged before the envelope, or it would be of lucky ones."""
    mine = looks.arch == arch
    points = np.stack([looks.params[mine], looks.tokens[mine]], axis=1)
    distinct, place = np.unique(points, axis=0, return_inverse=True)
    mean = np.bincount(place.ravel(), looks.loss[mine]) / np.bincount(place.ravel())
    x, loss = lower_envelope(6 * distinct.prod(axis=1), mean)
    if len(x) <= 3:
        return None
    return fit_axis("compute", x, loss, arch=arch, score=score, floor=floor)


def alpha_gap(first: AxisLaw, second: AxisLaw, level: float = 0.9) -> tuple[float, float, float]:
    """(difference of exponents, low, high), seeds resampled alike for both.

    Raises:
        SpecError: one law has a floor and the other none.
    """
    if bool(first.floor) != bool(second.floor):
        raise SpecError(
            f"{first.fit.form.name} and {second.fit.form.name}: exponents with and without a floor "
            "do not compare; fit both with the same"
        )
    same = len(first.alpha_draws) == len(second.alpha_draws)
    draws = first.alpha_draws - second.alpha_draws if same else np.empty(0)
    low, high = _interval(draws, level)
    return first.alpha - second.alpha, low, high


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What to build and what to buy first, with ``reasons`` in words."""

    architecture: Literal["encoder", "decoder"]
    first: Literal["data", "params"]
    reasons: tuple[str, ...]


def suggest_series(
    *,
    target: Literal["id-nll", "ood-nll", "ood-mape"],
    horizon: Literal["fixed", "varying"],
    measured: Mapping[Axis, AxisLaw] | None = None,
) -> Advice:
    """Published guidelines, or what ``measured`` laws of that target say where both are there.

    Raises:
        SpecError: a target or horizon that is none of those.
    """
    if target not in ("id-nll", "ood-nll", "ood-mape") or horizon not in ("fixed", "varying"):
        raise SpecError(
            f"target {target!r} and horizon {horizon!r}; expected id-nll, ood-nll or ood-mape, and "
            "fixed or varying"
        )
    fixed = horizon == "fixed"
    reasons = [
        "the horizon is fixed: an encoder says all of it in one pass"
        if fixed
        else "the horizon varies: a decoder goes on for as long as is asked"
    ]
    first: Literal["data", "params"] = "data" if target == "ood-mape" else "params"
    reasons.append(
        "out-of-distribution MAPE gains more from data than from parameters (published)"
        if first == "data"
        else "likelihood follows parameters and data with similar exponents (published); "
        "parameters need no new collection"
    )
    if measured is not None and {"params", "tokens"} <= set(measured):
        gains = {axis: measured[axis].gain(4.0) for axis in ("params", "tokens")}
        first = "data" if gains["tokens"] > gains["params"] else "params"
        reasons.append(
            f"measured: four times the data removes {100 * gains['tokens']:.1f} % of what is left, "
            f"four times the parameters {100 * gains['params']:.1f} %; "
            f"{'data' if first == 'data' else 'parameters'} first"
        )
    return Advice(
        architecture="encoder" if fixed else "decoder", first=first, reasons=tuple(reasons)
    )
