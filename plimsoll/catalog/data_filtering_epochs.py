"""How many epochs, and of what size: splits of a budget over limited tokens, on measured runs.

Runs that spent the same compute (within an eighth) on the same pool of different tokens are a
family. A law picks one of them; what that loses against the best measured run is its regret.
The published rates were fitted on 182 runs of the same authors, so this is no held-out test of
them; the fit below is.
Source: arXiv 2305.16264; losses of huggingface/datablations (Apache-2.0).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from plimsoll.catalog.contract import AtLeast, AtMost, Check, Claim, Context, Measured, Report
from plimsoll.laws.fit import Fit, fit
from plimsoll.laws.forms import Chinchilla, RepeatedDataAndSize
from plimsoll.laws.forms.contract import LossForm
from plimsoll.laws.law import law_of
from plimsoll.laws.repeats import MEASURED_EPOCHS, LimitedData
from plimsoll.laws.table import LossTable, read_table
from plimsoll.spec.errors import SpecError

__all__ = ["CHECKS", "CLAIM", "Family", "families", "held_out_error", "repeated_table"]

_POOLS = (1e8, 4e8, 1.5e9, 4.8e9, 1.2e10)
_GAP = 0.12
_LEAST = 4
_SMALLEST = 3e7
_FEWEST = 1e9
_FITTED, _JUDGED = 8.0, 16.0
_INF = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Runs of one budget on ``unique`` tokens: their sizes, tokens and losses."""

    unique: float
    runs: LossTable

    def pick(self, tokens_rate: float, size_rate: float) -> int:
        """The run that the published surface with these rates takes for the best."""
        law = law_of("repeats")
        form = LimitedData(Chinchilla(), self.unique, tokens_rate, size_rate)
        return int(np.argmin(form.log_loss(law.theta[:5], self.runs.columns)))


def repeated_table(context: Context) -> LossTable:
    """The measured runs; those with other seeds averaged."""
    columns = {"params": "params", "tokens": "tokens_seen", "unique": "unique_tokens"}
    path = context.file("laws/datablations_val_losses.csv")
    return read_table(path, columns, loss="val_loss_c4").averaged()


def families(table: LossTable) -> list[Family]:
    """Those of four sizes or more.

    Raises:
        SpecError: there is none.
    """
    found = []
    for unique in _POOLS:
        rows = table.rows(table.column("unique") == unique)
        rows = rows.rows(np.argsort(rows.compute))
        cuts = np.flatnonzero(np.diff(np.log(rows.compute)) > _GAP) + 1
        for part in np.split(np.arange(len(rows)), cuts):
            if len(part) and len(np.unique(rows.column("params")[part])) >= _LEAST:
                found.append(Family(unique=unique, runs=rows.rows(part)))
    if not found:
        raise SpecError(f"{table.name}: no runs of like compute on one pool; expected the table")
    return found


def _regrets(
    within: bool, *, tokens_fade: bool = True, size_fades: bool = True
) -> Callable[[Context], Measured]:
    """Mean regret over the families whose pick by the whole law has at most 40 epochs, or more."""

    def compute(context: Context) -> Measured:
        rates = law_of("repeats").named
        regrets, shown = [], []
        for family in families(repeated_table(context)):
            whole = family.pick(rates["R_D"], rates["R_N"])
            if (family.runs.column("tokens")[whole] <= MEASURED_EPOCHS * family.unique) != within:
                continue
            at = family.pick(
                rates["R_D"] if tokens_fade else _INF, rates["R_N"] if size_fades else _INF
            )
            lost = float(family.runs.loss[at] - family.runs.loss.min())
            regrets.append(lost)
            epochs = family.runs.column("tokens")[at] / family.unique
            shown.append(f"{epochs:.3g} epochs of {family.unique / 1e9:g} B: +{lost:.3f}")
        return Measured(
            value=float(np.mean(regrets)), values=tuple(regrets), detail="; ".join(shown)
        )

    return compute


def held_out_error(context: Context, form: LossForm) -> Measured:
    """Mean relative error at 8 to 16 epochs of a fit to up to 8; also of fits to such runs
    resampled, one a seed."""
    table = repeated_table(context)
    epochs = table.column("tokens") / table.column("unique")
    kept = (table.column("params") >= _SMALLEST) & (table.column("tokens") >= _FEWEST)
    early = table.rows(kept & (epochs <= _FITTED))
    rest = table.rows(kept & (epochs > _FITTED) & (epochs <= _JUDGED))

    def error(found: Fit) -> float:
        return float(np.abs(found.predict(rest.columns) / rest.loss - 1).mean())

    found = fit(form, early)
    resampled = []
    for seed in context.seeds:
        drawn = np.random.default_rng(seed).integers(0, len(early), len(early))
        resampled.append(error(fit(form, early.rows(drawn))))
    named = ", ".join(f"{name} {value:.3g}" for name, value in found.named.items())
    return Measured(
        value=error(found),
        values=tuple(resampled),
        detail=f"fitted to {len(found.table)} runs, {len(rest)} held out; {named}; rmse in the fit "
        f"{found.rmse:.3f}; the values are of runs resampled",
    )


CLAIM = Claim(
    id="limited",
    text="with limited data more epochs beat more parameters; up to four cost little, and beyond "
    "about 40 repeats are worth nothing",
    setup="7 M to 8.7 B parameters on 0.1 to 178 B tokens of C4",
    where="arXiv 2305.16264, another study of repeats",
)

_PUBLISHED = "182 runs of the same source, by its authors"

CHECKS = (
    Check(
        claim="limited",
        title="loss above the best run's of the split picked, up to 40 epochs",
        how="derived",
        band=AtMost(0.01),
        unit="nats",
        compute=_regrets(True),
        ablation=_regrets(True, size_fades=False),
        ablation_title="only tokens fade, surplus parameters do not",
        fitted_on=_PUBLISHED,
    ),
    Check(
        claim="limited",
        title="the same of a law that knows no repeats",
        how="derived",
        band=AtLeast(0.015),
        unit="nats",
        compute=_regrets(True, tokens_fade=False, size_fades=False),
        fitted_on=_PUBLISHED,
    ),
    Check(
        claim="limited",
        title="the same where the split picked has more than 40 epochs",
        how="derived",
        band=Report("losses rise again there, which no form of this kind can say: a limit"),
        unit="nats",
        compute=_regrets(False),
        fitted_on=_PUBLISHED,
    ),
    Check(
        claim="limited",
        title="error at 8 to 16 epochs of a law fitted up to 8",
        how="derived",
        band=AtMost(0.025),
        compute=lambda context: held_out_error(context, RepeatedDataAndSize()),
        ablation=lambda context: held_out_error(context, Chinchilla()),
        ablation_title="a law that knows no repeats",
        fitted_on="measured losses of up to 8 epochs",
    ),
)
