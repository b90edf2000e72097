"""A sweep of tiny models that was really trained: its bowls, and a law fitted to three cells of it.

Two sizes, two token counts, 5 learning rates by 4 batches (``catalog/tiny_tables.py``). Each cell
is left out in turn, the law fitted to the other three, and its pair judged by the regret there.
The rival is the one pair with the least mean regret on the same three cells. Losses are those of
the held-out text, which all runs share. Bowls here are steeper than at published size (twice the
batch costs 2 to 3 %), so that they are fitted to points within 5 % of a cell's minimum, not 2 %.
Runs that differ by their seed alone end 0.4 % apart (standard deviation of three, at both sizes):
one seed a point, as here, cannot tell regrets below that.
Leaves out: other depths; batches of more than 256 tokens, which are too few steps here.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from plimsoll.catalog.contract import AtLeast, AtMost, Check, Context, Measured, Report
from plimsoll.catalog.tiny_repeat import repeated
from plimsoll.catalog.tiny_tables import SWEEP, sweep_table
from plimsoll.laws.hyper import STEP_LAW, StepLaw
from plimsoll.laws.hyper_sweep import bowls, fit_hyper, regret_of
from plimsoll.laws.table import LossTable

__all__ = ["TRAINED_CHECKS", "LeftOut", "convex_cells", "left_out", "left_out_regret"]

_LOSSES = ("smooth_loss", "loss")
_WITHIN = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A cell and the regrets there, relative: of the law of the other cells, of the best constant
    pair of those, of the published law; ``pair`` (lr, batch in tokens) is the first one's."""

    params: float
    tokens: float
    pair: tuple[float, float]
    law: float
    constant: float
    published: float


def _cells(table: LossTable) -> Iterator[tuple[np.ndarray, float, float]]:
    params, tokens = table.column("params"), table.column("tokens")
    for n, d in np.unique(np.stack([params, tokens], axis=1), axis=0).tolist():
        yield (params == n) & (tokens == d), n, d


def _best_pair(table: LossTable) -> tuple[float, float]:
    """Of the pairs that every cell has, the one with the least mean regret."""
    regrets: dict[tuple[float, float], list[float]] = {}
    cells = 0
    for mask, _, _ in _cells(table):
        cells += 1
        cell = table.rows(mask)
        for lr, batch, loss in zip(
            cell.column("lr").tolist(), cell.column("batch").tolist(), cell.loss, strict=True
        ):
            regrets.setdefault((lr, batch), []).append(float(loss / cell.loss.min() - 1))
    everywhere = {pair: found for pair, found in regrets.items() if len(found) == cells}
    return min(everywhere, key=lambda pair: sum(everywhere[pair]))


@functools.cache
def left_out(loss: str = "loss") -> tuple[LeftOut, ...]:
    """Every cell in turn, judged by that column of the sweep."""
    table = sweep_table(loss)
    found = []
    for mask, n, d in _cells(table):
        cell, rest = table.rows(mask), table.rows(~mask)
        law = fit_hyper(rest).law
        picks = {
            "law": _pair(law, n, d),
            "constant": _best_pair(rest),
            "published": _pair(STEP_LAW, n, d),
        }
        costs = {
            kind: regret_of(cell, lambda *_, pair=pair: pair)[0].nearest
            for kind, pair in picks.items()
        }
        found.append(LeftOut(params=n, tokens=d, pair=picks["law"], **costs))
    return tuple(found)


def _pair(law: StepLaw, params: float, tokens: float) -> tuple[float, float]:
    return float(law.lr(params, tokens)), float(law.batch(params, tokens))


def left_out_regret(kind: str, loss: str = "loss") -> Callable[[Context], Measured]:
    """The largest regret in percent on a cell left out; ``kind``: law, constant or published."""

    def compute(context: Context) -> Measured:
        del context
        cells = left_out(loss)
        values = tuple(100 * float(getattr(cell, kind)) for cell in cells)
        told = "; ".join(
            f"N {c.params:,.0f}, D {c.tokens:,.0f}: lr {c.pair[0]:.2g}, batch {c.pair[1]:.0f}, "
            f"law {c.law:.2%}, constant {c.constant:.2%}, published {c.published:.2%}"
            for c in cells
        )
        return Measured(value=max(values), values=values, detail=told)

    return compute


def convex_cells(context: Context) -> Measured:
    """How many cells have a convex bowl in ln lr and ln batch, of the smoothed loss."""
    del context
    found = {loss: bowls(sweep_table(loss), within=_WITHIN) for loss in _LOSSES}
    told = ", ".join(
        f"({bowl.eigenvalues[0]:.4f}, {bowl.eigenvalues[1]:.4f}) of {bowl.points} points"
        for bowl in found["smooth_loss"]
    )
    held = sum(bowl.convex for bowl in found["loss"])
    return Measured(
        value=float(sum(bowl.convex for bowl in found["smooth_loss"])),
        detail=f"of 4 cells, points within {_WITHIN:.0%} of the minimum (2% of published sizes, "
        f"whose bowls are flatter); eigenvalues {told}; of the held-out loss {held} convex",
    )


def _again(rate: float) -> Callable[[Context], Measured]:
    return lambda _: repeated(SWEEP, count=2, rate=rate)


TRAINED_CHECKS = (
    Check(
        claim="convex",
        title="tiny models trained here: cells of four whose bowl is convex",
        how="run",
        band=AtLeast(3),
        compute=convex_cells,
    ),
    Check(
        claim="distance",
        title="tiny models: largest regret in a cell of a law fitted to the other three",
        how="run",
        band=AtMost(0.5),
        compute=left_out_regret("law"),
        unit="%",
        ablation=left_out_regret("constant"),
        ablation_title="the best constant pair of the other three",
        fitted_on="three of the four cells",
    ),
    Check(
        claim="distance",
        title="the same, the published factors and powers",
        how="run",
        band=AtLeast(2.0),
        compute=left_out_regret("published"),
        unit="%",
    ),
    Check(
        claim="distance",
        title="the same by the loss smoothed over the last eighth of training",
        how="run",
        band=Report("an eighth of these short runs is 6,000 bytes, too few to tell half a percent"),
        compute=left_out_regret("law", "smooth_loss"),
        unit="%",
    ),
    Check(
        claim="distance",
        title="rows of the sweep trained again, distance from the stored loss",
        how="run",
        band=AtMost(0.5),
        compute=_again(1.0),
        unit="%",
        ablation=_again(0.5),
        ablation_title="at half the learning rate",
        slow=True,
    ),
)
