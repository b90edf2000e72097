"""The stored tables of tiny runs: which runs they hold, and how a row is written and read.

``tiny_sweep.csv``: two sizes, two token counts, 5 learning rates by 4 batches each.
``tiny_grid.csv``: ten sizes by six token counts, learning rate and batch by published powers
through the best pair of the sweep's smallest cell. Each row is
one run with its seed; ``scripts/write_tiny_runs.py`` makes them, one after the other.
Leaves out: learning rates and batches tuned run by run.
"""

from dataclasses import replace
from pathlib import Path

from plimsoll.catalog.tiny_runs import TinyResult, TinyRun, size_of
from plimsoll.catalog.tiny_text import LENGTH
from plimsoll.laws.bundled_runs import BUNDLED_RUNS
from plimsoll.laws.hyper import STEP_LAW
from plimsoll.laws.hyper_sweep import read_sweep
from plimsoll.laws.table import LossTable
from plimsoll.spec.csv_records import csv_line, read_records

__all__ = [
    "COLUMNS",
    "GRID",
    "GRID_RULE",
    "PROVENANCE",
    "SWEEP",
    "grid_runs",
    "read_rows",
    "row_of",
    "sweep_runs",
    "sweep_table",
]

GRID = BUNDLED_RUNS["tiny-grid"].path
SWEEP = GRID.parent / "tiny_sweep.csv"
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
_SWEEP_TOKENS = (49_152, 131_072)
_SWEEP_LR = {
    32: (2e-3, 3.5e-3, 6e-3, 10.5e-3, 18e-3),
    64: (1.15e-3, 2e-3, 3.5e-3, 6e-3, 10.5e-3),
}
_SWEEP_BATCH = (32, 64, 128, 256)
_GRID_HIDDEN = (32, 36, 40, 44, 48, 56, 64, 76, 88, 104)
_GRID_TOKENS = (9_216, 16_384, 28_672, 49_152, 86_016, 147_456)
_ANCHOR = (size_of(32), 49_152, 6e-3, 32)  # params, tokens, and the sweep's best pair there
GRID_RULE = replace(
    STEP_LAW,
    lr_factor=_ANCHOR[2] / _ANCHOR[0] ** STEP_LAW.lr_params / _ANCHOR[1] ** STEP_LAW.lr_tokens,
    batch_factor=_ANCHOR[3] / _ANCHOR[1] ** STEP_LAW.batch_tokens,
    params_box=(size_of(_GRID_HIDDEN[0]), size_of(_GRID_HIDDEN[-1])),
    tokens_box=(_GRID_TOKENS[0], _GRID_TOKENS[-1]),
    source="powers of arXiv 2503.04715, factors of the sweep's smallest cell",
)
"""What the grid is trained by."""


def sweep_runs(seed: int) -> list[TinyRun]:
    """Those of the sweep, cheap ones first."""
    return [
        TinyRun(hidden=hidden, tokens=tokens, lr=lr, batch=batch, seed=seed)
        for tokens in _SWEEP_TOKENS
        for hidden in _SWEEP_LR
        for batch in reversed(_SWEEP_BATCH)
        for lr in _SWEEP_LR[hidden]
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


def grid_runs(seed: int) -> list[TinyRun]:
    """Those of the grid: learning rate (three digits) and batch (whole windows) by the rule."""
    found = []
    for tokens in _GRID_TOKENS:
        for hidden in _GRID_HIDDEN:
            params = size_of(hidden)
            batch = max(1, round(float(GRID_RULE.batch(params, tokens)) / LENGTH)) * LENGTH
            lr = float(f"{float(GRID_RULE.lr(params, tokens)):.3g}")
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
