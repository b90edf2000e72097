"""Forms compared on a grid of tiny models that were really trained.

Ten sizes by six token counts, four sizes with a seventh (``catalog/tiny_tables.py``). The top
tenth by compute is held out: every form is fitted to the rest and judged there. ``selected``
chooses as ``laws fit`` does, on all points and their splits, or blindly, on the rest alone.
Three seeds of one size and token count end 0.4 % apart (standard deviation).
Leaves out: sizes beyond 260,000 parameters, where this text is too short.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from plimsoll.catalog.contract import AtMost, Check, Context, Measured
from plimsoll.catalog.tiny_repeat import repeated
from plimsoll.catalog.tiny_tables import GRID
from plimsoll.laws.compare import compare, select, splits
from plimsoll.laws.fit import fit
from plimsoll.laws.forms import FORMS
from plimsoll.laws.table import LossTable, read_table
from plimsoll.spec.errors import InfeasibleError

__all__ = ["TRAINED_CHECKS", "HeldOut", "error_over_best", "grid_table", "held_out", "selected"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Of one form: ``error``, mean relative, on the top tenth of compute, ``rmse`` of ln loss on
    the points it was fitted to; inf and ``why_not`` if it refuses."""

    form: str
    error: float
    rmse: float
    why_not: str = ""


def grid_table() -> LossTable:
    """The stored grid; runs that differ by their seed alone are averaged."""
    return read_table(GRID, {"params": "params", "tokens": "tokens"}).averaged()


def _parts() -> tuple[LossTable, LossTable]:
    """(all but the top tenth of compute, the top tenth)."""
    table = grid_table()
    (top,) = next(split.turns for split in splits(table) if split.name == "compute")
    return table.rows(~top), table.rows(top)


@functools.cache
def held_out() -> tuple[HeldOut, ...]:
    """Every form of parameters and tokens, the best first."""
    rest, top = _parts()
    found = []
    for name, form in FORMS.items():
        if not set(form.inputs) <= set(rest.columns):
            continue
        try:
            law = fit(form, rest)
        except InfeasibleError as error:
            found.append(
                HeldOut(form=name, error=float("inf"), rmse=float("inf"), why_not=str(error))
            )
            continue
        gaps = np.abs(law.predict(top.columns) / top.loss - 1)
        found.append(HeldOut(form=name, error=float(gaps.mean()), rmse=law.rmse))
    return tuple(sorted(found, key=lambda one: one.error))


@functools.cache
def selected(*, blind: bool) -> str:
    """The form that is chosen; ``blind``: without a look at the top tenth of compute."""
    table = _parts()[0] if blind else grid_table()
    return select(compare(FORMS.values(), table)).form.name


def _fits_best() -> str:
    return min(held_out(), key=lambda one: one.rmse).form


def _told() -> str:
    return ", ".join(
        f"{one.form} refuses" if one.why_not else f"{one.form} {one.error:.2%} ({one.rmse:.2%})"
        for one in held_out()
    )


def error_over_best(choose: Callable[[], str]) -> Callable[[Context], Measured]:
    """The held-out error of the form that is chosen over the least of all forms."""

    def compute(context: Context) -> Measured:
        del context
        name = choose()
        mine = next(one for one in held_out() if one.form == name)
        rest, top = _parts()
        return Measured(
            value=mine.error / held_out()[0].error,
            values=tuple(one.error / held_out()[0].error for one in held_out() if not one.why_not),
            detail=f"{name} chosen; errors on the {len(top)} runs of most compute, fitted to "
            f"{len(rest)} (in brackets: on those): {_told()}",
        )

    return compute


def _again(rate: float) -> Callable[[Context], Measured]:
    return lambda _: repeated(GRID, count=4, rate=rate)


TRAINED_CHECKS = (
    Check(
        claim="real",
        title="tiny models trained here: error of the form chosen over the least of all forms",
        how="run",
        band=AtMost(1.1),
        compute=error_over_best(lambda: selected(blind=False)),
        unit="x",
        ablation=error_over_best(_fits_best),
        ablation_title="the form with the least residual, chosen with nothing held out",
        fitted_on="the runs of less compute",
    ),
    Check(
        claim="real",
        title="the same, chosen without a look at the runs of most compute",
        how="run",
        band=AtMost(1.1),
        compute=error_over_best(lambda: selected(blind=True)),
        unit="x",
    ),
    Check(
        claim="real",
        title="rows of the grid trained again, distance from the stored loss",
        how="run",
        band=AtMost(0.5),
        compute=_again(1.0),
        unit="%",
        ablation=_again(0.25),
        ablation_title="at a quarter of the learning rate",
        slow=True,
    ),
)
