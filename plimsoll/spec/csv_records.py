"""Comma-separated text: a header and records, with the line in every complaint; and back.

Cells are kept as they are written, line breaks in quotes too; a byte-order mark is dropped.
A record has as many cells as the header, no name stands twice, and blank lines are allowed at
the end only.
Left out: other separators, compressed files, comments.
Source: RFC 4180.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from plimsoll.spec.errors import SpecError, suggest

__all__ = ["Record", "csv_line", "read_records"]

_MAX_BYTES = 256 * 2**20
_TO_QUOTE = frozenset(',"\r\n')
_OTHER_SEPARATORS = (";", "\t", "|")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The cells of one record and the line it starts on."""

    line: int
    cells: tuple[str, ...]


def csv_line(cells: Iterable[str]) -> str:
    """Cells as one line of text, in quotes where that is needed to read the same cells again.

    The writer of the standard library leaves a lone carriage return bare.
    """
    return ",".join(_quoted(cell) for cell in cells) + "\n"


def _quoted(cell: str) -> str:
    if not _TO_QUOTE.intersection(cell):
        return cell
    return '"' + cell.replace('"', '""') + '"'


def read_records(
    path: Path, *, required: Sequence[str], expected: str
) -> tuple[tuple[str, ...], tuple[Record, ...]]:
    """(header, records) of a file; ``expected`` says in complaints what the file should be.

    Raises:
        SpecError: the file is missing, a folder, empty, too large, not UTF-8 or not
            comma-separated; a required column is missing, or one is there twice; there is no
            record, or one of another width.
    """
    records = _records(path, _text(path, expected))
    first = next(records)
    header = _header(path, first, required)
    rest = list(records)
    for record in rest:
        if len(record.cells) != len(header):
            raise SpecError(
                f"{path}: line {record.line}: has {len(record.cells)} cells; expected "
                f"{len(header)}, one for each column of line {first.line}; quote cells that hold "
                "a comma and keep the commas of blank ones"
            )
    if not rest:
        raise SpecError(f"{path}: found no row below the header; expected {expected}, one a row")
    return header, tuple(rest)


def _header(path: Path, first: Record, required: Sequence[str]) -> tuple[str, ...]:
    header = tuple(name.strip() for name in first.cells)
    where = f"{path}: line {first.line}"
    for k, name in enumerate(header):
        if name and name in header[:k]:
            raise SpecError(
                f"{where}: column {name!r} is there twice (columns {header.index(name) + 1} and "
                f"{k + 1}); expected each once, so remove or rename one of them"
            )
    missing = [name for name in required if name not in header]
    if missing:
        found = ",".join(header)
        shown = found if len(found) <= 120 else f"{found[:117]}..."
        hint = suggest(missing[0], [name for name in header if name])
        if len(header) == 1:
            other = next((s for s in _OTHER_SEPARATORS if s in header[0]), "")
            hint = f" Its separator looks like {other!r}; save it with commas." if other else ""
        raise SpecError(
            f"{where}: column{'s' if len(missing) > 1 else ''} {', '.join(missing)} missing; found "
            f"{shown}; expected at least {', '.join(required)}, so add what is missing.{hint}"
        )
    return header


def _text(path: Path, expected: str) -> str:
    try:
        if path.is_dir():
            raise SpecError(f"{path}: is a folder; expected {expected}")
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise SpecError(
                f"{path}: {size:,} bytes is more than is read at once (limit {_MAX_BYTES:,}); "
                "split the file"
            )
        data = path.read_bytes()
    except FileNotFoundError:
        raise SpecError(f"{path}: no such file; expected {expected}") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise SpecError(f"{path}: cannot be read: {why}") from None
    zero = data.find(b"\0")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        zero = error.start
        text = ""
    if zero >= 0:
        line = data[:zero].count(b"\n") + 1
        raise SpecError(
            f"{path}: line {line}: byte {zero} is no text; expected {expected}, so save the table "
            "as comma-separated UTF-8"
        )
    if not text.strip():
        raise SpecError(f"{path}: the file is empty; expected {expected}")
    return text


def _records(path: Path, text: str) -> Iterator[Record]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    blank = 0
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise SpecError(
                f"{path}: line {line}: not comma-separated text ({error}); expected cells "
                "between commas, in double quotes where they hold commas, quotes or line breaks"
            ) from None
        if cells is None:
            return
        if not cells or (len(cells) == 1 and not cells[0].strip()):
            blank = blank or line
            continue
        if blank:
            raise SpecError(
                f"{path}: line {blank}: is empty, with more rows below it; expected none, so "
                "remove the line"
            )
        yield Record(line=line, cells=tuple(cells))
