"""Train every tiny model of ``catalog/parscale_real.py`` and store what came of it.

    python scripts/parscale_runs.py [--seeds 0,1,2] [--out FILE]

Six models a seed, about ten seconds each on a free core. Rows are written as they come; a row that
is there already is not trained again, and rows of other settings or versions are not mixed with
them: move the table away to make it anew.
"""

import argparse
import csv
import sys
from pathlib import Path

import numpy
import torch

from plimsoll.catalog.parscale_real import SETTING, StreamCell, cells, train_cell

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from scripts.run_rows import append, unlock, whole_text  # noqa: E402

COLUMNS = ("seed", "kind", "width", "streams", "prefix", "params", "loss")
OUT = Path(__file__).resolve().parents[1] / "plimsoll" / "library" / "laws" / "parscale_tiny.csv"


def header() -> str:
    """What the table is, as comments."""
    versions = f"torch {torch.__version__.split('+')[0]}, numpy {numpy.__version__}"
    return (
        "# Losses of tiny models trained with parallel streams, nats a byte of held-out text.\n"
        "# Made by scripts/parscale_runs.py on one CPU thread a run.\n"
        f"# Setting: {SETTING}.\n"
        f"# Versions: Python {sys.version.split()[0]}, {versions}.\n"
    )


def known(path: Path) -> set[tuple[int, StreamCell]]:
    """Which runs the file holds."""
    lines = [line for line in whole_text(path).splitlines() if not line.startswith("#")]
    return {
        (
            int(row["seed"]),
            StreamCell(
                kind=row["kind"],
                width=int(row["width"]),
                streams=int(row["streams"]),
                prefix=int(row["prefix"]),
            ),
        )
        for row in csv.DictReader(lines)
    }


def check_header(path: Path) -> None:
    """Stop if there are rows that were made with something else."""
    there = [line for line in whole_text(path).splitlines() if line.startswith("#")]
    other = sorted(set(there) - set(header().splitlines()))
    if other:
        sys.exit(f"{path}: was made with other settings ({other[0]}); move it away to make it anew")


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    there = known(given.out)
    for seed in map(int, given.seeds.split(",")):
        for cell in cells():
            if (seed, cell) in there:
                continue
            check_header(given.out)
            run = train_cell(cell, seed)
            row = (seed, cell.kind, cell.width, cell.streams, cell.prefix, run.params)
            line = ",".join(map(str, row)) + f",{run.loss:.6f}\n"
            append(given.out, line, header=header() + ",".join(COLUMNS) + "\n")
            print(line, end="", flush=True)
    unlock(given.out)


if __name__ == "__main__":
    main()
