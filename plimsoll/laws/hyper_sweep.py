"""Sweeps over learning rate and batch size: the law they give, and what a law costs on them.

A sweep is a table with columns ``params``, ``tokens``, ``lr`` and ``batch`` (tokens) and a
smoothed final loss; a cell is what agrees in all other columns. The fit keeps the points within a
quarter of a percent of each cell's minimum (which is also what leaves out runs that diverged),
pools them and takes least squares of ln lr on (1, ln N, ln D) and of ln batch on (1, ln D).
Coefficients of a plateau are ill known: judge a law by its *regret*, the loss of the swept point
nearest to what it says over the least loss of the cell.
Leaves out: noise of the losses themselves (one run a point).
Source: arXiv 2503.04715, sections 3 and 4.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
from scipy.interpolate import LinearNDInterpolator
from scipy.spatial import QhullError

from plimsoll.laws.forms.contract import Floats
from plimsoll.laws.hyper import PLATEAU, StepLaw
from plimsoll.laws.table import LossTable, read_table
from plimsoll.spec.errors import InfeasibleError, SpecError

__all__ = [
    "Bowl",
    "CellRegret",
    "HyperFit",
    "bowls",
    "fit_hyper",
    "read_sweep",
    "regret",
    "regret_of",
]

_BOWL_WITHIN = 0.02
_BOWL_FEWEST = 6
_FEWEST_BATCH = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class HyperFit:
    """``law`` holds the mean of ``draws`` [b, 3 + 2 or 3] where there are any: (ln a, b, c, ln d,
    e[, f]) of resampled points. ``spreads``: their standard deviations by name. ``at_edge``: cells
    whose best point stands at the edge of its sweep."""

    law: StepLaw
    draws: Floats
    spreads: dict[str, float]
    kept: int
    cells: int
    at_edge: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRegret:
    """Of one cell: ``nearest``, relative, at the swept point nearest in logarithms;
    ``interpolated`` between the points around, None outside of the sweep."""

    params: float
    tokens: float
    nearest: float
    interpolated: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bowl:
    """The quadratic in (ln lr, ln batch) of ln of the loss near a cell's minimum.

    ``hessian`` is (lr, batch, cross); ``eigenvalues`` ascending; ``points`` it was fitted to."""

    params: float
    tokens: float
    hessian: tuple[float, float, float]
    eigenvalues: tuple[float, float]
    points: int

    @property
    def convex(self) -> bool:
        """Whether both eigenvalues are positive."""
        return self.eigenvalues[0] > 0


def read_sweep(
    path: Path,
    *,
    params: str = "N",
    tokens: str = "D",
    lr: str = "lr",
    batch: str = "bs",
    loss: str = "smooth loss",
    batch_in: Literal["tokens", "sequences"] = "sequences",
    seq_len: int | None = None,
    also: Mapping[str, str] = MappingProxyType({}),
) -> LossTable:
    """A sweep from a CSV; the defaults are the headers of the released files (2,048 tokens a
    sequence). ``also``: further columns that tell cells apart, as the active parameters of models
    with experts.

    Raises:
        SpecError: batches in sequences without a length, batches that can hardly be tokens, or
            larger than the run.
    """
    if batch_in == "sequences" and not (seq_len and seq_len > 0):
        raise SpecError(
            f"{path}: batches are in sequences, and no sequence length was given; name it, or say "
            "that batches are in tokens"
        )
    factor = f"*{seq_len}" if batch_in == "sequences" else ""
    columns = {"params": params, "tokens": tokens, "lr": lr, "batch": batch + factor, **also}
    table = read_table(path, columns, loss=loss)
    _check_sweep(table)
    return table


def _check_sweep(table: LossTable) -> None:
    """Refuse batches that are no tokens.

    Raises:
        SpecError: see ``read_sweep``.
    """
    sizes, tokens = table.column("batch"), table.column("tokens")
    bad = np.flatnonzero(sizes > tokens)
    if len(bad):
        where = int(bad[0])
        raise SpecError(
            f"{table.name}: a batch of {sizes[where]:,.0f} tokens in a run of "
            f"{tokens[where]:,.0f}; expected a batch smaller than the run"
        )
    if float(np.median(tokens)) >= 1e9 and float(np.median(sizes)) < _FEWEST_BATCH:
        raise SpecError(
            f"{table.name}: the median batch is {np.median(sizes):g} in runs of "
            f"{np.median(tokens):.3g} tokens; if it is in sequences, give their length"
        )


def _cells(table: LossTable) -> Iterator[tuple[float, float, LossTable]]:
    """Points alike in everything but learning rate and batch, with their (params, tokens)."""
    names = ["params", "tokens", *sorted(set(table.columns) - {"params", "tokens", "lr", "batch"})]
    stacked = np.stack([table.column(name) for name in names], axis=1)
    for row in np.unique(stacked, axis=0):
        yield float(row[0]), float(row[1]), table.rows((stacked == row).all(axis=1))


def fit_hyper(
    table: LossTable,
    *,
    within: float = PLATEAU,
    batch_on_params: bool = False,
    draws: int = 1000,
    seed: int = 0,
) -> HyperFit:
    """The law of a sweep. ``within`` 0 keeps the best point of each cell alone; ``draws`` 0 gives
    plain least squares.

    Raises:
        SpecError: batches that are no tokens, or a negative ``within``.
        InfeasibleError: sizes and token counts that do not vary apart from each other.
    """
    if within < 0 or draws < 0:
        raise SpecError(f"within {within:g} and {draws} draws; expected zero or more of both")
    _check_sweep(table)
    kept, cells, at_edge = [], 0, 0
    for _, _, cell in _cells(table):
        cells += 1
        near = cell.rows(cell.loss <= cell.loss.min() * (1 + within))
        kept.append(np.stack([np.log(near.column(c)) for c in ("params", "tokens", "lr", "batch")]))
        best = int(np.argmin(cell.loss))
        at_edge += any(
            len(set(cell.column(c).tolist())) > 1
            and cell.column(c)[best] in (cell.column(c).min(), cell.column(c).max())
            for c in ("lr", "batch")
        )
    points = np.concatenate(kept, axis=1).T
    lr_of = [0, 1]
    batch_of = [1, 0] if batch_on_params else [1]
    _refuse_flat(points[:, :2], cells)
    rng = np.random.default_rng(seed)
    found = [_solve(points, lr_of, batch_of)]
    for _ in range(draws):
        sample = points[rng.integers(0, len(points), len(points))]
        found.append(_solve(sample, lr_of, batch_of))
    drawn = np.array(found[1:]).reshape(draws, 3 + 1 + len(batch_of))
    mean = drawn.mean(axis=0) if draws else found[0]
    names: tuple[str, ...] = (
        "ln_lr_factor",
        "lr_params",
        "lr_tokens",
        "ln_batch_factor",
        "batch_tokens",
    )
    names = (*names, "batch_params")[: len(mean)]
    bowl = (0.0, 0.0, 0.0)
    shapes = [b.hessian for b in bowls(table) if b.convex]
    if shapes:
        h_lr, h_batch, cross = np.mean(shapes, axis=0).tolist()
        bowl = (h_lr, h_batch, cross)
    sizes, tokens = table.column("params"), table.column("tokens")
    law = StepLaw(
        lr_factor=float(np.exp(mean[0])),
        lr_params=float(mean[1]),
        lr_tokens=float(mean[2]),
        batch_factor=float(np.exp(mean[3])),
        batch_tokens=float(mean[4]),
        batch_params=float(mean[5]) if batch_on_params else 0.0,
        bowl=bowl,
        params_box=(float(sizes.min()), float(sizes.max())),
        tokens_box=(float(tokens.min()), float(tokens.max())),
        source=table.name,
    )
    spreads = dict(zip(names, drawn.std(axis=0).tolist(), strict=True)) if draws else {}
    return HyperFit(
        law=law, draws=drawn, spreads=spreads, kept=len(points), cells=cells, at_edge=at_edge
    )


def _refuse_flat(inputs: Floats, cells: int) -> None:
    centered = inputs - inputs.mean(axis=0)
    scale = np.linalg.svd(centered, compute_uv=False) / np.sqrt(len(inputs))
    if cells < 3 or scale[-1] < 1e-3:
        raise InfeasibleError(
            f"{cells} cells whose sizes and token counts do not vary apart: the exponents of N "
            "and of D cannot be told apart",
            binding="the design of the sweep",
            change="sweep at least two sizes with two token counts each, not one ratio for all",
        )


def _solve(points: Floats, lr_of: list[int], batch_of: list[int]) -> Floats:
    """Least squares of columns 2 (ln lr) and 3 (ln batch) on a constant and those inputs."""
    one = np.ones((len(points), 1))
    parts = [
        np.linalg.lstsq(np.hstack([one, points[:, use]]), points[:, column], rcond=None)[0]
        for column, use in ((2, lr_of), (3, batch_of))
    ]
    return np.concatenate(parts)


def regret(table: LossTable, law: StepLaw) -> list[CellRegret]:
    """What the law's pairs cost in each cell."""
    return regret_of(table, lambda n, d: (float(law.lr(n, d)), float(law.batch(n, d))))


