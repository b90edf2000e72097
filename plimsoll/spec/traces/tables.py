"""Comma-separated traces: a header line, one request a row.

The layouts differ in column names and in the unit of time only. A placeholder in the time
column (the same text in every row, as in length files) means that the file holds no times; all
requests then arrive at 0 and ``notes`` says so.
Sources: Azure/AzurePublicDataset (TIMESTAMP,ContextTokens,GeneratedTokens), microsoft/vidur
(num_prefill_tokens,num_decode_tokens, arrived_at), splitwise-sim (prompt_size,token_size,
arrival_timestamp), microsoft/apex_plus (start_offset_ns,context_tokens,generated_tokens).
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from plimsoll.spec.errors import SpecError
from plimsoll.spec.traces.columns import dates_s, numbers, tokens
from plimsoll.spec.traces.rows import RowSink
from plimsoll.spec.traces.source import WHOLE, Slice, open_trace
from plimsoll.spec.workload import Workload

__all__ = ["LAYOUTS", "Layout", "Table", "layout_of", "load_azure", "load_lengths", "load_table"]

_CHUNK_ROWS = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Column names of one kind of file; ``time_unit_s`` 0 stands for ISO dates."""

    name: str
    time: str
    time_unit_s: float
    prompt: str
    output: str


LAYOUTS = (
    Layout(
        name="azure",
        time="TIMESTAMP",
        time_unit_s=0.0,
        prompt="ContextTokens",
        output="GeneratedTokens",
    ),
    Layout(
        name="vidur",
        time="arrived_at",
        time_unit_s=1.0,
        prompt="num_prefill_tokens",
        output="num_decode_tokens",
    ),
    Layout(
        name="splitwise",
        time="arrival_timestamp",
        time_unit_s=1.0,
        prompt="prompt_size",
        output="token_size",
    ),
    Layout(
        name="apex",
        time="start_offset_ns",
        time_unit_s=1e-9,
        prompt="context_tokens",
        output="generated_tokens",
    ),
    Layout(
        name="plain table",
        time="arrival_s",
        time_unit_s=1.0,
        prompt="prompt_tokens",
        output="output_tokens",
    ),
)
"""What ``load_workload`` tells apart by the header; BurstGPT has a loader of its own."""


def layout_of(header: list[str]) -> Layout | None:
    """The layout whose length columns are all in ``header``, or None."""
    for layout in LAYOUTS:
        if layout.prompt in header and layout.output in header:
            return layout
    return None


class Table:
    """A header and chunks of rows as columns of text, each with the line it starts at."""

    def __init__(self, path: Path, lines: Iterator[str]) -> None:
        self._path = path
        self._reader = csv.reader(lines)
        try:
            self.header = [name.strip() for name in next(self._reader)]
        except (StopIteration, csv.Error) as error:
            raise SpecError(f"{path}: line 1: not a header of column names: {error}") from None

    def index(self, column: str, *, expected: str) -> int:
        """Position of a column that must be there."""
        if column not in self.header:
            raise SpecError(
                f"{self._path}: line 1: column {column!r} is missing; expected {expected}, found "
                f"{','.join(self.header)[:120]}"
            )
        return self.header.index(column)

    def chunks(self) -> Iterator[tuple[int, list[tuple[str, ...]]]]:
        """(line of the first row, columns); blank lines are allowed at the end only."""
        width, line = len(self.header), 2
        while True:
            try:
                rows = list(islice(self._reader, _CHUNK_ROWS))
            except csv.Error as error:
                raise SpecError(
                    f"{self._path}: line {self._reader.line_num}: {error}; expected commas between "
                    f"{width} columns"
                ) from None
            if not rows:
                return
            size = len(rows)
            if self._reader.line_num != line + size - 1:
                raise SpecError(
                    f"{self._path}: near line {line}: a quoted value runs over the end of its line"
                )
            if set(map(len, rows)) != {width}:
                rows = self._whole_rows(rows, line)
            if rows:
                yield line, list(zip(*rows, strict=True))
            line += size

    def _whole_rows(self, rows: list[list[str]], first_line: int) -> list[list[str]]:
        width = len(self.header)
        bad = next(i for i, row in enumerate(rows) if len(row) != width)
        line = first_line + bad
        if any(cell.strip() for cell in rows[bad]):
            raise SpecError(
                f"{self._path}: line {line}: has {len(rows[bad])} columns; the header has {width}"
            )
        rest = [*rows[bad:], *self._reader]
        if any(cell.strip() for row in rest for cell in row):
            raise SpecError(f"{self._path}: line {line}: is empty; expected one request a row")
        return rows[:bad]


def load_table(
    path: Path, *, layout: Layout | None = None, part: Slice = WHOLE, timeless: bool = False
) -> Workload:
    """A trace in one of ``LAYOUTS``, told apart by its header; ``timeless`` ignores the times."""
    sink = RowSink(path, part)
    with open_trace(path, part) as lines:
        table = Table(path, lines)
        chosen = layout or layout_of(table.header)
        if chosen is None:
            known = "; ".join(f"{x.prompt},{x.output}" for x in LAYOUTS)
            raise SpecError(
                f"{path}: line 1: columns {','.join(table.header)[:120]} are of no known trace; "
                f"expected a header with {known}"
            )
        expected = f"a header with {chosen.time},{chosen.prompt},{chosen.output}"
        prompt_at = table.index(chosen.prompt, expected=expected)
        output_at = table.index(chosen.output, expected=expected)
        time_at = table.header.index(chosen.time) if chosen.time in table.header else -1
        if time_at < 0:
            timeless = True
        for line, columns in table.chunks():
            if line == 2 and not timeless:
                times = columns[time_at]
                timeless = not times[0][:1].isdigit() and len(set(times[:1000])) == 1
            if timeless:
                time_s = np.zeros(len(columns[prompt_at]))
            elif chosen.time_unit_s:
                time_s = chosen.time_unit_s * numbers(
                    columns[time_at], path=path, column=chosen.time, first_line=line
                )
            else:
                time_s = dates_s(columns[time_at], path=path, column=chosen.time, first_line=line)
            prompt = tokens(columns[prompt_at], path=path, column=chosen.prompt, first_line=line)
            output = tokens(columns[output_at], path=path, column=chosen.output, first_line=line)
            if not sink.add(line, time_s, prompt_tokens=prompt, output_tokens=output):
                break
    if timeless:
        sink.notes.append("the file holds no times: every request arrives at 0")
    return sink.workload(format_name=f"{chosen.name} columns")


def load_azure(path: Path, *, part: Slice = WHOLE) -> Workload:
    """An Azure LLM inference trace: TIMESTAMP,ContextTokens,GeneratedTokens."""
    return load_table(path, layout=LAYOUTS[0], part=part)


def load_lengths(path: Path, *, part: Slice = WHOLE) -> Workload:
    """Lengths only, in any layout of ``LAYOUTS``; every request arrives at 0."""
    return load_table(path, part=part, timeless=True)
