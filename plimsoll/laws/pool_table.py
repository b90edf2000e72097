"""Pools of quality from a CSV: with their parameters, or with the runs to fit them on.

Parameters: ``pool,samples,b,tau``, a row a pool. Runs: ``pool,samples,seen,error``, a row a run.
Numbers are raw counts and errors in [0, ...), b is below zero.
"""

from pathlib import Path

import numpy as np

from plimsoll.laws.quality import QualityPool
from plimsoll.laws.quality_fit import PoolRuns
from plimsoll.spec.csv_records import read_records
from plimsoll.spec.errors import SpecError

__all__ = ["read_pool_runs", "read_pools"]


def read_pools(path: Path) -> list[QualityPool]:
    """Pools with their parameters.

    Raises:
        SpecError: a missing column, a cell that is no number, a pool twice, values that cannot
            be; it names the line.
    """
    found: dict[str, QualityPool] = {}
    for line, name, numbers in _rows(path, ("samples", "b", "tau"), "a table of pools"):
        if name in found:
            raise SpecError(f"{path} line {line}: pool {name} is there twice; expected it once")
        samples, b, tau = numbers
        try:
            found[name] = QualityPool(name=name, samples=samples, b=b, tau=tau)
        except SpecError as error:
            raise SpecError(f"{path} line {line}: {error}") from None
    return list(found.values())


def read_pool_runs(path: Path) -> list[PoolRuns]:
    """Runs by pool, in the order in which pools first stand.

    Raises:
        SpecError: a missing column, a cell that is no number, a pool of two sizes; it names the
            line.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    sizes: dict[str, float] = {}
    for line, name, numbers in _rows(path, ("samples", "seen", "error"), "a table of runs"):
        samples, seen, error = numbers
        if sizes.setdefault(name, samples) != samples:
            raise SpecError(
                f"{path} line {line}: pool {name} has {samples:g} samples here and "
                f"{sizes[name]:g} above; expected one size"
            )
        found.setdefault(name, []).append((seen, error))
    return [
        PoolRuns(
            name=name,
            samples=sizes[name],
            seen=np.array([seen for seen, _ in runs]),
            error=np.array([error for _, error in runs]),
        )
        for name, runs in found.items()
    ]


def _rows(
    path: Path, columns: tuple[str, ...], expected: str
) -> list[tuple[int, str, tuple[float, ...]]]:
    header, records = read_records(path, required=("pool", *columns), expected=expected)
    rows = []
    for record in records:
        cells = dict(zip(header, (cell.strip() for cell in record.cells), strict=True))
        numbers = []
        for column in columns:
            try:
                numbers.append(float(cells[column]))
            except ValueError:
                raise SpecError(
                    f"{path} line {record.line}: {column} is {cells[column]!r}; expected a number"
                ) from None
        rows.append((record.line, cells["pool"], tuple(numbers)))
    return rows
