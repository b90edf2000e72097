"""Runs that a fit did not see, beside what it predicts of them.

The split is the one that decides between forms: the top tenth of compute, or the largest sizes
where a table has no tokens. The interval is that of the fit to the rest, widened outside its box,
so that it can be checked here before it is believed further out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from plimsoll.laws.compare import Split, splits
from plimsoll.laws.fit import Fit, bootstrap, fit
from plimsoll.laws.forms.contract import Floats, LossForm
from plimsoll.laws.law import law_of_fit
from plimsoll.laws.predict import Prediction, predict
from plimsoll.laws.table import LossTable
from plimsoll.spec.errors import InfeasibleError

__all__ = ["HeldOut", "axis_of", "deciding_split", "hold_out"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """``rest``: the fit without ``test``; ``predictions``: what it says of each point of it."""

    split: str
    rest: Fit
    test: LossTable
    predictions: tuple[Prediction, ...]

    @property
    def error(self) -> float:
        """Mean relative error of the predictions."""
        losses = np.array([one.loss for one in self.predictions])
        return float(np.abs(losses / self.test.loss - 1).mean())

    @property
    def num_within(self) -> int:
        """Measured losses inside the interval of their prediction."""
        pairs = zip(self.predictions, self.test.loss.tolist(), strict=True)
        return sum(one.low <= loss <= one.high for one, loss in pairs)


def axis_of(columns: Mapping[str, Floats]) -> tuple[str, Floats]:
    """What points are put in order by: training compute where it is known, else the first input
    (sizes, if there are any)."""
    if {"params", "tokens"} <= set(columns):
        return "compute", 6.0 * columns["params"] * columns["tokens"]
    name = "params" if "params" in columns else next(iter(columns))
    return name, columns[name]


def deciding_split(table: LossTable, *, seed: int = 0) -> Split | None:
    """The first split that extrapolates, None if the table allows none."""
    found = [one for one in splits(table.averaged(), seed=seed) if one.name != "folds"]
    return found[0] if found else None


def hold_out(
    form: LossForm,
    table: LossTable,
    *,
    draws: int,
    seed: int = 0,
    rest: Mapping[str, Sequence[Fit]] | None = None,
    level: float = 0.9,
) -> HeldOut | None:
    """The deciding split, with a bootstrap of ``draws`` for its intervals; ``rest`` by split if
    the fits have been made. None where the points allow no such check."""
    table = table.averaged()
    split = deciding_split(table, seed=seed)
    if split is None:
        return None
    (held,) = split.turns
    fits = (rest or {}).get(split.name)
    try:
        found = fits[0] if fits else fit(form, table.rows(~held))
    except InfeasibleError:
        return None
    found = bootstrap(found, draws=draws, seed=seed) if draws else found
    law, test = law_of_fit(found), table.rows(held)
    predictions = []
    for i in range(len(test)):
        inputs = {name: float(test.columns[name][i]) for name in form.inputs}
        predictions.append(predict(law, inputs, level=level))
    return HeldOut(split=split.name, rest=found, test=test, predictions=tuple(predictions))
