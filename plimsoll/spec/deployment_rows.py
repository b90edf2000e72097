"""Tables of deployments: reading them row by row, writing them back with predictions.

Comma-separated text with a header. Cells that are not understood, columns that are not known
and the order of both pass through unchanged; numbers may be written as 8 or 8.0, and a blank
cell means "not named". Every complaint names file, line, column, what was found and expected.
Left out: other separators, compressed files, rows with comments.
Source: the columns of ai-dynamo/aiconfigurator's silicon tables.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from plimsoll.spec.csv_records import csv_line, read_records
from plimsoll.spec.deployment import DeploymentRow, Prediction, Refusal, Workers
from plimsoll.spec.errors import SpecError, suggest
from plimsoll.spec.io import write_text

__all__ = [
    "COUNT_COLUMNS",
    "PREDICTION_COLUMNS",
    "REQUIRED_COLUMNS",
    "TEXT_COLUMNS",
    "DeploymentTable",
    "read_deployments",
    "text_with_predictions",
    "write_predictions",
]

REQUIRED_COLUMNS = ("model_path", "system", "mode", "isl", "osl")
"""The header must have them, and no cell of them may be blank."""

TEXT_COLUMNS = {
    "id": "id",
    "measured": "measured_on",
    "model_path": "model",
    "system": "system",
    "backend": "backend",
    "backend_version": "backend_version",
    "precision": "precision",
    "gemm_quant_mode": "gemm_format",
    "moe_quant_mode": "moe_format",
}
"""Columns of text with the field each fills."""

_DEGREES = {
    "tp_size": "tp",
    "pp_size": "pp",
    "attention_dp_size": "attention_dp",
    "moe_tp_size": "moe_tp",
    "moe_ep_size": "moe_ep",
}
_WORKER_COLUMNS: dict[str, dict[str, str]] = {
    "workers": {"batch_size_per_attention_rank": "batch", **_DEGREES},
    **{
        kind: {
            f"{kind}_batch_size": "batch",
            f"{kind}_num_workers": "count",
            **{f"{kind}_{column}": name for column, name in _DEGREES.items()},
        }
        for kind in ("prefill", "decode")
    },
}

COUNT_COLUMNS = (
    "isl",
    "osl",
    "concurrency",
    *(column for columns in _WORKER_COLUMNS.values() for column in columns),
)
"""Columns of whole numbers."""

PREDICTION_COLUMNS = (
    "pred_ttft_ms",
    "pred_tpot_ms",
    "pred_ttft_ms_p10",
    "pred_ttft_ms_p90",
    "pred_tpot_ms_p10",
    "pred_tpot_ms_p90",
    "origin",
    "note",
)
"""What writing appends, in this order; columns of these names in the input are replaced."""

_EXPECTED = f"a CSV file of deployments with the columns {', '.join(REQUIRED_COLUMNS)}"
_MODES = ("agg", "disagg")
_MAX_COUNT = 10**9
_MAX_MS = 1e12
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentTable:
    """A file as it was read: header and cells as text, and the rows made of them, in order."""

    path: str
    header: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    rows: tuple[DeploymentRow, ...]

    def column(self, name: str) -> tuple[str, ...]:
        """The cells of one column as text, blank throughout if the file has no such column."""
        if name not in self.header:
            return ("",) * len(self.cells)
        k = self.header.index(name)
        return tuple(row[k].strip() for row in self.cells)


def read_deployments(path: Path) -> DeploymentTable:
    """The table of deployments in a file.

    Raises:
        SpecError: the file is missing, empty, not comma-separated UTF-8 text; a required column
            is missing or blank; a column is there twice; a row has too few or too many cells; a
            cell is not what its column holds.
    """
    header, records = read_records(path, required=REQUIRED_COLUMNS, expected=_EXPECTED)
    rows = tuple(
        _Cells(path, record.line, dict(zip(header, record.cells, strict=True))).row()
        for record in records
    )
    return DeploymentTable(
        path=str(path),
        header=header,
        cells=tuple(record.cells for record in records),
        rows=rows,
    )


class _Cells:
    """The cells of one row by column, and what each column may hold."""

    def __init__(self, path: Path, line: int, cells: dict[str, str]) -> None:
        self._path = path
        self._line = line
        self._cells = cells

    def row(self) -> DeploymentRow:
        """The row, every cell of a known column checked."""
        mode = self._mode()
        workers, prefill, decode = (self._workers(kind) for kind in _WORKER_COLUMNS)
        texts: dict[str, Any] = {
            name: self._filled(column) if column in REQUIRED_COLUMNS else self._cell(column)
            for column, name in TEXT_COLUMNS.items()
        }
        return DeploymentRow(
            line=self._line,
            mode=mode,
            isl=self._count("isl", least=1),
            osl=self._count("osl", least=1),
            concurrency=self._count("concurrency"),
            ttft_ms=self._measured("ttft_ms"),
            tpot_ms=self._measured("tpot_ms"),
            workers=workers if mode == "agg" else None,
            prefill=prefill if mode == "disagg" else None,
            decode=decode if mode == "disagg" else None,
            **texts,
        )

    def _cell(self, column: str) -> str:
        return self._cells.get(column, "").strip()

    def _filled(self, column: str) -> str:
        text = self._cell(column)
        if not text:
            self._refuse(
                column, "found a blank cell; expected a value, so fill it or remove the row"
            )
        return text

    def _mode(self) -> Literal["agg", "disagg"]:
        text = self._filled("mode")
        if text == "agg":
            return "agg"
        if text == "disagg":
            return "disagg"
        self._refuse("mode", f"found {text[:40]!r}; expected agg or disagg.{suggest(text, _MODES)}")

    def _workers(self, kind: str) -> Workers | None:
        named = {
            name: self._count(column)
            for column, name in _WORKER_COLUMNS[kind].items()
            if self._cell(column)
        }
        if not named:
            return None
        return Workers(**(named if kind != "workers" else {"count": 1, **named}))

    def _number(self, column: str, text: str, expected: str) -> float:
        if not _NUMBER.fullmatch(text):
            self._refuse(column, f"found {text[:40]!r}; expected {expected}")
        return float(text)

    def _count(self, column: str, *, least: int = 0) -> int:
        text = self._filled(column) if least else self._cell(column)
        if not text:
            return 0
        blank = "" if least else ", or a blank cell where it is not named"
        expected = f"a whole number from {least} to {_MAX_COUNT:,}, written like 8 or 8.0{blank}"
        value = self._number(column, text, expected)
        if not least <= value <= _MAX_COUNT or value != int(value):
            self._refuse(column, f"found {text[:40]!r}; expected {expected}")
        return int(value)

    def _measured(self, column: str) -> float | None:
        text = self._cell(column)
        if not text:
            return None
        expected = "milliseconds above 0, or a blank cell where it was not measured"
        value = self._number(column, text, expected)
        if not 0 < value <= _MAX_MS:
            self._refuse(column, f"found {text[:40]!r}; expected {expected}")
        return value

    def _refuse(self, column: str, what: str) -> NoReturn:
        raise SpecError(f"{self._path}: line {self._line}: column {column}: {what}")


def text_with_predictions(table: DeploymentTable, answers: Sequence[Prediction | Refusal]) -> str:
    """The table as CSV text with ``PREDICTION_COLUMNS`` appended, one answer a row.

    Columns of those names in the input are left out, so that writing twice changes nothing.
    """
    kept = [k for k, name in enumerate(table.header) if name not in PREDICTION_COLUMNS]
    lines = [csv_line([*(table.header[k] for k in kept), *PREDICTION_COLUMNS])]
    lines += [
        csv_line([*(cells[k] for k in kept), *_answer_cells(answer)])
        for cells, answer in zip(table.cells, answers, strict=True)
    ]
    return "".join(lines)


def write_predictions(
    table: DeploymentTable, answers: Sequence[Prediction | Refusal], path: Path
) -> None:
    """Write the table with its predictions: under a temporary name, then renamed."""
    write_text(text_with_predictions(table, answers), path)


def _answer_cells(answer: Prediction | Refusal) -> list[str]:
    if isinstance(answer, Refusal):
        return [*([""] * (len(PREDICTION_COLUMNS) - 1)), answer.reason]
    seconds = (
        answer.ttft_s,
        answer.tpot_s,
        answer.ttft_low_s,
        answer.ttft_high_s,
        answer.tpot_low_s,
        answer.tpot_high_s,
    )
    return [*(_milliseconds(value) for value in seconds), answer.origin, answer.note]


def _milliseconds(value_s: float) -> str:
    """Six digits after the point at most (nanoseconds), without padding."""
    return f"{value_s * 1e3:.6f}".rstrip("0").rstrip(".")
