"""A sweep over learning rate and batch: its law, and what that and others cost on it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from plimsoll.laws.hyper import STEP_LAW
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
from plimsoll.report.document import Table
from plimsoll.report.wording import short_count_text
from plimsoll.spec.errors import InfeasibleError, SpecError

__all__ = [
    "SweepJudged",
    "cost_table",
    "judge_sweep",
    "law_table",
    "mean_cost",
    "read_user_sweep",
    "shape_table",
    "sweep_data",
    "sweep_notes",
]

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
    return read_sweep(
        path,
        params=columns.get("params", "params"),
        tokens=columns.get("tokens", "tokens"),
        lr=columns.get("lr", "lr"),
        batch=columns.get("batch", "batch"),
        loss=loss,
        batch_in=unit,
        seq_len=seq_len,
    )


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


def law_table(found: HyperFit) -> Table:
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


def shape_table(judged: SweepJudged) -> Table:
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


def cost_table(judged: SweepJudged) -> Table:
    known = [cell for cell in judged.held_out if cell is not None]
    every = (judged.fitted, judged.held_out, judged.published, judged.constant)
    rows = [
        (_name(cell), *(_cost(row[i]) for row in every)) for i, cell in enumerate(judged.published)
    ]
    means = (judged.fitted, known, judged.published, judged.constant)
    rows.append(("mean", *(f"{100 * mean_cost(row):.2f} %" if row else "-" for row in means)))
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


def mean_cost(cells: Sequence[CellRegret]) -> float:
    return float(np.mean([cell.nearest for cell in cells]))


def sweep_notes(judged: SweepJudged) -> list[str]:
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


def sweep_data(judged: SweepJudged) -> dict[str, Any]:
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
