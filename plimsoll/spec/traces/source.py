"""Reading a trace file line by line, with the line number in every complaint.

A trace is read as a stream, so its size does not matter as long as a slice bounds what is kept;
a whole file above ``MAX_TRACE_BYTES``, or more than ``MAX_ROWS`` kept rows, is refused with the
size. Pointer files of Git LFS and byte-order marks are recognized.
Left out: compressed files.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from plimsoll.spec.errors import SpecError

__all__ = [
    "IN_ANY_ORDER",
    "MAX_ROWS",
    "MAX_TRACE_BYTES",
    "WHOLE",
    "Slice",
    "numbered_lines",
    "open_trace",
]

MAX_TRACE_BYTES = 4 * 10**9
MAX_ROWS = 20_000_000
_MAX_LINE_CHARACTERS = 4 * 2**20
_LFS_POINTER = b"version https://git-lfs.github.com/spec"
_BOMS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """The part of a trace to keep: seconds from its first row, and a number of requests.

    The rows in [start_s, end_s) are kept and time starts again at ``start_s``. ``max_requests``
    0 keeps all. ``sort`` accepts rows out of order; the whole file is then read.
    """

    start_s: float = 0.0
    end_s: float = float("inf")
    max_requests: int = 0
    sort: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.start_s < self.end_s:
            raise SpecError(
                f"trace slice from {self.start_s} s to {self.end_s} s is empty; the start must be "
                "zero or more and the end later"
            )
        if self.max_requests < 0:
            raise SpecError(f"max_requests = {self.max_requests} must be zero (all) or more")

    @property
    def bounded(self) -> bool:
        """Whether reading can stop before the end of the file."""
        return not self.sort and (self.max_requests > 0 or self.end_s != float("inf"))


WHOLE = Slice()
IN_ANY_ORDER = Slice(sort=True)


def _refuse_unreadable(path: Path, part: Slice) -> None:
    if path.is_dir():
        raise SpecError(f"{path}: is a folder; expected a trace file")
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(_LFS_POINTER):
        raise SpecError(
            f"{path}: this is a pointer file, fetch the real one (Git LFS: run `git lfs pull`)"
        )
    if head.startswith(_BOMS):
        raise SpecError(
            f"{path}: line 1: starts with a byte-order mark (BOM); save it as UTF-8 without one"
        )
    if not head.strip():
        if size <= len(head):
            raise SpecError(f"{path}: the file is empty; expected a trace with one request a row")
        raise SpecError(f"{path}: line 1: is empty; expected the first row of a trace")
    if size > MAX_TRACE_BYTES and not part.bounded:
        raise SpecError(
            f"{path}: {size:,} bytes is more than is read whole (limit {MAX_TRACE_BYTES:,}); take "
            "a part of it (end_s or max_requests; `plimsoll trace make` with --end or --first), "
            "which reads it as a stream"
        )


@contextmanager
def open_trace(path: Path, part: Slice) -> Iterator[Iterator[str]]:
    """The lines of a trace file, checked to be a readable text file that is not too large.

    Raises:
        SpecError: the file is missing, empty, too large, a pointer file or not UTF-8 text.
    """
    try:
        _refuse_unreadable(path, part)
        with path.open(encoding="utf-8", newline="") as file:
            yield _lines(path, file.readline)
    except FileNotFoundError:
        raise SpecError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: not a UTF-8 text file ({error.reason})") from None
    except (OSError, ValueError) as error:
        raise SpecError(f"{path}: cannot be read: {error}") from None


def _lines(path: Path, readline: Callable[[int], str]) -> Iterator[str]:
    number = 0
    while line := readline(_MAX_LINE_CHARACTERS):
        number += 1
        if len(line) >= _MAX_LINE_CHARACTERS:
            raise SpecError(
                f"{path}: line {number}: longer than {_MAX_LINE_CHARACTERS:,} characters; "
                "expected one request a line"
            )
        yield line


def numbered_lines(path: Path, lines: Iterator[str]) -> Iterator[tuple[int, str]]:
    """(line number, line) of each line; blank ones are allowed at the end only."""
    blank = 0
    for number, line in enumerate(lines, start=1):
        if line.isspace():
            blank = blank or number
            continue
        if blank:
            raise SpecError(f"{path}: line {blank}: is empty; expected one request a line")
        yield number, line
