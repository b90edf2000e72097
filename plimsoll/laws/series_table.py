"""Runs of forecasters of series: sizes, data, tokens seen, seeds, and what they came to.

A row is a run. ``data_tokens`` are distinct, ``seen_tokens`` count repeats too. A negative
log-likelihood depends on the scale of the data and may be negative: a power law of it needs an
offset that is declared (the entropy of the data where it is known), and tables whose losses are
not positive are refused until they have one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import numpy.typing as npt

from plimsoll.laws.forms.contract import Floats
from plimsoll.spec.csv_records import read_records
from plimsoll.spec.errors import SpecError

__all__ = [
    "SeriesLooks",
    "SeriesRuns",
    "read_series_runs",
    "shipped_looks",
    "shipped_rates",
    "shipped_runs",
]

_COUNTS = ("params", "seed", "data_tokens", "seen_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesRuns:
    """Columns [n]; ``scores`` by name. ``offsets``: what was taken from a score, by name."""

    name: str
    arch: npt.NDArray[np.str_]
    params: Floats
    seed: Floats
    data_tokens: Floats
    seen_tokens: Floats
    scores: Mapping[str, Floats]
    offsets: Mapping[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.params)

    def rows(self, keep: npt.NDArray[np.bool_]) -> "SeriesRuns":
        """Those runs."""
        return replace(
            self,
            arch=self.arch[keep],
            params=self.params[keep],
            seed=self.seed[keep],
            data_tokens=self.data_tokens[keep],
            seen_tokens=self.seen_tokens[keep],
            scores={name: values[keep] for name, values in self.scores.items()},
        )

    def score(self, name: str) -> Floats:
        """A score that a power law can be of.

        Raises:
            SpecError: there is none of that name, or it is not positive everywhere.
        """
        if name not in self.scores:
            raise SpecError(
                f"{self.name}: no score {name}; there are {', '.join(self.scores) or 'none'}"
            )
        values = self.scores[name]
        if not (values > 0).all():
            raise SpecError(
                f"{self.name}: {name} is {values.min():g} in a run; a negative log-likelihood "
                "depends on the scale of the data, and a power law of it means nothing until an "
                "offset below all of them is declared: the entropy of the data where it is known"
            )
        return values

    def above(self, name: str, offset: float) -> "SeriesRuns":
        """The runs with ``offset`` (an entropy, or a declared constant) taken from a score.

        Raises:
            SpecError: there is no such score, or the offset is no number.
        """
        if name not in self.scores or not np.isfinite(offset):
            raise SpecError(
                f"{self.name}: offset {offset:g} of {name}; expected a number for one of "
                f"{', '.join(self.scores)}"
            )
        return replace(
            self,
            scores={**self.scores, name: self.scores[name] - offset},
            offsets={**self.offsets, name: self.offsets.get(name, 0.0) + offset},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesLooks:
    """Losses on the way of each run: [n] each."""

    arch: npt.NDArray[np.str_]
    params: Floats
    seed: Floats
    tokens: Floats
    loss: Floats


def read_series_runs(path: Path, scores: Sequence[str]) -> SeriesRuns:
    """Runs from a CSV with columns params, data_tokens, seen_tokens and the scores; arch and seed
    where there are several.

    Raises:
        SpecError: a column that is missing, a cell that is no number, a count below 1, more data
            than was seen.
    """
    required = ("params", "data_tokens", "seen_tokens", *scores)
    header, records = read_records(path, required=required, expected="runs of forecasters")
    have = [name for name in _COUNTS if name in header]
    numbers: dict[str, list[float]] = {name: [] for name in (*have, *scores)}
    for record in records:
        for name, found in numbers.items():
            found.append(_number(path, record.line, name, record.cells[header.index(name)]))
            if name in _COUNTS and name != "seed" and found[-1] < 1:
                raise SpecError(
                    f"{path}: line {record.line}: {name} is {found[-1]:g}; expected 1 or more"
                )
        if numbers["data_tokens"][-1] > numbers["seen_tokens"][-1]:
            raise SpecError(
                f"{path}: line {record.line}: {numbers['data_tokens'][-1]:g} distinct tokens of "
                f"{numbers['seen_tokens'][-1]:g} seen; expected no more than those, so count what "
                "the run got to"
            )
    columns = {name: np.array(found) for name, found in numbers.items()}
    arch = [r.cells[header.index("arch")].strip() if "arch" in header else "" for r in records]
    return SeriesRuns(
        name=path.name,
        arch=np.array(arch),
        params=columns["params"],
        seed=columns.get("seed", np.zeros(len(records))),
        data_tokens=columns["data_tokens"],
        seen_tokens=columns["seen_tokens"],
        scores={name: columns[name] for name in scores},
    )


def _number(path: Path, line: int, name: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise SpecError(f"{path}: line {line}: {name} is {cell.strip()!r}; expected a number")
    return value


def _library(name: str) -> Path:
    return Path(str(files("plimsoll.library").joinpath("laws", name)))


def shipped_runs() -> SeriesRuns:
    """Tiny forecasters trained by scripts/write_series_runs.py: settings in series_runs.yaml."""
    kinds = ("excess", "error", "bound", "horizon_excess", "mape", "mase")
    scores = [f"{where}_{kind}" for where in ("id", "ood") for kind in kinds]
    return read_series_runs(_library("series_runs.csv"), scores)


def shipped_rates() -> dict[tuple[str, int], float]:
    """The learning rate that was tuned for each (architecture, width)."""
    path = _library("series_rates.csv")
    names = ("arch", "width", "rate")
    header, records = read_records(path, required=names, expected="learning rates")
    arch, width, rate = (header.index(name) for name in names)
    return {(r.cells[arch], int(r.cells[width])): float(r.cells[rate]) for r in records}


def shipped_looks() -> SeriesLooks:
    """What those runs had come to at twelve times on their way."""
    path = _library("series_looks.csv")
    names = ("params", "seed", "tokens", "excess")
    header, records = read_records(path, required=("arch", *names), expected="losses on the way")
    columns = {
        name: np.array([_number(path, r.line, name, r.cells[header.index(name)]) for r in records])
        for name in names
    }
    return SeriesLooks(
        arch=np.array([r.cells[header.index("arch")] for r in records]),
        params=columns["params"],
        seed=columns["seed"],
        tokens=columns["tokens"],
        loss=columns["excess"],
    )
