"""Which form predicts best what it has not seen: all forms on the same splits of the same points.

Three splits: the top tenth of training compute, the largest sizes, and five folds at random (same
for every form). Extrapolation decides, since that is what laws are for: ``select`` takes the
least error on the first two, and of forms within a tenth of it (and 0.05 %) the one with fewest
parameters.
A form that refuses is listed with its reason.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from plimsoll.laws.fit import Fit, fit
from plimsoll.laws.forms.contract import LossForm
from plimsoll.laws.table import LossTable
from plimsoll.spec.errors import InfeasibleError

__all__ = ["Compared", "Split", "compare", "select", "splits"]

_TOP = 0.1
_FOLDS = 5
_INSIDE = "folds"  # the split whose held-out points lie among the others
_ALIKE = 1.1
_UNSEEN = 5e-4  # no held-out set of this size tells errors this near apart


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """``test`` [n] marks the points that are held out, in one or several turns."""

    name: str
    turns: tuple[npt.NDArray[np.bool_], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A form on a table. ``errors``: by split, the mean relative error of what was held out, None
    where it could not be fitted; ``rest``: the fits to what each turn of a split left, so far as
    there are; ``bic`` of normal ln-residuals; ``why_not``: why it refused."""

    form: LossForm
    fit: Fit | None
    errors: dict[str, float | None]
    bic: float
    why_not: str = ""
    rest: Mapping[str, tuple[Fit, ...]] = field(default_factory=dict)

    @property
    def extrapolation(self) -> float:
        """Mean error where the held-out points lie outside; inf if it cannot be fitted there."""
        found = [error for name, error in self.errors.items() if name != _INSIDE]
        known = [error for error in found if error is not None]
        return float(np.mean(known)) if known and len(known) == len(found) else float("inf")


def splits(table: LossTable, *, seed: int = 0) -> list[Split]:
    """Those that the table allows; every turn leaves points on both sides."""
    found = []
    num = len(table)
    if {"params", "tokens"} <= set(table.columns):
        order = np.argsort(table.compute, kind="stable")
        top = np.zeros(num, dtype=bool)
        top[order[num - max(1, round(_TOP * num)) :]] = True
        found.append(Split(name="compute", turns=(top,)))
    first = "params" if "params" in table.columns else next(iter(table.columns))
    sizes = np.unique(table.columns[first])
    if len(sizes) > 1:
        largest = sizes[len(sizes) - max(1, len(sizes) // 5) :]
        found.append(Split(name=first, turns=(np.isin(table.columns[first], largest),)))
    shuffled = np.random.default_rng(seed).permutation(num)
    folds = tuple(np.isin(np.arange(num), part) for part in np.array_split(shuffled, _FOLDS))
    found.append(Split(name=_INSIDE, turns=folds))
    return [s for s in found if all(0 < turn.sum() < num for turn in s.turns)]


def _fits_to_rest(form: LossForm, table: LossTable, split: Split) -> tuple[Fit, ...]:
    """A fit for each turn; none at all if one refuses."""
    try:
        return tuple(fit(form, table.rows(~test)) for test in split.turns)
    except InfeasibleError:
        return ()


def _error(fits: Sequence[Fit], table: LossTable, split: Split) -> float | None:
    errors = []
    for found, test in zip(fits, split.turns, strict=False):
        rest = table.rows(test)
        errors.append(np.abs(found.predict(rest.columns) / rest.loss - 1))
    error = float(np.concatenate(errors).mean()) if errors else float("nan")
    return error if np.isfinite(error) else None


def compare(forms: Iterable[LossForm], table: LossTable, *, seed: int = 0) -> list[Compared]:
    """Every form that the table has the columns for, best extrapolation first."""
    table = table.averaged()
    parts = splits(table, seed=seed)
    found = []
    for form in forms:
        if not set(form.inputs) <= set(table.columns):
            continue
        try:
            whole = fit(form, table)
        except InfeasibleError as error:
            none: dict[str, float | None] = {}
            found.append(
                Compared(form=form, fit=None, errors=none, bic=float("inf"), why_not=str(error))
            )
            continue
        num, size = len(table), len(form.coordinates)
        bic = num * float(np.log(max(whole.rmse, 1e-300) ** 2)) + size * float(np.log(num))
        rest = {split.name: _fits_to_rest(form, table, split) for split in parts}
        errors = {split.name: _error(rest[split.name], table, split) for split in parts}
        found.append(Compared(form=form, fit=whole, errors=errors, bic=bic, rest=rest))
    return sorted(found, key=lambda one: one.extrapolation)


def select(found: Sequence[Compared]) -> Compared:
    """The form to use.

    Raises:
        InfeasibleError: none could be fitted, or none where it would have to extrapolate.
    """
    able = [one for one in found if one.extrapolation < float("inf")]
    if not able:
        reasons = "; ".join(one.why_not for one in found if one.why_not)
        raise InfeasibleError(
            f"no form can be fitted and checked on these points: {reasons or 'too few of them'}",
            binding="the design of the runs",
            change="measure more sizes and token counts",
        )
    best = min(one.extrapolation for one in able)
    near = [one for one in able if one.extrapolation <= best * _ALIKE + _UNSEEN]
    return min(near, key=lambda one: (len(one.form.coordinates), one.extrapolation))
