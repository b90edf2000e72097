"""Fit a form to measured points, or refuse and say what is missing.

The objective is the mean Huber loss of ln-residuals (1e-3 by default: a tenth of a percent). A
fit refuses when the points cannot tell its parameters apart: too few of them, too few distinct
sizes or token counts, or a normal matrix that is singular to rounding. What it returns says how
good it is (residuals, R² of ln loss), where it holds (the box of its inputs) and how far its
parameters are known (bootstrap over points).
Source: arXiv 2203.15556, appendix D.2, for the objective.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from plimsoll.laws.farseer_stages import fit_stages
from plimsoll.laws.forms import FORMS
from plimsoll.laws.forms.contract import Floats, Inputs, LossForm
from plimsoll.laws.forms.farseer import Farseer
from plimsoll.laws.minimise import huber, minimise, minimise_many
from plimsoll.laws.table import LossTable, Unit
from plimsoll.spec.errors import InfeasibleError, SpecError, suggest

__all__ = ["Fit", "bootstrap", "fit", "form_of"]

DELTA = 1e-3
_SINGULAR = 1e13
_OUTLIER = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A fitted form.

    ``theta`` in its coordinates; ``box`` the range of each input; ``loss`` the mean Huber loss;
    ``rmse`` of ln-residuals; ``r2`` of ln loss; ``condition`` of the scaled normal matrix;
    ``outliers``: points further than five robust deviations off, by index: shown, never left out.
    ``draws`` [b, k] are fits to resampled points, empty before ``bootstrap``.
    """

    form: LossForm
    theta: Floats
    table: LossTable
    box: Mapping[str, tuple[float, float]]
    loss: float
    residuals: Floats
    rmse: float
    r2: float
    condition: float
    starts_near: int
    num_starts: int
    delta: float = DELTA
    outliers: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    draws: Floats = field(default_factory=lambda: np.empty((0, 0)))

    @property
    def named(self) -> dict[str, float]:
        """Parameters as papers print them."""
        return self.form.named(self.theta)

    @property
    def unit(self) -> Unit:
        """Of the loss."""
        return self.table.unit

    def interval(self, level: float = 0.9) -> dict[str, tuple[float, float]]:
        """Bootstrap interval of each parameter; {} before ``bootstrap``."""
        if not len(self.draws):
            return {}
        names = [self.form.named(draw) for draw in self.draws]
        tail = 50 * (1 - level)
        return {
            key: tuple(np.percentile([n[key] for n in names], [tail, 100 - tail]).tolist())
            for key in self.named
        }

    def predict(self, x: Inputs) -> Floats:
        """Losses, in the table's unit; [n]."""
        return np.exp(self.form.log_loss(self.theta, x))


def form_of(name: str) -> LossForm:
    """A form by name.

    Raises:
        SpecError: there is none.
    """
    if name not in FORMS:
        raise SpecError(f"no form {name!r}; there are {', '.join(FORMS)}.{suggest(name, FORMS)}")
    return FORMS[name]


