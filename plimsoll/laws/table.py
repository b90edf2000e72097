"""Measured points: columns of inputs and a loss, checked before anything is fitted.

A user's CSV is read with the names of its columns given (``params=N,tokens=D,loss=val``). What
looks wrong is said, with the line: zero or missing values, and what ``laws.plausible`` knows of
units. Points measured more than once are averaged and counted.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from plimsoll.laws.forms.contract import MAY_BE_ZERO, Floats
from plimsoll.laws.plausible import Unit, check_counts, unit_of
from plimsoll.spec.csv_records import read_records
from plimsoll.spec.errors import SpecError

__all__ = ["LossTable", "Unit", "header_and_factor", "joined", "read_table"]

_LN2 = float(np.log(2.0))
_USUAL = {
    "params": ("n", "parameters", "size", "non_embedding_params"),
    "tokens": ("d", "training_tokens", "tokens_seen", "data"),
    "streams": ("p",),
    "loss": ("val_loss", "final_loss", "val", "l"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LossTable:
    """``columns``: raw counts by name, [n] each. ``loss`` [n] in ``unit`` a token (or a byte).

    ``lines``: where each point stands in its file, none for points made here; ``files``: in which,
    where points come from several. ``notes``: what was averaged or taken from headers.

    Raises:
        SpecError: a column of another length, or a value that cannot be.
    """

    name: str
    columns: Mapping[str, Floats]
    loss: Floats
    unit: Unit = "nats"
    lines: tuple[int, ...] = ()
    notes: tuple[str, ...] = field(default=())
    files: tuple[str, ...] = ()

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
                    f"{'' if self.files else self.name + ' '}{self.place(where)}: {name} is "
                    f"{values[where]:g}; expected a positive number; leave such rows out"
                )

    def __len__(self) -> int:
        return len(self.loss)

    def place(self, index: int) -> str:
        """Where a point is from, in words."""
        if not self.lines:
            return f"point {index + 1}"
        file = f"{self.files[index]} " if self.files else ""
        return f"{file}line {self.lines[index]}"

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
            files=tuple(self.files[i] for i in index.tolist()) if self.files else (),
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
            files=self.files,
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
        apart = _spread(inverse.ravel(), self.loss, len(counts))
        return LossTable(
            name=kept.name,
            columns=kept.columns,
            loss=mean[order],
            unit=kept.unit,
            lines=kept.lines,
            notes=(
                *self.notes,
                f"{repeats} points at inputs seen before: averaged with those, losses up to "
                f"{100 * apart:.2f} % apart",
            ),
            files=kept.files,
        )


def _spread(group: npt.NDArray[np.int64], loss: Floats, groups: int) -> float:
    """The largest loss over the least one within a group, less one."""
    high, low = np.zeros(groups), np.full(groups, np.inf)
    np.maximum.at(high, group, loss)
    np.minimum.at(low, group, loss)
    return float((high / low).max()) - 1


def joined(tables: Sequence[LossTable]) -> LossTable:
    """The points of several tables; of one, that table.

    Raises:
        SpecError: losses in different units, or other columns.
    """
    first, *rest = tables
    if not rest:
        return first
    for other in rest:
        if other.unit != first.unit:
            raise SpecError(
                f"{other.name}: loss in {other.unit}, in {first.unit} in {first.name}; expected "
                "one unit for all files; a bit is 0.6931 nats"
            )
        if set(other.columns) != set(first.columns):
            raise SpecError(
                f"{other.name}: columns {', '.join(other.columns)}; expected those of "
                f"{first.name}, {', '.join(first.columns)}"
            )
    return LossTable(
        name=" and ".join(table.name for table in tables),
        columns={name: np.concatenate([t.columns[name] for t in tables]) for name in first.columns},
        loss=np.concatenate([table.loss for table in tables]),
        unit=first.unit,
        lines=tuple(line for table in tables for line in table.lines),
        notes=tuple(dict.fromkeys(note for table in tables for note in table.notes)),
        files=tuple(table.name for table in tables for _ in table.lines),
    )


def read_table(
    path: Path, columns: Mapping[str, str], *, loss: str = "loss", unit: Unit | None = None
) -> LossTable:
    """A table from a CSV; ``columns`` gives the header of each input, ``loss`` that of the loss.

    A header may carry a factor, as in ``tokens_b*1e9``. ``unit`` None: that of a column ``unit`` or
    of the loss's header, else nats.

    Raises:
        SpecError: a header that is not there, a cell that is no number, counts that look like
            billions, units that disagree, a loss that is not positive.
    """
    wanted, factors = {}, {}
    for name, text in {**columns, "loss": loss}.items():
        wanted[name], factors[name] = header_and_factor(text)
    expected = "a table of training runs"
    header, records = read_records(path, required=(), expected=expected)
    missing = {name: title for name, title in wanted.items() if title not in header}
    if missing and len(header) == 1:  # another separator, most likely, which that reader names
        read_records(path, required=tuple(wanted.values()), expected=expected)
    if missing:
        raise SpecError(_no_columns(path, missing, header))
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
    lowered = [title.lower() for title in header]

    def cells(title: str) -> list[str] | None:
        at = lowered.index(title) if title in lowered else None
        return None if at is None else [record.cells[at] for record in records]

    known, note = unit_of(str(path), wanted["loss"], unit, cells, lines)
    values = {name: np.array(column) * factors[name] for name, column in found.items()}
    table = LossTable(
        name=str(path),
        columns={name: values[name] for name in columns},
        loss=values["loss"],
        unit=known,
        lines=tuple(lines),
        notes=(note,) if note else (),
    )
    check_counts(str(path), table.columns, columns, lines)
    return table


def _no_columns(path: Path, missing: Mapping[str, str], header: Sequence[str]) -> str:
    """A sentence on headers that are not there, with those that may be meant."""
    lowered = {title.lower(): title for title in header if title}
    meant = {}
    for name, title in missing.items():
        near = difflib.get_close_matches(title.lower(), list(lowered), n=1, cutoff=0.6)
        usual = [word for word in (name, *_USUAL.get(name, ())) if word in lowered]
        if near or usual:
            meant[name] = lowered[(near or usual)[0]]
    inputs = ",".join(f"{name}={title}" for name, title in meant.items() if name != "loss")
    words = [f"--columns {inputs}"] if inputs else []
    words += [f"--loss {meant['loss']}"] if "loss" in meant else []
    shown = ",".join(header)
    return (
        f"{path} line 1: no column {', '.join(missing.values())}; found "
        f"{shown if len(shown) <= 120 else shown[:117] + '...'}; name them with --columns and "
        f"--loss{', as in ' + ' '.join(words) if words else ''}"
    )


def header_and_factor(text: str) -> tuple[str, float]:
    """``tokens_b*1e9`` as a header and what its cells are multiplied by, 1 where nothing is said.

    Raises:
        SpecError: a factor that is no number above zero.
    """
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
