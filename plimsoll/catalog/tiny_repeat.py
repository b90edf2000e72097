"""Whether the stored tables of tiny runs can be trained again: a few of their rows, on the spot.

Rows are drawn at random among those that train in a few seconds. On the machine and the torch
that made them they come out the same to the last bit; elsewhere rounding grows over the steps.
Leaves out: the long rows, which only ``scripts/write_tiny_runs.py`` trains.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml

from plimsoll.catalog.contract import Measured
from plimsoll.catalog.tiny_runs import TinyRun, run_tiny
from plimsoll.catalog.tiny_tables import PROVENANCE, read_rows
from plimsoll.evals.tinylm_corpus import read_corpus
from plimsoll.spec.errors import UnsupportedError

__all__ = ["repeated"]


def repeated(
    path: Path, *, count: int = 4, draw: int = 0, rate: float = 1.0, longest: float = 6.0
) -> Measured:
    """The largest relative distance, in percent, of rows trained again from those stored:
    ``count`` shapes of at most ``longest`` seconds, at ``rate`` times their learning rate.

    Raises:
        UnsupportedError: this Python's documentation is not the text of the table.
    """
    made = yaml.safe_load(PROVENANCE.read_text(encoding="utf-8"))
    if made["text_sha256"] != read_corpus().sha256:
        raise UnsupportedError(
            f"{path.name} was trained on the documentation of Python {made['python']}, which "
            "this Python's is not; scripts/write_tiny_runs.py makes the table anew"
        )
    rows = read_rows(path)
    groups: dict[tuple[int, int, int], list[TinyRun]] = {}
    for run in sorted(rows):
        groups.setdefault(run.shape, []).append(run)
    short = [group for group in groups.values() if _seconds(group) < longest]
    chosen = np.random.default_rng(draw).choice(len(short), count, replace=False)
    gaps, same, total = [], 0, 0
    for group in (short[i] for i in chosen):
        again = run_tiny([replace(run, lr=run.lr * rate) for run in group])
        for run, result in zip(group, again, strict=True):
            gaps.append(100 * abs(result.loss / rows[run].loss - 1))
            same += result == rows[run]
            total += 1
    return Measured(
        value=max(gaps),
        values=tuple(gaps),
        detail=f"{total} of {len(rows)} rows trained again, {same} the same to the last bit; "
        f"table made with Python {made['python']}, torch {made['torch']}",
    )


def _seconds(group: list[TinyRun]) -> float:
    """About how long a free core trains them."""
    run = group[0]
    return run.steps * (2e-3 + 2e-10 * len(group) * run.batch * run.hidden**2)
