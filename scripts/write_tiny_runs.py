"""Train the tiny models of plimsoll/library/laws, run by run, and store their losses.

    python scripts/write_tiny_runs.py sweep [--seeds 0] [--part 0/2]
    python scripts/write_tiny_runs.py grid [--seeds 0,1,2] [--part 0/2]

A row is written when its run ends; killed and started again it goes on where it was, repeating
the run that was cut off. Parts are for several processes at once. Without a part, the rows come
out in order at the end.
``tiny_runs.yaml`` says what the rows were made with; rows of another text or another torch are not
mixed with them: move the tables away to make them anew.
"""

import argparse
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import yaml

from plimsoll.catalog.tiny_runs import TinyResult, TinyRun, run_tiny
from plimsoll.catalog.tiny_tables import (
    COLUMNS,
    GRID,
    PROVENANCE,
    SWEEP,
    grid_runs,
    read_rows,
    row_of,
    sweep_runs,
)
from plimsoll.evals.tinylm_corpus import read_corpus
from plimsoll.spec.csv_records import csv_line
from plimsoll.spec.io import write_text

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from scripts.run_rows import append, unlock, whole_text  # noqa: E402


def stored(path: Path) -> dict[TinyRun, TinyResult]:
    """What is there; a last line that was cut off is dropped from the file."""
    return read_rows(path) if whole_text(path).count("\n") > 1 else {}


def put_in_order(path: Path, runs: list[TinyRun]) -> None:
    """The table's rows, those of ``runs`` and any others, by size, tokens, seed, rate, batch."""
    rows = stored(path)
    order = sorted(rows, key=lambda r: (r.hidden, r.tokens, r.seed, r.batch, r.lr))
    text = csv_line(COLUMNS) + "".join(row_of(run, rows[run]) for run in order)
    if text != whole_text(path):
        write_text(text, path)
    print(f"{path.name}: {sum(run in rows for run in runs)} of {len(runs)} runs, {len(rows)} rows")


def made_with() -> dict[str, str]:
    """What decides the numbers, beside the settings in each row."""
    return {
        "source": "trained here by scripts/write_tiny_runs.py, one thread a run",
        "origin": "measured",
        "model": "plimsoll/catalog/tiny_runs.py: two blocks, windows of 32 bytes; N is the blocks",
        "text": "documentation strings of the standard library, plimsoll/evals/tinylm_corpus.py",
        "text_sha256": read_corpus().sha256,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "machine": platform.machine(),
        "loss": "nats a byte of 65,536 held-out bytes after the last step",
        "smooth_loss": "nats a byte, mean over the last eighth of training",
    }


def check_provenance(path: Path, now: dict[str, str]) -> None:
    """Write what the rows are made with, or stop if there are rows made with something else."""
    if not path.exists():
        write_text(yaml.safe_dump(now, sort_keys=False, width=100), path)
    before = yaml.safe_load(path.read_text(encoding="utf-8"))
    other = [key for key in ("text_sha256", "torch", "machine") if before.get(key) != now[key]]
    if other:
        sys.exit(
            f"{path}: the rows were made with {other[0]} {before.get(other[0])}, here it is "
            f"{now[other[0]]}; use that one, or move {path.parent} away to make all rows anew"
        )


def train(
    path: Path,
    runs: list[TinyRun],
    part: int,
    parts: int,
    run_all: Callable[[Sequence[TinyRun]], list[TinyResult]] = run_tiny,
) -> None:
    """Those of the part that are not stored yet, shape by shape."""
    shapes = list(dict.fromkeys(run.shape for run in runs))[part::parts]
    for index, shape in enumerate(shapes):
        there = stored(path)
        missing = [run for run in runs if run.shape == shape and run not in there]
        if not missing:
            continue
        begun = time.process_time()
        results = run_all(missing)
        rows = "".join(row_of(*pair) for pair in zip(missing, results, strict=True))
        append(path, rows, header=csv_line(COLUMNS))
        spent = time.process_time() - begun
        told = " ".join(f"{result.loss:.4f}" for result in results)
        print(f"{index + 1}/{len(shapes)} {missing[0]} {told} {spent:.1f} CPU s", flush=True)


def main() -> None:
    """See the module text."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", nargs="?", choices=("sweep", "grid"))
    parser.add_argument("--seeds", default="0", help="as in 0,1,2")
    parser.add_argument("--part", default="0/1", help="as in 0/2: the first of two processes")
    given = parser.parse_args()
    seeds = [int(seed) for seed in given.seeds.split(",")]
    part, parts = (int(text) for text in given.part.split("/"))
    for table in [given.table] if given.table else ["sweep", "grid"]:
        path = SWEEP if table == "sweep" else GRID
        runs = [
            run
            for seed in seeds
            for run in (sweep_runs(seed) if table == "sweep" else grid_runs(seed))
        ]
        if not set(runs) <= set(stored(path)):  # whole tables stay, whatever this machine has
            check_provenance(PROVENANCE, made_with())
            train(path, runs, part, parts)
        if parts == 1:
            put_in_order(path, runs)
            unlock(path)


if __name__ == "__main__":
    main()
