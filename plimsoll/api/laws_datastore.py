"""A datastore against parameters: how a budget splits, by a law fitted to runs with and without.

No points have been published that such a law could be fitted to, so it comes from the user: a
table of runs, fitted here, or a law that ``laws fit --form datastore`` wrote.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from plimsoll.api.commands import command
from plimsoll.api.laws import law_data
from plimsoll.api.laws_fit import read_runs
from plimsoll.laws.datastore import (
    RETRIEVER_PARAMS,
    StoreAllocation,
    StorePoint,
    compute_optimal,
    size_alone,
    sweep,
)
from plimsoll.laws.fit import bootstrap, fit, form_of
from plimsoll.laws.law import Law, law_of, law_of_fit
from plimsoll.laws.predict import predict
from plimsoll.report.document import KeyNumber, Report, Table
from plimsoll.report.wording import flops_text, percent_text, short_count_text
from plimsoll.spec.errors import InfeasibleError, SpecError
from plimsoll.spec.origin import Number, Origin

__all__ = ["DatastoreAnswer", "weigh_datastore"]

_DRAWS = 200
_FRACTIONS = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0)
_AROUND = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Budgets beside the one asked for, in times of it."""
_FAR = 1000.0
_LAW_FILES = (".yaml", ".yml", ".json")


@dataclass(frozen=True, slots=True, kw_only=True)
class DatastoreAnswer:
    """``found``: the best split; ``alone``: the same budget without a store; ``parts``: the chosen
    model with parts of its store; ``frontier``: best splits of other budgets in reach; ``size``:
    parameters a model alone would need for the loss found, inf beyond a thousand times."""

    law: Law
    source: str
    found: StoreAllocation
    alone: StoreAllocation
    parts: tuple[StorePoint, ...]
    frontier: tuple[StoreAllocation, ...]
    size: float
    retriever_params: float
    most_tokens: float
    stretch: float

    def report(self) -> Report:
        """See ``Answer``."""
        one, alone = self.found, self.alone
        at = predict(self.law, _point(one))
        origin = Origin.EXTRAPOLATED if at.outside else Origin.MODELED
        interval = (
            f"{at.low:.4g} to {at.high:.4g} with 90 %" if np.isfinite(at.low) else "not known"
        )
        store = short_count_text(one.datastore)
        title = (
            f"{short_count_text(one.params)} parameters on {short_count_text(one.tokens)} tokens, "
            + (f"with a datastore of {store} tokens" if one.datastore else "without a datastore")
        )
        notes = [at.warning] if at.warning else []
        for name, row in (("the answer", one), ("the model alone", alone)):
            if row.edge:
                notes.append(f"{name} stands at {row.edge}: no optimum, the limit of the search")
        if one.datastore and np.isfinite(self.size):
            notes.append(
                f"a model alone on as many tokens has this loss at {short_count_text(self.size)} "
                f"parameters, {self.size / one.params:.2g} times as many"
            )
        elif one.datastore:
            notes.append(
                f"no model alone of up to {_FAR:g} times the size has this loss on as many tokens"
            )
        notes.append(
            "each answer also reads what is retrieved, 2 FLOPs a parameter and token, and "
            "searches the store: neither is in this budget"
        )
        return Report(
            title=title,
            subtitle=f"{flops_text(one.flops)} FLOPs by {self.law.form.formula}; {self.law.source}",
            command=self._command(one.flops),
            key_numbers=(
                KeyNumber(
                    name="Loss",
                    number=Number(value=one.loss, unit=self.law.unit, origin=origin),
                    digits=4,
                    note=f"interval {interval}",
                ),
            ),
            tables=(self._splits(), self._parts(), self._frontier()),
            assumptions=(
                "training costs 6 FLOPs a parameter and token, building the store 2 a parameter of "
                f"the retriever ({short_count_text(self.retriever_params)}) and token",
                f"sizes, tokens and store up to {self.stretch:g} times beyond the runs' range"
                + (
                    f", the store up to {short_count_text(self.most_tokens)} tokens"
                    if np.isfinite(self.most_tokens)
                    else ""
                ),
                "the form of the datastore's term is ours; its constants are of these runs",
            ),
            notes=tuple(notes),
            next_command=self._command(10 * one.flops),
        )

    def _command(self, flops: float) -> str:
        words = ["laws", "datastore", self.source, "--flops", f"{flops:.6g}"]
        if self.retriever_params != RETRIEVER_PARAMS:
            words += ["--retriever", f"{self.retriever_params:.6g}"]
        if np.isfinite(self.most_tokens):
            words += ["--store", f"{self.most_tokens:.6g}"]
        return command(*words)

    def _splits(self) -> Table:
        return Table(
            title="The budget with a datastore and without",
            columns=("", "params", "tokens", "datastore", "loss", "to the store"),
            rows=tuple(
                (
                    name,
                    short_count_text(row.params),
                    short_count_text(row.tokens),
                    short_count_text(row.datastore) if row.datastore else "-",
                    f"{row.loss:.4g}",
                    percent_text(row.store_fraction),
                )
                for name, row in (("best", self.found), ("model alone", self.alone))
            ),
            notes=("to the store: share of the FLOPs",),
        )

    def _parts(self) -> Table:
        return Table(
            title="The same model with part of the store",
            columns=("part", "datastore", "loss"),
            rows=tuple(
                (
                    percent_text(point.fraction),
                    short_count_text(point.datastore) if point.datastore else "-",
                    f"{point.loss:.4g}",
                )
                for point in self.parts
            ),
        )

    def _frontier(self) -> Table:
        return Table(
            title="Other budgets",
            columns=("FLOPs", "params", "tokens", "datastore", "loss", "to the store"),
            rows=tuple(
                (
                    flops_text(row.flops),
                    short_count_text(row.params),
                    short_count_text(row.tokens),
                    short_count_text(row.datastore) if row.datastore else "-",
                    f"{row.loss:.4g}",
                    percent_text(row.store_fraction),
                )
                for row in self.frontier
            ),
        )

    def data(self) -> dict[str, Any]:
        """See ``Answer``."""
        return {
            "format_version": 1,
            "law": law_data(self.law),
            "retriever_params": self.retriever_params,
            "most_store_tokens": self.most_tokens if np.isfinite(self.most_tokens) else None,
            "stretch": self.stretch,
            "chosen": _split_data(self.found),
            "model_alone": _split_data(self.alone),
            "params_alone_for_the_loss": self.size if np.isfinite(self.size) else None,
            "parts": [
                {
                    "fraction": point.fraction,
                    "datastore_tokens": point.datastore,
                    "loss": point.loss,
                    "store_flops": point.store_flops,
                }
                for point in self.parts
            ],
            "frontier": [_split_data(row) for row in self.frontier],
        }


