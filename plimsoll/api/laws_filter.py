"""Which pools of ranked data to train on at a budget: from fitted pools, or from runs to fit."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from plimsoll.api.commands import command
from plimsoll.laws.pool_table import read_pool_runs, read_pools
from plimsoll.laws.quality import (
    Choice,
    EffectiveData,
    QualityLaw,
    QualityPool,
    RepeatUtility,
    best_pool,
    mix,
)
from plimsoll.laws.quality_fit import FittedPools, PoolRuns, fit_pools
from plimsoll.report.document import KeyNumber, Report, Table
from plimsoll.report.wording import percent_text, short_count_text
from plimsoll.spec.csv_records import read_records
from plimsoll.spec.errors import SpecError
from plimsoll.spec.origin import Number, Origin

__all__ = ["FilterAnswer", "FitJudged", "Kind", "filter_pools", "law_kind"]

Kind = Literal["utility", "data"]

_BOXES = {"a": (1e-6, 1.0), "b": (0.005, 1.0), "tau": (0.5, 30.0)}
_VALUES = 30
_FLOORS = 8
_ZOOMS = 3
_UNITS = 1e3  # of the least that any run saw: a·n is then 1e-3 to 1e3 there
_LEAST_TO_HOLD = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class FitJudged:
    """Pools fitted to runs. ``held_out``: by pool, the relative error of the run that saw most,
    predicted by a fit to the others; empty with fewer than four runs of a pool. ``most``: the
    longest run of each pool in samples."""

    found: FittedPools
    floor_given: bool
    runs: int
    held_out: dict[str, float]
    most: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterAnswer:
    """A choice of pools at each budget, ascending."""

    source: str
    law: RepeatUtility | EffectiveData
    pools: tuple[QualityPool, ...]
    choices: tuple[Choice, ...]
    fitted: FitJudged | None
    asked: tuple[str, ...] = ()

    def report(self) -> Report:
        """See ``Answer``."""
        last = self.choices[-1]
        beyond = self.fitted is not None and last.samples > self.fitted.most
        origin = Origin.EXTRAPOLATED if beyond else Origin.MODELED
        kept = f"{len(last.pools)} of {len(self.pools)} pools"
        return Report(
            title=self._title(),
            subtitle=f"{self.source}; {_formula(self.law)}",
            command=command(*(self.asked or ("laws", "filter", "--pools", self.source))),
            key_numbers=(
                KeyNumber(
                    name="Error",
                    number=Number(value=last.error, unit="", origin=origin),
                    digits=4,
                    note=f"{kept}, {short_count_text(last.samples)} samples",
                ),
            ),
            tables=(self._budgets(), self._unions(), self._pool_table()),
            assumptions=(
                "a union is trained on uniformly: every sample once a pass; the pools do not "
                "overlap",
            ),
            notes=tuple(self._notes()),
            next_command=command(*self._next()),
        )

    def _title(self) -> str:
        last = self.choices[-1]
        names = ", ".join(last.pools)
        if len(self.choices) == 1:
            return f"Train on {names} at {short_count_text(last.samples)} samples"
        first = self.choices[0]
        return (
            f"{_pools(len(first.pools))} at {short_count_text(first.samples)} samples, "
            f"{_pools(len(last.pools))} at {short_count_text(last.samples)}"
        )

    def _budgets(self) -> Table:
        sizes = np.cumsum([pool.samples for pool in self.pools])
        rows = []
        for choice in self.choices:
            size = float(sizes[len(choice.pools) - 1])
            rows.append(
                (
                    short_count_text(choice.samples),
                    _pools(len(choice.pools)),
                    short_count_text(size),
                    f"{choice.samples / size:.3g}",
                    f"{choice.error:.4f}",
                    f"{choice.errors[0] - choice.error:+.4f}",
                    f"{choice.errors[-1] - choice.error:+.4f}",
                )
            )
        return Table(
            title="By budget",
            columns=("samples", "keep best", "size", "epochs", "error", "best alone", "all pools"),
            rows=tuple(rows),
            notes=("best alone, all pools: error added by keeping those instead",),
        )

    def _unions(self) -> Table:
        rows = []
        for i, pool in enumerate(self.pools):
            cells = [
                f"{choice.errors[i]:.4f}{' *' if i == len(choice.pools) - 1 else ''}"
                for choice in self.choices
            ]
            rows.append((pool.name if not i else f"+ {pool.name}", *cells))
        return Table(
            title="Error of the union of best pools",
            columns=("", *(short_count_text(choice.samples) for choice in self.choices)),
            rows=tuple(rows),
            notes=("* least at this budget",),
        )

    def _pool_table(self) -> Table:
        judged = self.fitted
        held = judged.held_out if judged is not None else {}
        columns = ("", "samples", "utility b", "half-life, epochs")
        rows = [
            (pool.name, short_count_text(pool.samples), f"{pool.b:.4g}", f"{pool.tau:.3g}")
            for pool in self.pools
        ]
        if not held:
            return Table(title="Pools, best first", columns=columns, rows=tuple(rows))
        return Table(
            title="Pools, best first",
            columns=(*columns, "held out"),
            rows=tuple((*row, percent_text(held[row[0]])) for row in rows),
            notes=("held out: error of the pool's longest run by a fit to all other runs",),
        )

    def _notes(self) -> list[str]:
        notes = []
        if len({pool.samples for pool in self.pools}) > 1:
            notes.append("pools differ in size: utilities are averaged by their samples")
        turned = [c for c in self.choices if self.law.a * self._seen_once(c) < 1]
        if turned:
            notes.append(
                f"at {short_count_text(turned[0].samples)} samples errors exceed 1, where the "
                "order of utilities turns round: no law there"
            )
        judged = self.fitted
        if judged is None:
            return notes
        if not judged.floor_given:
            notes.append(
                f"the error that stays, {self.law.d:.3g}, is fitted too and ill known; state it "
                "with --floor where you know it"
            )
        if judged.found.unidentified:
            notes.append(f"not fixed by the runs: {'; '.join(judged.found.unidentified)}")
        beyond = self.choices[-1].samples / judged.most
        if beyond > 1:
            notes.append(f"extrapolated: the largest budget is {beyond:.3g} times the longest run")
        return notes

    def _seen_once(self, choice: Choice) -> float:
        size = sum(pool.samples for pool in self.pools[: len(choice.pools)])
        return min(choice.samples, size) / self.law.normaliser

    def _next(self) -> list[str]:
        asked = list(self.asked or ("laws", "filter", "--pools", self.source, "--samples", "1M"))
        further = ",".join(
            short_count_text(choice.samples * factor)
            for choice in self.choices[-1:]
            for factor in (1, 2, 4, 8)
        )
        for i, word in enumerate(asked):
            if word == "--samples" and i + 1 < len(asked):
                asked[i + 1] = further
            elif word.startswith("--samples="):
                asked[i] = f"--samples={further}"
        return asked

    def data(self) -> dict[str, Any]:
        """See ``Answer``."""
        judged = self.fitted
        return {
            "format_version": 1,
            "source": self.source,
            "law": {
                "kind": self.law.kind,
                "a": self.law.a,
                "d": self.law.d,
                "normaliser_samples": self.law.normaliser,
            },
            "pools": [
                {"name": p.name, "samples": p.samples, "b": p.b, "half_life_epochs": p.tau}
                for p in self.pools
            ],
            "budgets": [
                {
                    "samples": choice.samples,
                    "pools": list(choice.pools),
                    "error": choice.error,
                    "errors_of_unions": list(choice.errors),
                }
                for choice in self.choices
            ],
            "fit": None
            if judged is None
            else {
                "runs": judged.runs,
                "mean_squared_error": judged.found.residual,
                "unidentified": list(judged.found.unidentified),
                "held_out_relative_error": judged.held_out,
                "longest_run_samples": judged.most,
            },
        }


def _pools(count: int) -> str:
    return f"{count} pool{'s' if count > 1 else ''}"


def _formula(law: QualityLaw) -> str:
    fading = "utility fades" if law.kind == "utility" else "samples fade"
    return f"error = (a*n)^b + {law.d:.3g}, {fading} by half every half-life; arXiv 2404.07177"


def law_kind(text: str) -> Kind:
    """``utility`` or ``data``.

    Raises:
        SpecError: neither.
    """
    if text == "utility":
        return "utility"
    if text == "data":
        return "data"
    raise SpecError(f"--fading {text!r}: expected utility or data")


def filter_pools(
    path: Path,
    samples: Sequence[float],
    *,
    kind: Kind = "utility",
    factor: float | None = None,
    floor: float | None = None,
    normaliser: float | None = None,
) -> FilterAnswer:
    """The best union at each budget. ``factor`` and ``normaliser`` are a and its unit, for a file
    of fitted pools; ``floor`` is d, searched if a file of runs comes without.

    Raises:
        SpecError: a file that is neither, a law without its constants or with constants it has
            no use for, budgets or errors that cannot be.
        InfeasibleError: fewer than three runs of a pool.
    """
    if not samples:
        raise SpecError("--samples: no budget; expected one or more, as in 64M,640M")
    for name, value in (("--factor", factor), ("--floor", floor), ("--per", normaliser)):
        least = 0.0 if name == "--floor" else 1e-300
        if value is not None and not (np.isfinite(value) and value >= least):
            raise SpecError(f"{name} {value:g}: expected a number above zero")
    if floor is not None and floor >= 1:
        raise SpecError(f"--floor {floor:g}: expected an error from 0 to below 1")
    header, _ = read_records(path, required=("pool", "samples"), expected="a table of pools")
    fitted = None
    law: QualityLaw
    if {"b", "tau"} <= set(header):
        if factor is None or floor is None:
            raise SpecError(
                f"{path}: holds fitted pools; their law needs --factor (a) and --floor (d) beside "
                "them, as it was fitted"
            )
        cls = RepeatUtility if kind == "utility" else EffectiveData
        law = cls(a=factor, d=floor, normaliser=normaliser or 1.0)
        pools = read_pools(path)
    elif {"seen", "error"} <= set(header):
        if factor is not None or normaliser is not None:
            raise SpecError(
                f"{path}: holds runs, from which the factor is fitted; leave --factor and --per out"
            )
        fitted = _fit(read_pool_runs(path), kind, floor)
        law, pools = fitted.found.law, list(fitted.found.pools)
    else:
        raise SpecError(
            f"{path}: columns {', '.join(header)}; expected pool,samples,b,tau (fitted pools) or "
            "pool,samples,seen,error (runs to fit)"
        )
    assert isinstance(law, RepeatUtility | EffectiveData)
    ranked = tuple(sorted(pools, key=lambda pool: pool.b))
    return FilterAnswer(
        source=str(path),
        law=law,
        pools=ranked,
        choices=tuple(best_pool(law, ranked, n) for n in sorted(set(samples))),
        fitted=fitted,
    )


def _fit(runs: list[PoolRuns], kind: Kind, floor: float | None) -> FitJudged:
    errors = np.concatenate([one.error for one in runs])
    seen = np.concatenate([one.seen for one in runs])
    least, most = float(errors.min()), float(errors.max())
    lowest = max(0.0, most - 1.0)  # below it the largest error would exceed 1 without its floor
    if lowest >= (least if floor is None else floor + 1e-9):
        raise SpecError(
            f"errors of {least:.4g} to {most:.4g} among the runs; expected them between 0 and 1 "
            "above what stays, since beyond the order of utilities turns round: divide losses by "
            "that of a guess"
        )
    unit = max(float(seen.min()) / _UNITS, 1e-9)

    def fit(some: Sequence[PoolRuns]) -> FittedPools:
        """With the floor given, or the one that these runs say."""

        def with_floor(d: float) -> FittedPools:
            return fit_pools(some, d=d, kind=kind, normaliser=unit, values=_VALUES, **_BOXES)

        if floor is not None:
            return with_floor(floor)
        high = lowest + 0.95 * (min(float(one.error.min()) for one in some) - lowest)
        low = lowest
        for _ in range(_ZOOMS):
            tried = np.linspace(low, high, _FLOORS)
            best = min((with_floor(d) for d in tried.tolist()), key=lambda fitted: fitted.residual)
            step = (high - low) / (_FLOORS - 1)
            low, high = max(low, best.law.d - step), min(high, best.law.d + step)
        return best

    found = fit(runs)
    held: dict[str, float] = {}
    if min(len(one.seen) for one in runs) >= _LEAST_TO_HOLD:
        for i, one in enumerate(runs):
            at = int(np.argmax(one.seen))
            rest = replace(one, seen=np.delete(one.seen, at), error=np.delete(one.error, at))
            shorter = fit([*runs[:i], rest, *runs[i + 1 :]])
            said = shorter.law.error(mix([shorter.pools[i]]), float(one.seen[at]))
            held[one.name] = abs(said / float(one.error[at]) - 1)
    return FitJudged(
        found=found,
        floor_given=floor is not None,
        runs=len(errors),
        held_out=held,
        most=float(seen.max()),
    )
