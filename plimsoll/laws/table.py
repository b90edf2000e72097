"""Measured points: columns of inputs and a loss, checked before anything is fitted.

A user's CSV is read with the names of its columns given (``params=N,tokens=D,loss=val``). What
looks wrong is said, with the line: counts that must be in billions, losses in bits beside losses
in nats, zero or missing values. Points measured more than once are averaged and counted.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from plimsoll.laws.forms.contract import MAY_BE_ZERO, Floats
from plimsoll.spec.csv_records import read_records
from plimsoll.spec.errors import SpecError

__all__ = ["LossTable", "Unit", "read_table"]

Unit = Literal["nats", "bits"]
_LN2 = float(np.log(2.0))
_FEWEST_RAW = {"params": 1e3, "tokens": 1e4}


@dataclass(frozen=True, slots=True, kw_only=True)
class LossTable:
    """``columns``: raw counts by name, [n] each. ``loss`` [n] in ``unit`` a token (or a byte).

    ``lines``: where each point stands in its file, 0 for points made here. ``notes``: what was
    averaged or left out.

    Raises:
        SpecError: a column of another length, or a value that cannot be.
    """

    name: str
    columns: Mapping[str, Floats]
    loss: Floats
    unit: Unit = "nats"
    lines: tuple[int, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if not len(self.loss):
            raise SpecError(f"{self.name}: no points; expected one a row")
        for name, values in (*self.columns.items(), ("loss", self.loss)):
            if len(values) != len(self.loss):
                raise SpecError(f"{self.name}: {len(values)} of {name}, {len(self.loss)} of loss")
            bad = ~(np.isfinite(values) & ((values > 0) | (name in MAY_BE_ZERO) & (values == 0)))
            if bad.any():
                where = int(np.flatnonzero(bad)[0])
                raise SpecError(
                    f"{self._where(where)}: {name} is {values[where]:g}; expected a positive "
                    "number; leave such rows out"
                )

    def __len__(self) -> int:
        return len(self.loss)

    def _where(self, index: int) -> str:
        line = self.lines[index] if self.lines else 0
        return f"{self.name} line {line}" if line else f"{self.name}, point {index + 1}"

    def column(self, name: str) -> Floats:
        """A column.

        Raises:
            SpecError: there is none of that name.
        """
        if name not in self.columns:
            raise SpecError(
                f"{self.name}: no column for {name}; it has {', '.join(self.columns)}. Name it "
                f"with --columns {name}=HEADER"
            )
        return self.columns[name]

    def rows(self, keep: np.ndarray) -> "LossTable":
        """Those points, by mask or index."""
        index = np.arange(len(self))[keep]
        return LossTable(
            name=self.name,
            columns={name: values[index] for name, values in self.columns.items()},
            loss=self.loss[index],
            unit=self.unit,
            lines=tuple(self.lines[i] for i in index.tolist()) if self.lines else (),
            notes=self.notes,
        )

    @property
    def compute(self) -> Floats:
        """Training FLOPs of each point, 6·N·D."""
        return 6.0 * self.column("params") * self.column("tokens")

    def in_nats(self) -> "LossTable":
        """The same points with losses in nats."""
        if self.unit == "nats":
            return self
        return LossTable(
            name=self.name,
            columns=self.columns,
            loss=self.loss * _LN2,
            unit="nats",
            lines=self.lines,
            notes=(*self.notes, "losses turned from bits into nats"),
        )

    def averaged(self) -> "LossTable":
        """Points at the same inputs replaced by their mean; a note says how many."""
        stacked = np.stack([self.columns[name] for name in self.columns], axis=1)
        _, first, inverse, counts = np.unique(
            stacked, axis=0, return_index=True, return_inverse=True, return_counts=True
        )
        if (counts == 1).all():
            return self
        mean = np.bincount(inverse.ravel(), self.loss) / counts
        order = np.argsort(first)
        kept = self.rows(first[order])
        repeats = int((counts - 1).sum())
        return LossTable(
            name=kept.name,
            columns=kept.columns,
            loss=mean[order],
            unit=kept.unit,
            lines=kept.lines,
            notes=(*self.notes, f"{repeats} points at inputs seen before: averaged with those"),
        )


def read_table(
    path: Path, columns: Mapping[str, str], *, loss: str = "loss", unit: Unit = "nats"
) -> LossTable:
    """A table from a CSV; ``columns`` gives the header of each input, ``loss`` that of the loss.

    A header may carry a factor, as in ``tokens_b*1e9``.

    Raises:
        SpecError: a header that is not there, a cell that is no number, counts that look like
            billions, a loss that is not positive.
    """
    wanted, factors = {}, {}
    for name, text in {**columns, "loss": loss}.items():
        wanted[name], factors[name] = _scaled(text)
    header, records = read_records(
        path, required=tuple(wanted.values()), expected="a table of training runs"
    )
    found: dict[str, list[float]] = {name: [] for name in wanted}
    lines = []
    for record in records:
        lines.append(record.line)
        for name, title in wanted.items():
            cell = record.cells[header.index(title)].strip()
            try:
                found[name].append(float(cell))
            except ValueError:
                raise SpecError(
                    f"{path} line {record.line}: {title} is {cell!r}; expected a number"
                ) from None
    values = {name: np.array(column) * factors[name] for name, column in found.items()}
    table = LossTable(
        name=str(path),
        columns={name: values[name] for name in columns},
        loss=values["loss"],
        unit=unit,
        lines=tuple(lines),
    )
    for name, fewest in _FEWEST_RAW.items():
        if name in table.columns and float(np.median(table.columns[name])) < fewest:
            raise SpecError(
                f"{path}: the median of {columns[name]} is {np.median(table.columns[name]):g}, "
                f"which is too few {name}; if it is in billions, say {name}={columns[name]}*1e9"
            )
    return table


def _scaled(text: str) -> tuple[str, float]:
    """A header and its factor."""
    title, star, factor = text.rpartition("*")
    if not star:
        return text, 1.0
    try:
        value = float(factor)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise SpecError(f"column {text!r}: {factor!r} is no factor; expected as in tokens_b*1e9")
    return title.strip(), value
