"""The stored tables of tiny runs: which runs they hold, and how a row is written and read.

``tiny_sweep.csv``: two sizes, two token counts, 5 learning rates by 4 batches each. The law fitted
to it sets learning rate and batch of ``tiny_grid.csv``: ten sizes by six token counts. Each row is
one run with its seed; ``scripts/write_tiny_runs.py`` makes them, one after the other.
Leaves out: learning rates and batches tuned run by run.
"""

from pathlib import Path

from plimsoll.catalog.tiny_runs import TinyResult, TinyRun, size_of
from plimsoll.catalog.tiny_text import LENGTH
from plimsoll.laws.bundled_runs import BUNDLED_RUNS
from plimsoll.laws.hyper import StepLaw
from plimsoll.laws.hyper_sweep import fit_hyper, read_sweep
from plimsoll.laws.table import LossTable
from plimsoll.spec.csv_records import csv_line, read_records

__all__ = [
    "COLUMNS",
    "GRID",
    "PROVENANCE",
    "SWEEP",
    "grid_runs",
    "read_rows",
    "row_of",
    "rule",
    "sweep_runs",
    "sweep_table",
]

SWEEP = BUNDLED_RUNS["tiny-sweep"].path
GRID = BUNDLED_RUNS["tiny-grid"].path
PROVENANCE = GRID.parent / "tiny_runs.yaml"
COLUMNS = (
    "params",
    "tokens",
    "loss",
    "smooth_loss",
    "lr",
    "batch",
    "steps",
    "hidden",
    "seed",
)
_SWEEP_HIDDEN = (32, 64)
_SWEEP_TOKENS = (49_152, 196_608)
_SWEEP_LR = (2e-3, 3.5e-3, 6e-3, 10.5e-3, 18e-3)
_SWEEP_BATCH = (32, 64, 128, 256)
_GRID_HIDDEN = (32, 36, 40, 48, 56, 64, 76, 88, 104, 120)
_GRID_TOKENS = (20_480, 35_840, 61_440, 107_520, 184_320, 327_680)


def sweep_runs(seed: int) -> list[TinyRun]:
    """Those of the sweep, cheap ones first."""
    return [
        TinyRun(hidden=hidden, tokens=tokens, lr=lr, batch=batch, seed=seed)
        for tokens in _SWEEP_TOKENS
        for hidden in _SWEEP_HIDDEN
        for batch in reversed(_SWEEP_BATCH)
        for lr in _SWEEP_LR
    ]


def sweep_table(loss: str = "loss", path: Path = SWEEP) -> LossTable:
    """The stored sweep; ``loss`` or ``smooth_loss``."""
    return read_sweep(
        path,
        params="params",
        tokens="tokens",
        lr="lr",
        batch="batch",
        loss=loss,
        batch_in="tokens",
    )


def rule(path: Path = SWEEP) -> StepLaw:
    """The law of the stored sweep, which the grid is trained by."""
    return fit_hyper(sweep_table(path=path)).law


def grid_runs(law: StepLaw, seed: int) -> list[TinyRun]:
    """Those of the grid, by the law's learning rate (three digits) and batch (whole windows)."""
    found = []
    for tokens in _GRID_TOKENS:
        for hidden in _GRID_HIDDEN:
            params = size_of(hidden)
            batch = max(1, round(float(law.batch(params, tokens)) / LENGTH)) * LENGTH
            lr = float(f"{float(law.lr(params, tokens)):.3g}")
            found.append(TinyRun(hidden=hidden, tokens=tokens, lr=lr, batch=batch, seed=seed))
    return found


def row_of(run: TinyRun, result: TinyResult) -> str:
    """The line of a run."""
    cells = (
        size_of(run.hidden),
        run.tokens,
        result.loss,
        result.smooth_loss,
        run.lr,
        run.batch,
        run.steps,
        run.hidden,
        run.seed,
    )
    return csv_line(repr(cell) for cell in cells)


def read_rows(path: Path) -> dict[TinyRun, TinyResult]:
    """What a table holds."""
    header, records = read_records(path, required=COLUMNS, expected="a table of tiny runs")
    found = {}
    for record in records:
        cell = dict(zip(header, record.cells, strict=True))
        run = TinyRun(
            hidden=int(cell["hidden"]),
            tokens=int(cell["tokens"]),
            lr=float(cell["lr"]),
            batch=int(cell["batch"]),
            seed=int(cell["seed"]),
        )
        found[run] = TinyResult(loss=float(cell["loss"]), smooth_loss=float(cell["smooth_loss"]))
    return found
