"""Which measured rows are asked about, and which group each belongs to.

A sample is stratified by mode, system, engine and model: every stratum gives rows in proportion
to its size (largest remainders), at least one where the sample is large enough. The seed is fixed.
Source: shared/data/silicon/silicon_train.csv, described in the README beside it.
"""

import csv
import io
import random
from collections import defaultdict
from pathlib import Path

Row = dict[str, str]
STRATA = ("mode", "system", "backend", "model_path")
AGGREGATED = "aggregated"
STATED = "disaggregated, workers stated"
BLANK = "disaggregated, workers blank"
GROUPS = (AGGREGATED, STATED, BLANK)


def group_of(row: Row) -> str:
    """A disaggregated row without worker counts is a guess for everybody, so it stands apart."""
    if row["mode"] == "agg":
        return AGGREGATED
    return STATED if row["decode_num_workers"] else BLANK


def read_rows(path: Path) -> list[Row]:
    """All rows of a file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def to_csv(rows: list[Row]) -> str:
    """The rows as the text of a file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def sample(rows: list[Row], size: int, seed: int = 0) -> list[Row]:
    """``size`` rows, stratified, in the order of the file."""
    if size >= len(rows):
        return rows
    strata: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        strata[tuple(row[name] for name in STRATA)].append(i)
    floor = 1 if size >= len(strata) else 0
    exact = {key: size * len(members) / len(rows) for key, members in strata.items()}
    take = {key: max(floor, int(share)) for key, share in exact.items()}
    by_remainder = sorted(strata, key=lambda key: (take[key] - exact[key], key))
    while (missing := size - sum(take.values())) != 0:
        step = 1 if missing > 0 else -1
        for key in by_remainder if step > 0 else reversed(by_remainder):
            if floor <= take[key] + step <= len(strata[key]):
                take[key] += step
                missing -= step
            if missing == 0:
                break
    rng = random.Random(seed)
    chosen = [i for key in sorted(strata) for i in rng.sample(strata[key], take[key])]
    return [rows[i] for i in sorted(chosen)]
