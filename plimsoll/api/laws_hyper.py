"""Learning rate and batch for a run; with a sweep, by a law refitted to it and judged on it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from plimsoll.api.commands import command
from plimsoll.laws.hyper import STEP_LAW, StepLaw, Suggestion, suggest
from plimsoll.laws.hyper_sweep import (
    Bowl,
    CellRegret,
    HyperFit,
    bowls,
    fit_hyper,
    read_sweep,
    regret,
    regret_of,
)
from plimsoll.laws.table import LossTable
from plimsoll.report.document import KeyNumber, Report, Table
from plimsoll.report.wording import short_count_text
from plimsoll.spec.errors import InfeasibleError, SpecError
from plimsoll.spec.origin import Number, Origin

__all__ = ["HyperAnswer", "SweepJudged", "hyper", "judge_sweep", "read_user_sweep"]

_CONSTANT = (1e-3, 5e5)
_DRAWS = 1000
_INPUTS = ("params", "tokens", "lr", "batch")


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepJudged:
    """A sweep with its law. Regrets by cell, in the order of ``published``; ``held_out`` of a law
    fitted to the other cells, None where these cannot carry one; ``shapes`` where there is one."""

    table: LossTable
    found: HyperFit
    fitted: tuple[CellRegret, ...]
    held_out: tuple[CellRegret | None, ...]
    published: tuple[CellRegret, ...]
    constant: tuple[CellRegret, ...]
    shapes: dict[tuple[float, float], Bowl]

    @property
    def best(self) -> list[tuple[float, float, float]]:
        """(learning rate, batch, loss) of the least loss, by cell."""
        return [self._best(cell) for cell in self.published]

    def _best(self, cell: CellRegret) -> tuple[float, float, float]:
        table = self.table
        here = (table.column("params") == cell.params) & (table.column("tokens") == cell.tokens)
        rows = table.rows(here)
        at = int(np.argmin(rows.loss))
        return float(rows.column("lr")[at]), float(rows.column("batch")[at]), float(rows.loss[at])


def read_user_sweep(
    path: Path, columns: dict[str, str], loss: str, batch_in: str, seq_len: int
) -> LossTable:
    """A sweep whose headers are given for params, tokens, lr and batch.

    Raises:
        SpecError: see ``laws.hyper_sweep.read_sweep``; a unit of batches that is neither.
    """
    if batch_in not in ("tokens", "sequences"):
        raise SpecError(f"--batch-in {batch_in!r}: expected tokens or sequences")
    unit: Literal["tokens", "sequences"] = "tokens" if batch_in == "tokens" else "sequences"
    if unknown := [name for name in columns if name not in _INPUTS]:
        raise SpecError(f"--columns: unknown {unknown[0]!r}; expected {', '.join(_INPUTS)}")
    names = {name: columns.get(name, name) for name in _INPUTS}
    return read_sweep(path, **names, loss=loss, batch_in=unit, seq_len=seq_len)


def judge_sweep(table: LossTable, *, seed: int = 0) -> SweepJudged:
    """Fit the law of a sweep, and say what it, the published one and a constant cost on it.

    Raises:
        InfeasibleError: sizes and tokens that do not vary apart.
    """
    found = fit_hyper(table, draws=_DRAWS, seed=seed)
    published = regret(table, STEP_LAW)
    return SweepJudged(
        table=table,
        found=found,
        fitted=tuple(regret(table, found.law)),
        held_out=tuple(_without(table, cell) for cell in published),
        published=tuple(published),
        constant=tuple(regret_of(table, lambda n, d: _CONSTANT)),
        shapes={(bowl.params, bowl.tokens): bowl for bowl in bowls(table)},
    )


def _without(table: LossTable, cell: CellRegret) -> CellRegret | None:
    here = (table.column("params") == cell.params) & (table.column("tokens") == cell.tokens)
    if here.all():
        return None
    try:
        law = fit_hyper(table.rows(~here), draws=0).law
    except InfeasibleError:
        return None
    return regret(table.rows(here), law)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class HyperAnswer:
    """``advice`` None if only a sweep was asked about; ``rival``: what the published law says
    where one was refitted."""

    params: float
    tokens: float
    seq_len: int
    law: StepLaw
    advice: Suggestion | None
    rival: Suggestion | None
    judged: SweepJudged | None
    asked: tuple[str, ...] = ()

    def report(self) -> Report:
        """See ``Answer``."""
        advice, judged = self.advice, self.judged
        tables = [] if advice is None else [self._train(advice)]
        notes = [] if advice is None else _outside_notes(advice)
        if judged is not None:
            tables += [_law_table(judged.found), _shapes(judged), _costs(judged)]
            notes += _sweep_notes(judged)
        return Report(
            title=_title(advice, judged),
            subtitle=self._subtitle(),
            command=command(*(self.asked or ("laws", "hyper"))),
            key_numbers=() if advice is None else _keys(advice),
            tables=tuple(tables),
            assumptions=(
                "warm-up of 2,000 steps, cosine to a fixed 1e-5, AdamW; parameters without "
                "embeddings (of experts: all of them)",
            )
            if judged is None
            else ("the schedule of the sweep; one that decays further has another optimum",),
            notes=tuple(notes),
            next_command=self._next(),
        )

    def _subtitle(self) -> str:
        source = self.law.source if self.judged is None else f"refitted to {self.law.source}"
        if self.advice is None:
            return source
        return (
            f"{short_count_text(self.params)} parameters, {short_count_text(self.tokens)} tokens, "
            f"sequences of {self.seq_len:,}; {source}"
        )

    def _next(self) -> str:
        if self.advice is None:
            words = [*self.asked, "--params", "7B", "--tokens", "1.4T"]
            return command(*(words if self.asked else ("laws", "hyper", *words)))
        return command(
            "laws",
            "predict",
            "--params",
            f"{self.params:.3g}",
            "--tokens",
            f"{self.tokens:.3g}",
        )

    def _train(self, advice: Suggestion) -> Table:
        rows = [
            ("peak learning rate", f"{advice.lr:.3g}", _range(advice.lr_range, "{:.3g}".format)),
            (
                "batch",
                f"{short_count_text(advice.batch_tokens)} tokens",
                _range(advice.batch_range, short_count_text),
            ),
            ("", f"{advice.batch_sequences:,} sequences", _sequences(advice, self.seq_len)),
            ("steps", f"{advice.steps:,}", ""),
        ]
        if self.rival is not None:
            rival = self.rival
            rows.append(
                (
                    "published law instead",
                    f"{rival.lr:.3g}",
                    f"{short_count_text(rival.batch_tokens)} tokens a step",
                )
            )
        return Table(
            title="What to train with",
            columns=("", "value", "as good"),
            rows=tuple(rows),
            notes=(f"as good: both together within {100 * advice.plateau:g} % of the least loss",)
            if advice.lr_range
            else ("how wide the plateau is, is not known: no cell of the sweep is convex",),
        )

    def data(self) -> dict[str, Any]:
        """See ``Answer``."""
        judged = self.judged
        return {
            "format_version": 1,
            "params": self.params or None,
            "tokens": self.tokens or None,
            "seq_len_tokens": self.seq_len,
            "law": _law_data(self.law),
            "advice": None if self.advice is None else _advice_data(self.advice),
            "published_advice": None if self.rival is None else _advice_data(self.rival),
            "sweep": None if judged is None else _sweep_data(judged),
        }


def _title(advice: Suggestion | None, judged: SweepJudged | None) -> str:
    if advice is not None:
        return (
            f"Learning rate {advice.lr:.3g}, batch {short_count_text(advice.batch_tokens)} tokens "
            f"({advice.batch_sequences:,} sequences)"
        )
    assert judged is not None
    return (
        f"The refitted law costs {100 * _mean(judged.fitted):.2f} % of the loss on its sweep, "
        f"the published one {100 * _mean(judged.published):.2f} %"
    )


def _keys(advice: Suggestion) -> tuple[KeyNumber, ...]:
    origin = Origin.MODELED if advice.in_box else Origin.EXTRAPOLATED
    return (
        KeyNumber(
            name="Learning rate",
            number=Number(value=advice.lr, unit="", origin=origin),
            note="peak",
        ),
        KeyNumber(
            name="Batch",
            number=Number(value=advice.batch_tokens, unit="tokens", origin=origin),
            note=f"the law says {advice.best_batch_tokens:,.0f}",
        ),
    )


def _outside_notes(advice: Suggestion) -> list[str]:
    if advice.in_box:
        return ["inside the range of sizes and tokens that the law was fitted on"]
    parts = [
        f"{name} {factor:.3g} times above" if factor > 1 else f"{name} {1 / factor:.3g} times below"
        for name, factor in advice.outside.items()
    ]
    return [f"extrapolated: {' and '.join(parts)} the law's range; sweep a smaller run to check"]


def _range(limits: tuple[float, float] | None, show: Callable[[float], str]) -> str:
    return "" if limits is None else f"{show(limits[0])} to {show(limits[1])}"


def _sequences(advice: Suggestion, seq_len: int) -> str:
    return _range(advice.batch_range, lambda tokens: f"{max(1, round(tokens / seq_len)):,}")


def _law_table(found: HyperFit) -> Table:
    law, spreads, published = found.law, found.spreads, STEP_LAW
    rows = [
        ("lr: factor", f"{law.lr_factor:.3g}", "", f"{published.lr_factor:.3g}"),
        *(
            (
                label,
                f"{getattr(law, name):.3f}",
                f"{spreads[name]:.3f}" if name in spreads else "",
                f"{getattr(published, name):.3f}",
            )
            for label, name in (
                ("lr: power of params", "lr_params"),
                ("lr: power of tokens", "lr_tokens"),
            )
        ),
        ("batch: factor", f"{law.batch_factor:.3g}", "", f"{published.batch_factor:.3g}"),
        (
            "batch: power of tokens",
            f"{law.batch_tokens:.3f}",
            f"{spreads['batch_tokens']:.3f}" if "batch_tokens" in spreads else "",
            f"{published.batch_tokens:.3f}",
        ),
    ]
    return Table(
        title="The law of the sweep",
        columns=("", "fitted", "spread", "published"),
        rows=tuple(rows),
        notes=(
            f"from {found.kept} points within 0.25 % of the best of {found.cells} cells; "
            "coefficients of a plateau are ill known, judge by the cost below",
        ),
    )


def _shapes(judged: SweepJudged) -> Table:
    rows = []
    for cell, (lr, batch, loss) in zip(judged.published, judged.best, strict=True):
        bowl = judged.shapes.get((cell.params, cell.tokens))
        shape = "too few points" if bowl is None else "yes" if bowl.convex else "no"
        rows.append((_name(cell), f"{loss:.4g}", f"{lr:.3g}", short_count_text(batch), shape))
    return Table(
        title="Cells of the sweep",
        columns=("", "least loss", "lr", "batch, tokens", "convex"),
        rows=tuple(rows),
        notes=("convex: the quadratic of ln loss in ln lr and ln batch, within 2 % of the least",),
    )


def _costs(judged: SweepJudged) -> Table:
    known = [cell for cell in judged.held_out if cell is not None]
    every = (judged.fitted, judged.held_out, judged.published, judged.constant)
    rows = [
        (_name(cell), *(_cost(row[i]) for row in every)) for i, cell in enumerate(judged.published)
    ]
    means = (judged.fitted, known, judged.published, judged.constant)
    rows.append(("mean", *(f"{100 * _mean(row):.2f} %" if row else "-" for row in means)))
    return Table(
        title="What each rule costs",
        columns=("", "refitted", "cell left out", "published", "constant"),
        rows=tuple(rows),
        notes=(
            "cost: loss of the swept point nearest to the rule's pair over the cell's least",
            f"cell left out: fitted to the others; constant: {_CONSTANT[0]:g} and "
            f"{short_count_text(_CONSTANT[1])} tokens for all",
        ),
    )


def _name(cell: CellRegret) -> str:
    return f"{short_count_text(cell.params)} on {short_count_text(cell.tokens)}"


def _cost(cell: CellRegret | None) -> str:
    return "-" if cell is None else f"{100 * cell.nearest:.2f} %"


def _mean(cells: Sequence[CellRegret]) -> float:
    return float(np.mean([cell.nearest for cell in cells]))


def _sweep_notes(judged: SweepJudged) -> list[str]:
    notes = []
    if judged.found.at_edge:
        notes.append(
            f"in {judged.found.at_edge} of {judged.found.cells} cells the best point stands at the "
            "edge of the sweep: the optimum may lie beyond, widen it"
        )
    hollow = [cell for cell in judged.shapes.values() if not cell.convex]
    if hollow:
        notes.append(
            f"{len(hollow)} cells are not convex near their best point: too coarse a grid, or "
            "noise as large as the bowl"
        )
    if all(cell is None for cell in judged.held_out):
        notes.append("too few cells to leave one out: the refitted law is judged on its own points")
    return notes


def _law_data(law: StepLaw) -> dict[str, Any]:
    return {
        "lr_factor": law.lr_factor,
        "lr_params": law.lr_params,
        "lr_tokens": law.lr_tokens,
        "batch_factor_tokens": law.batch_factor,
        "batch_tokens": law.batch_tokens,
        "params_box": list(law.params_box),
        "tokens_box": list(law.tokens_box),
        "source": law.source,
    }


def _advice_data(advice: Suggestion) -> dict[str, Any]:
    return {
        "lr": advice.lr,
        "batch_tokens": advice.batch_tokens,
        "batch_sequences": advice.batch_sequences,
        "best_batch_tokens": advice.best_batch_tokens,
        "steps": advice.steps,
        "lr_range": advice.lr_range and list(advice.lr_range),
        "batch_range_tokens": advice.batch_range and list(advice.batch_range),
        "plateau_fraction": advice.plateau,
        "in_box": advice.in_box,
        "outside": advice.outside,
    }


def _sweep_data(judged: SweepJudged) -> dict[str, Any]:
    cells = []
    for i, cell in enumerate(judged.published):
        lr, batch, loss = judged.best[i]
        bowl = judged.shapes.get((cell.params, cell.tokens))
        held = judged.held_out[i]
        cells.append(
            {
                "params": cell.params,
                "tokens": cell.tokens,
                "loss": loss,
                "best_lr": lr,
                "best_batch_tokens": batch,
                "convex": None if bowl is None else bowl.convex,
                "cost_fraction": {
                    "refitted": judged.fitted[i].nearest,
                    "cell_left_out": None if held is None else held.nearest,
                    "published": cell.nearest,
                    "constant": judged.constant[i].nearest,
                },
            }
        )
    return {
        "points": len(judged.table),
        "kept": judged.found.kept,
        "at_edge": judged.found.at_edge,
        "spreads": judged.found.spreads,
        "cells": cells,
    }


def hyper(
    params: float | None,
    tokens: float | None,
    *,
    seq_len: int = 4096,
    data_parallel: int = 1,
    micro_batch: int = 1,
    sweep: LossTable | None = None,
    seed: int = 0,
) -> HyperAnswer:
    """Learning rate and batch; by the published law, or by one refitted to ``sweep``.

    Raises:
        SpecError: counts that cannot be; neither a run nor a sweep.
        InfeasibleError: devices that take more than the plateau in a step, or a sweep that says
            nothing of sizes and tokens apart.
    """
    if (params is None) != (tokens is None):
        raise SpecError("give both --params and --tokens of the run, or neither")
    if params is None and sweep is None:
        raise SpecError("nothing to answer; give --params and --tokens of a run, or --sweep FILE")
    judged = None if sweep is None else judge_sweep(sweep, seed=seed)
    law = STEP_LAW if judged is None else judged.found.law

    def ask(by: StepLaw) -> Suggestion | None:
        if params is None or tokens is None:
            return None
        return suggest(
            params,
            tokens,
            seq_len=seq_len,
            data_parallel=data_parallel,
            micro_batch=micro_batch,
            law=by,
        )

    return HyperAnswer(
        params=params or 0.0,
        tokens=tokens or 0.0,
        seq_len=seq_len,
        law=law,
        advice=ask(law),
        rival=None if judged is None else ask(STEP_LAW),
        judged=judged,
    )
