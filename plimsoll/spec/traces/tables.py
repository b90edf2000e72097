"""Comma-separated traces: a header line, one request a row.

The layouts differ in column names and in the unit of time only. A placeholder in the time
column (the same text in every row, as in length files) means that the file holds no times; all
requests then arrive at 0 and ``notes`` says so.
Sources: Azure/AzurePublicDataset (TIMESTAMP,ContextTokens,GeneratedTokens), microsoft/vidur
(num_prefill_tokens,num_decode_tokens, arrived_at), splitwise-sim (prompt_size,token_size,
arrival_timestamp), microsoft/apex_plus (start_offset_ns,context_tokens,generated_tokens).
"""

import csv
from collections.abc import Iterator, Sequence
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

_CHUNK_ROWS = 20_000


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
        self._lines = lines
        try:
            self.header = [name.strip() for name in next(csv.reader([next(lines)]))]
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

    def chunks(self) -> Iterator[tuple[int, list[Sequence[str]]]]:
        """(line of the first row, columns); blank lines are allowed at the end only."""
        width, first_line = len(self.header), 2
        while lines := list(islice(self._lines, _CHUNK_ROWS)):
            size = len(lines)
            lines = self._without_blank_end(lines, first_line)
            if not lines:
                return
            text = "".join(lines)
            even = '"' not in text and {line.count(",") for line in lines} == {width - 1}
            if even:
                # One flat list of cells is several times faster than a list a row.
                cells = text.rstrip("\r\n").replace("\r", "").replace("\n", ",").split(",")
                even = len(cells) == width * len(lines)
            if even:
                yield first_line, [cells[k::width] for k in range(width)]
            else:
                yield first_line, self._row_by_row(lines, first_line)
            first_line += size

    def _without_blank_end(self, lines: list[str], first_line: int) -> list[str]:
        blank = next((i for i, line in enumerate(lines) if line.isspace()), None)
        if blank is None:
            return lines
        rest = lines[blank:]
        if not all(line.isspace() for line in rest) or any(
            not line.isspace() for line in self._lines
        ):
            raise SpecError(
                f"{self._path}: line {first_line + blank}: is empty; expected one request a row"
            )
        return lines[:blank]

    def _row_by_row(self, lines: list[str], first_line: int) -> list[Sequence[str]]:
        width = len(self.header)
        rows: list[list[str]] = []
        reader = csv.reader(lines)
        while True:
            line = first_line + len(rows)
            try:
                row = next(reader, None)
            except csv.Error as error:
                raise SpecError(
                    f"{self._path}: line {line}: {error}; expected commas between {width} columns"
                ) from None
            if row is None:
                return list(zip(*rows, strict=True))
            if reader.line_num != len(rows) + 1:
                raise SpecError(
                    f"{self._path}: line {line}: a quoted value runs over the end of its line"
                )
            if len(row) != width:
                raise SpecError(
                    f"{self._path}: line {line}: has {len(row)} columns; the header has {width}"
                )
            rows.append(row)


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