def regret_of(
    table: LossTable, pick: Callable[[float, float], tuple[float, float]]
) -> list[CellRegret]:
    """The same for any rule that turns (params, tokens) into (learning rate, batch in tokens)."""
    _check_sweep(table)
    found = []
    for params, tokens, cell in _cells(table):
        at = np.log(np.array(pick(params, tokens)))
        grid = np.log(np.stack([cell.column("lr"), cell.column("batch")], axis=1))
        least = float(cell.loss.min())
        nearest = int(np.argmin(((grid - at) ** 2).sum(axis=1)))
        between = _between(grid, cell.loss, at)
        found.append(
            CellRegret(
                params=params,
                tokens=tokens,
                nearest=float(cell.loss[nearest]) / least - 1,
                interpolated=None if between is None else between / least - 1,
            )
        )
    return found


def _between(grid: Floats, loss: Floats, at: Floats) -> float | None:
    """The loss in the triangle of points around ``at``; None outside of all."""
    try:
        value = float(LinearNDInterpolator(grid, loss)(at[None])[0])
    except QhullError:
        return None
    return value if np.isfinite(value) else None


def bowls(table: LossTable, *, within: float = _BOWL_WITHIN) -> list[Bowl]:
    """The bowl of every cell with six points or more within that share of its minimum."""
    found = []
    for params, tokens, cell in _cells(table):
        near = cell.rows(cell.loss <= cell.loss.min() * (1 + within))
        log = np.log(np.stack([near.column("lr"), near.column("batch")], axis=1))
        a, b = (log - log[int(np.argmin(near.loss))]).T
        design = np.stack([np.ones_like(a), a, b, a * a / 2, b * b / 2, a * b], axis=1)
        if len(near) < _BOWL_FEWEST or np.linalg.matrix_rank(design) < design.shape[1]:
            continue
        solved = np.linalg.lstsq(design, np.log(near.loss), rcond=None)[0]
        h_lr, h_batch, cross = (float(v) for v in solved[3:])
        low, high = np.linalg.eigvalsh(np.array([[h_lr, cross], [cross, h_batch]])).tolist()
        found.append(
            Bowl(
                params=params,
                tokens=tokens,
                hessian=(h_lr, h_batch, cross),
                eigenvalues=(low, high),
                points=len(near),
            )
        )
    return found