def _point(one: StoreAllocation) -> dict[str, float]:
    return {"params": one.params, "tokens": one.tokens, "datastore": one.datastore}


def _split_data(one: StoreAllocation) -> dict[str, Any]:
    return {
        "flops": one.flops,
        "params": one.params,
        "tokens": one.tokens,
        "datastore_tokens": one.datastore,
        "loss": one.loss,
        "store_flops": one.store_flops,
        "store_fraction": one.store_fraction,
        "edge": one.edge,
    }


def weigh_datastore(
    source: Path,
    flops: float,
    *,
    retriever_params: float = RETRIEVER_PARAMS,
    most_tokens: float = float("inf"),
    columns: str = "params=params,tokens=tokens,datastore=datastore",
    loss: str = "loss",
    unit: str = "",
    stretch: float = 10.0,
    seed: int = 0,
) -> DatastoreAnswer:
    """Split ``flops``; ``source`` is a CSV of runs or a law of the form ``datastore``.

    Raises:
        SpecError: a file that is neither, numbers that cannot be.
        InfeasibleError: runs that cannot tell the law's parameters apart, a budget out of reach.
    """
    law = _law(source, columns, loss, unit, seed)

    def split(budget: float, most: float) -> StoreAllocation:
        return compute_optimal(
            law, budget, retriever_params=retriever_params, most_tokens=most, stretch=stretch
        )

    found = split(flops, most_tokens)
    return DatastoreAnswer(
        law=law,
        source=str(source),
        found=found,
        alone=split(flops, 0.0),
        parts=sweep(
            law,
            params=found.params,
            tokens=found.tokens,
            datastore=found.datastore,
            fractions=_FRACTIONS if found.datastore else (0.0,),
            retriever_params=retriever_params,
        ),
        frontier=tuple(_in_reach(lambda budget: split(budget, most_tokens), flops)),
        size=size_alone(law, found.loss, tokens=found.tokens, most_params=_FAR * found.params),
        retriever_params=retriever_params,
        most_tokens=most_tokens,
        stretch=stretch,
    )


def _in_reach(split: Callable[[float], StoreAllocation], flops: float) -> Iterator[StoreAllocation]:
    """Splits of the budgets around that the law reaches."""
    for times in _AROUND:
        with suppress(InfeasibleError):
            yield split(times * flops)


def _law(source: Path, columns: str, loss: str, unit: str, seed: int) -> Law:
    if source.suffix in _LAW_FILES:
        return law_of(str(source))
    table = read_runs(source, columns, loss, unit)
    missing = [name for name in form_of("datastore").inputs if name not in table.columns]
    if missing:
        raise SpecError(
            f"--columns {columns!r}: lacks {' and '.join(missing)}; expected as in "
            "params=N,tokens=D,datastore=S"
        )
    if table.columns["datastore"].min() > 0:
        raise SpecError(
            f"{source}: every run has a datastore; expected some with 0, or nothing tells what a "
            "model alone is worth"
        )
    return law_of_fit(bootstrap(fit(form_of("datastore"), table), draws=_DRAWS, seed=seed))
