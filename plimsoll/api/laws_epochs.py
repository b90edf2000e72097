"""Epochs over a limited pool: the part of a split budget that says how often tokens repeat."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from plimsoll.laws.allocate import Allocation, tokens_for
from plimsoll.laws.forms.contract import Floats
from plimsoll.laws.law import Law
from plimsoll.laws.repeats import MEASURED_EPOCHS, LimitedData, worth
from plimsoll.report.document import Table
from plimsoll.report.wording import short_count_text

__all__ = ["EpochRow", "Epochs", "epochs_over"]

_EPOCHS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
_NODES = 2001


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRow:
    """One way to spend the same budget; ``worth`` in fresh tokens."""

    name: str
    epochs: float
    params: float
    tokens: float
    worth: float
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Epochs:
    """``unique`` tokens to be had; ``fresh``: the split if tokens never ended, None if the law
    cannot say."""

    unique: float
    best: EpochRow
    rows: tuple[EpochRow, ...]
    fresh: Allocation | None
    rate: float
    law: Law

    @property
    def repeated(self) -> bool:
        """Whether the best split sees tokens again."""
        return self.best.epochs > 1

    def table(self) -> Table:
        """The budget by number of epochs."""
        rows = [
            (
                row.name,
                short_count_text(row.params),
                short_count_text(row.tokens),
                short_count_text(row.worth),
                f"{row.loss:.4g}",
            )
            for row in sorted((*self.rows, self.best), key=lambda row: row.epochs)
        ]
        if self.fresh is not None:
            one = self.fresh
            rows.append(
                (
                    "never ending tokens",
                    short_count_text(one.params),
                    short_count_text(one.tokens),
                    short_count_text(one.tokens),
                    f"{one.loss:.4g}",
                )
            )
        most = short_count_text(self.unique * (1 + self.rate))
        return Table(
            title=f"The budget by epochs over {short_count_text(self.unique)} different tokens",
            columns=("", "params", "tokens", "worth fresh", "loss"),
            rows=tuple(rows),
            notes=(f"endless repeats are worth {most} fresh tokens (R_D {self.rate:.3g})",),
        )

    def notes(self) -> list[str]:
        """What a reader must know of the repeats."""
        found = []
        if not self.repeated:
            found.append(
                f"{short_count_text(self.unique)} different tokens are more than this budget uses: "
                "no token is seen twice"
            )
        else:
            found.append(
                f"asks for {self.best.epochs:.3g} times the {short_count_text(self.unique)} "
                "different tokens there are: they repeat"
            )
        if self.best.epochs > MEASURED_EPOCHS:
            found.append(
                f"beyond {MEASURED_EPOCHS:g} epochs measured losses rise again and smaller models "
                "were better than such a split: collect more data instead"
            )
        low, high = self.law.box.get("unique", (0.0, float("inf")))
        if not low <= self.unique <= high:
            found.append(
                f"the law was fitted on {short_count_text(low)} to {short_count_text(high)} "
                "different tokens: extrapolated"
            )
        form = self.law.form
        if isinstance(form, LimitedData) and not form.own:
            found.append(
                "repeats by the published rates (arXiv 2305.16264: R_D "
                f"{form.tokens_rate:.3g}, R_N {form.size_rate:.3g}), which were fitted on other "
                "data; fit your own with laws fit --form repeats"
            )
        return found

    def data(self) -> dict[str, Any]:
        """As JSON."""

        def plain(row: EpochRow) -> dict[str, Any]:
            return {
                "epochs": row.epochs,
                "params": row.params,
                "tokens": row.tokens,
                "fresh_tokens_worth": row.worth,
                "loss": row.loss,
            }

        fresh = self.fresh
        return {
            "unique_tokens": self.unique,
            "best": plain(self.best),
            "by_epochs": [plain(row) for row in self.rows],
            "unlimited": None
            if fresh is None
            else {"params": fresh.params, "tokens": fresh.tokens, "loss": fresh.loss},
            "tokens_rate": self.rate,
            "beyond_measured_epochs": self.best.epochs > MEASURED_EPOCHS,
        }


def _rate(law: Law) -> float:
    form = law.form
    assert isinstance(form, LimitedData)
    return float(law.named["R_D"]) if form.own else form.tokens_rate


def epochs_over(
    law: Law,
    best: Allocation,
    fresh: Allocation | None,
    *,
    unique: float,
    serve_tokens: float,
    serve_weight: float | Callable[[Floats], Floats],
    sizes: tuple[float, float],
) -> Epochs:
    """The same budget at other numbers of epochs; ``law`` is the limited one, ``sizes`` those that
    are looked at."""
    rate = _rate(law)

    def row(name: str, params: float, tokens: float) -> EpochRow:
        x = {"params": np.array([params]), "tokens": np.array([tokens])}
        return EpochRow(
            name=name,
            epochs=tokens / unique,
            params=params,
            tokens=tokens,
            worth=float(worth(tokens, unique, rate)),
            loss=float(law.predict(x)[0]),
        )

    grid = np.geomspace(*sizes, _NODES)
    bought = tokens_for(grid, best.flops, serve_tokens, serve_weight)
    rows = [
        row(f"{epochs:g} epoch{'s' if epochs > 1 else ''}", params, epochs * unique)
        for epochs in _EPOCHS
        for params in _sizes_at(grid, bought, epochs * unique)
        if abs(np.log(epochs * unique / best.tokens)) > 0.02
    ]
    times = best.tokens / unique
    return Epochs(
        unique=unique,
        best=row(
            f"best: {times:.3g} epochs" if times > 1 else "best, nothing seen twice",
            best.params,
            best.tokens,
        ),
        rows=tuple(rows),
        fresh=fresh,
        rate=rate,
        law=law,
    )


def _sizes_at(grid: Floats, bought: Floats, tokens: float) -> Sequence[float]:
    """The size at which the budget buys so many tokens; [] if none does."""
    known = np.flatnonzero(bought > 0)
    falling = np.maximum.accumulate(bought[known][::-1])
    if not len(known) or not falling[0] <= tokens <= falling[-1]:
        return []
    at = np.interp(np.log(tokens), np.log(falling), np.log(grid[known][::-1]))
    return [float(np.exp(at))]