def fit(form: LossForm, table: LossTable, *, delta: float = DELTA) -> Fit:
    """The best fit of ``form``.

    Raises:
        InfeasibleError: the points cannot identify the parameters; it says what is missing.
    """
    table = table.averaged()
    x = {name: table.column(name) for name in form.inputs}
    check_identifiable(form, table)
    log_loss = np.log(table.loss)
    notes = list(table.notes)
    starts = form.starts(x, table.loss)
    if isinstance(form, Farseer):
        stages = fit_stages(x, table.loss)
        starts = stages.theta[None, :]
        if stages.dropped:
            notes.append(
                f"{stages.dropped} of {stages.pairs} differences along tokens are not positive "
                "and were left out of the lines"
            )
        residuals = form.log_loss(stages.theta, x) - log_loss
        found, near, total = stages.theta, 1, 1
        lowest = float(huber(residuals, delta).mean())
    else:
        minimum = minimise(form, x, log_loss, delta=delta, starts=starts)
        found, near, total = minimum.theta, minimum.starts_near, minimum.num_starts
        lowest = minimum.loss
    residuals = log_loss - form.log_loss(found, x)
    condition = _condition(form, found, x)
    if condition > _SINGULAR and not isinstance(form, Farseer):  # that one has a rule of its own
        raise InfeasibleError(
            f"{form.name}: the points cannot tell its parameters apart (condition number "
            f"{condition:.1e} of the scaled normal matrix)",
            binding="the design of the runs",
            change="vary sizes and tokens independently, or fit a form with fewer parameters",
        )
    spread = float(((log_loss - log_loss.mean()) ** 2).sum())
    r2 = 1 - float((residuals**2).sum()) / spread if spread > 0 else 0.0
    if isinstance(form, Farseer) and spread > 0 and r2 <= 0:
        raise InfeasibleError(
            f"farseer's fit in stages describes {table.name} worse than one loss for all points "
            f"(R² {r2:.2f} of ln loss): differences along tokens are too noisy",
            binding="noise of the runs",
            change="measure each point with several seeds, or fit chinchilla",
        )
    middle = float(np.median(np.abs(residuals - np.median(residuals)))) * 1.4826
    far = np.abs(residuals) > _OUTLIER * max(middle, 1e-12)
    return Fit(
        form=form,
        theta=found,
        table=table,
        box={name: (float(values.min()), float(values.max())) for name, values in x.items()},
        loss=lowest,
        residuals=residuals,
        rmse=float(np.sqrt((residuals**2).mean())),
        r2=r2,
        condition=condition,
        starts_near=near,
        num_starts=total,
        delta=delta,
        outliers=tuple(np.flatnonzero(far).tolist()),
        notes=tuple(notes),
    )


def check_identifiable(form: LossForm, table: LossTable) -> None:
    """Refuse a table that has too few points or too few distinct values for the form.

    Raises:
        InfeasibleError: with what was found and what is needed.
    """
    need = len(form.coordinates) + 1
    if len(table) < need:
        raise InfeasibleError(
            f"{form.name} has {len(form.coordinates)} parameters and {table.name} {len(table)} "
            "distinct points",
            binding=f"points: {len(table)} of {need}",
            change=f"measure {need - len(table)} more, or fit a form with fewer parameters",
        )
    for name, least in form.least.items():
        have = len(np.unique(table.column(name)))
        if have < least:
            raise InfeasibleError(
                f"{form.name} needs {least} distinct {name}, {table.name} has {have}",
                binding=f"distinct {name}: {have} of {least}",
                change=f"measure {least - have} more, or fit a form that needs fewer",
            )
    if isinstance(form, Farseer):
        _check_dense(form, table)


def _check_dense(form: LossForm, table: LossTable) -> None:
    """Stages take differences along tokens, so every size needs several token counts."""
    sizes = table.column("params")
    dense = sum(int((sizes == size).sum()) >= form.least["tokens"] for size in np.unique(sizes))
    if dense < form.least["params"]:
        raise InfeasibleError(
            f"{form.name} needs {form.least['params']} sizes with {form.least['tokens']} token "
            f"counts each, {table.name} has {dense}",
            binding=f"sizes measured along tokens: {dense} of {form.least['params']}",
            change="measure more of them, or fit chinchilla",
        )


def _condition(form: LossForm, theta: Floats, x: Inputs) -> float:
    """Of the normal matrix with columns of length one; coordinates at a bound left out."""
    low = np.array([c.low for c in form.coordinates])
    high = np.array([c.high for c in form.coordinates])
    free = (theta > low) & (theta < high)
    jacobian = form.gradient(theta, x)[:, free]
    length = np.linalg.norm(jacobian, axis=0)
    if not len(length) or (length == 0).any() or not np.isfinite(length).all():
        return float("inf")
    return float(np.linalg.cond(jacobian / length)) ** 2


def bootstrap(found: Fit, *, draws: int = 100, seed: int = 0) -> Fit:
    """The fit with ``draws`` of its parameters from resampled points, each begun at the fit."""
    rng = np.random.default_rng(seed)
    num = len(found.table)
    x = {name: found.table.column(name) for name in found.form.inputs}
    log_loss = np.log(found.table.loss)
    counts = rng.multinomial(num, np.full(num, 1 / num), draws).astype(np.float64)
    starts = np.repeat(found.theta[None, :], draws, axis=0)
    drawn = minimise_many(found.form, x, log_loss, delta=found.delta, starts=starts, counts=counts)
    return replace(found, draws=drawn)
