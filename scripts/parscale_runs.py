"""Train every tiny model of ``catalog/parscale_real.py`` and store what came of it.

    python scripts/parscale_runs.py [--seeds 0,1,2] [--out FILE]

Six models a seed, about ten seconds each on a free core. Rows are written as they come; a row that
is there already is not trained again.
"""

import argparse
import csv
import sys
from pathlib import Path

import numpy
import torch

from plimsoll.catalog.parscale_real import SETTING, StreamCell, cells, train_cell

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
    if not path.exists():
        return set()
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line[0] != "#"]
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


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    there = known(given.out)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    if not there:
        given.out.write_text(header() + ",".join(COLUMNS) + "\n", encoding="utf-8")
    for seed in map(int, given.seeds.split(",")):
        for cell in cells():
            if (seed, cell) in there:
                continue
            run = train_cell(cell, seed)
            row = (seed, cell.kind, cell.width, cell.streams, cell.prefix, run.params)
            line = ",".join(map(str, row)) + f",{run.loss:.6f}\n"
            with given.out.open("a", encoding="utf-8") as file:
                file.write(line)
            print(line, end="", flush=True)


if __name__ == "__main__":
    main()
