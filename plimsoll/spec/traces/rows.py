"""From chunks of trace rows to one workload: order, slice, dropped rows, notes.

Time zero is the first row (the earliest with ``sort``). Rows out of order are an error that
names the line unless the slice says to sort; then they are counted in ``notes``. Rows with no
output or no prompt tokens are failed requests: dropped and counted.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from plimsoll.spec.errors import SpecError
from plimsoll.spec.traces.source import MAX_ROWS, Slice
from plimsoll.spec.workload import Workload

__all__ = ["RowSink"]


class RowSink:
    """Collects chunks of rows; ``add`` says whether to go on reading."""

    def __init__(self, path: Path, part: Slice) -> None:
        self._path = path
        self._part = part
        self._chunks: list[dict[str, npt.NDArray[Any]]] = []
        self._kept = 0
        self._rows = 0
        self._failed = 0
        self._origin_s = 0.0
        self._last_s = -np.inf
        self._out_of_order = 0
        self._first_disorder = 0
        self.notes: list[str] = []

    def add(
        self,
        first_line: int,
        time_s: npt.NDArray[np.float64],
        *,
        wanted: npt.NDArray[np.bool_] | None = None,
        **columns: Any,
    ) -> bool:
        """Take rows that start at ``first_line``; the columns must hold prompt and output.

        Rows that are not ``wanted`` count for the order and for time zero only.
        """
        if not len(time_s):
            return True
        if not self._rows:
            self._origin_s = float(time_s[0])
        self._rows += len(time_s)
        highest = np.maximum.accumulate(np.concatenate(([self._last_s], time_s)))
        disordered = time_s < highest[:-1]
        if disordered.any():
            line = first_line + int(np.argmax(disordered))
            if not self._part.sort:
                raise SpecError(
                    f"{self._path}: line {line}: arrives before the row above it; sort the file "
                    "by time, or read it with sort=True (`plimsoll trace make --sort`)"
                )
            self._out_of_order += int(disordered.sum())
            self._first_disorder = self._first_disorder or line
        self._last_s = float(highest[-1])

        good = (columns["output_tokens"] > 0) & (columns["prompt_tokens"] > 0)
        chosen = np.ones(len(good), dtype=bool) if wanted is None else wanted
        keep = good & chosen
        done = False
        if not self._part.sort:
            relative_s = time_s - self._origin_s
            inside = (relative_s >= self._part.start_s) & (relative_s < self._part.end_s)
            done = bool(relative_s[-1] >= self._part.end_s)
            keep &= inside
            if self._part.max_requests:
                room = self._part.max_requests - self._kept
                if int(keep.sum()) >= room:
                    last = int(np.flatnonzero(keep)[room - 1])
                    keep[last + 1 :] = False
                    inside[last + 1 :] = False
                    done = True
            self._failed += int((inside & chosen & ~good).sum())
        else:
            self._failed += int((chosen & ~good).sum())
        kept = int(keep.sum())
        if self._kept + kept > MAX_ROWS:
            raise SpecError(
                f"{self._path}: more than {MAX_ROWS:,} requests; take a part of it with start_s, "
                "end_s or max_requests"
            )
        if kept:
            self._kept += kept
            chunk = {name: np.asarray(values)[keep] for name, values in columns.items()}
            self._chunks.append({"time_s": time_s[keep], **chunk})
        return not done

    def columns(self) -> dict[str, Any]:
        """All kept rows in order, with ``arrival_s`` from the start of the slice.

        Raises:
            SpecError: there is no row, or none is left.
        """
        if not self._rows:
            raise SpecError(f"{self._path}: holds no request; expected one a row after the header")
        if not self._chunks:
            why = f"; {self._failed:,} failed ones were left out" if self._failed else ""
            raise SpecError(
                f"{self._path}: no request left of {self._rows:,} rows read between "
                f"{self._part.start_s:g} s and {self._part.end_s:g} s{why}"
            )
        names = self._chunks[0]
        rows = {name: np.concatenate([c[name] for c in self._chunks]) for name in names}
        time_s = rows.pop("time_s")
        if self._part.sort:
            order = np.argsort(time_s, kind="stable")
            time_s = time_s[order]
            relative_s = time_s - min(self._origin_s, float(time_s[0]))
            inside = (relative_s >= self._part.start_s) & (relative_s < self._part.end_s)
            if self._part.max_requests:
                inside &= np.cumsum(inside) <= self._part.max_requests
            if not inside.any():
                raise SpecError(
                    f"{self._path}: no request between {self._part.start_s:g} s and "
                    f"{self._part.end_s:g} s; the trace spans {relative_s[-1]:g} s"
                )
            rows = {name: values[order][inside] for name, values in rows.items()}
            arrival_s = relative_s[inside] - self._part.start_s
        else:
            arrival_s = time_s - self._origin_s - self._part.start_s
        rows["arrival_s"] = np.maximum(arrival_s, 0.0)
        return rows

    def workload(
        self,
        *,
        format_name: str,
        rows: dict[str, Any] | None = None,
        **extra: Any,
    ) -> Workload:
        """The kept rows (or ``rows``, made of them) as a workload named after the file."""
        if rows is None:
            rows = self.columns()
        notes = [f"read as {format_name}", *self.notes]
        if self._failed:
            share = self._failed / (self._failed + self._kept)
            notes.append(
                f"{self._failed:,} failed requests (no output or prompt tokens, {share:.2%}) "
                "left out"
            )
        if self._out_of_order:
            notes.append(
                f"warning: {self._out_of_order:,} rows were out of order (first at line "
                f"{self._first_disorder}) and were sorted"
            )
        return Workload(
            name=self._path.name.split(".")[0] or self._path.name,
            source=self._path.name,
            notes=tuple(notes),
            **rows,
            **extra,
        )
