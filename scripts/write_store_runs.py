"""Write plimsoll/library/laws/store_runs.yaml: tiny models with parts of a store, as measured.

    python scripts/write_store_runs.py --part 0/4 --out FOLDER     a quarter of the models
    python scripts/write_store_runs.py --join FOLDER               the table, from all parts

Without either, it says whether the table holds all runs. Parts that are in the folder already are
not trained again, and a table is joined from all parts or not at all.
Every model (width, seed) of ``catalog/massiveds_real.py`` is trained once on one thread, kept after
each of its numbers of steps, and asked all questions with each fraction of the store.
"""

import argparse
import importlib.metadata
import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

from plimsoll.catalog.massiveds_real import (
    RETRIEVED,
    SIZES,
    STEPS,
    TOKENS_A_STEP,
    cell,
    models,
    world_of,
)
from plimsoll.catalog.massiveds_runs import TABLE, StoreRow, StoreRuns, read_store_runs
from plimsoll.spec.io import read, write

SEEDS = (0, 1, 2)
FRACTIONS = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0)


def rows_of(width: int, seed: int) -> list[StoreRow]:
    """All cells of one training run."""
    world = world_of(seed)
    words = sum(len(world.tokens(document.text)) for document in world.documents)
    rows = []
    for one in models(width, seed):
        for fraction in FRACTIONS:
            found = cell(one, seed, fraction)
            rows.append(
                StoreRow(
                    width=width,
                    seed=seed,
                    steps=one.steps,
                    params=one.num_params,
                    tokens=one.steps * TOKENS_A_STEP,
                    fraction=fraction,
                    datastore=round(fraction * words),
                    accuracy=round(found.accuracy, 5),
                    loss=round(found.loss, 5),
                )
            )
    return rows


def runs_of(rows: list[StoreRow]) -> StoreRuns:
    """Rows with what made them."""
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("torch", "numpy", "faiss-cpu")
    )
    return StoreRuns(
        source="measured here, by the script named below",
        as_of=date.today().isoformat(),
        script="scripts/write_store_runs.py",
        made_with=f"Python {platform.python_version()}, {versions}, one thread of a CPU",
        settings=(
            f"widths {SIZES}, steps {STEPS}, seeds {SEEDS}, {TOKENS_A_STEP} tokens a step; one "
            f"search of {RETRIEVED} chunks, duplicates and quiz items removed, best 3 shown"
        ),
        retriever_params=float(world_of(0).store().encoder.dim),
        rows=tuple(rows),
    )


def planned() -> list[tuple[int, int]]:
    """(width, seed) of all training runs."""
    return [(width, seed) for seed in SEEDS for width in SIZES]


def missing(rows: Iterable[StoreRow]) -> list[tuple[int, int]]:
    """Training runs of which cells are missing."""
    there = {(row.width, row.seed, row.steps, row.fraction) for row in rows}
    cells = [(steps, fraction) for steps in STEPS for fraction in FRACTIONS]
    return [run for run in planned() if not all((*run, *cell) in there for cell in cells)]


def joined(parts: Sequence[StoreRuns]) -> StoreRuns:
    """The table of all parts."""
    left = missing(row for part in parts for row in part.rows)
    if left:
        sys.exit(f"{len(left)} of {len(planned())} runs are missing, as width, seed {left[0]}")
    if len({(part.made_with, part.settings) for part in parts}) > 1:
        sys.exit("parts were made with different versions or settings; train all with the same")
    rows = sorted(
        (row for part in parts for row in part.rows),
        key=lambda r: (r.width, r.seed, r.steps, r.fraction),
    )
    return replace(parts[0], as_of=max(part.as_of for part in parts), rows=tuple(rows))


def main() -> None:
    """See the module text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", default="0/1", help="which of how many parts to run")
    parser.add_argument("--out", type=Path, help="folder of the parts")
    parser.add_argument("--join", type=Path, help="folder of parts to join into the table")
    given = parser.parse_args()
    if given.join is not None:
        parts = [read(StoreRuns, file) for file in sorted(given.join.glob("part-*.yaml"))]
        write(joined(parts), TABLE)
        return
    if given.out is None:
        left = missing(read_store_runs().rows)
        sys.exit(f"{len(left)} runs are missing: give --out FOLDER" if left else None)
    part, parts_in_all = (int(number) for number in given.part.split("/"))
    given.out.mkdir(parents=True, exist_ok=True)
    for width, seed in planned()[part::parts_in_all]:
        file = given.out / f"part-{width}-{seed}.yaml"
        if not file.exists():
            write(runs_of(rows_of(width, seed)), file)


if __name__ == "__main__":
    main()
