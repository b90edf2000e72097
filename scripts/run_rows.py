"""Tables of runs that grow by rows as runs end, and survive that the process is killed.

Rows are appended whole, by one process at a time. A last line that was cut off is no row: it is
taken from the file before anything is read or written, so that its run is made again.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["append", "unlock", "whole_text"]


def _lock_of(path: Path) -> Path:
    return path.with_suffix(".lock")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time at a table."""
    with _lock_of(path).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _drop_cut_off(path: Path) -> bytes:
    raw = path.read_bytes() if path.exists() else b""
    kept = raw[: raw.rfind(b"\n") + 1]
    if kept != raw:
        os.truncate(path, len(kept))
    return kept


def whole_text(path: Path) -> str:
    """The lines that were written to their end, "" of a new table; a last one that was cut off is
    dropped from the file."""
    with _locked(path):
        return _drop_cut_off(path).decode("utf-8")


def append(path: Path, text: str, *, header: str) -> None:
    """Add whole lines; ``header`` is written first where the table is new."""
    with _locked(path):
        fresh = not _drop_cut_off(path)
        with path.open("a", encoding="utf-8", newline="") as file:
            file.write((header if fresh else "") + text)
            file.flush()
            os.fsync(file.fileno())


def unlock(path: Path) -> None:
    """Remove what is left of locking, when no other process is at the table."""
    _lock_of(path).unlink(missing_ok=True)
