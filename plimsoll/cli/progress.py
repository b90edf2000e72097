"""One progress line on stderr: done, total, rate, time left, best so far.

Shown only on a terminal and only when the work takes more than half a second.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress_line"]

_PATIENCE_S = 0.5
_WIDTH = 78


@contextmanager
def progress_line(quiet: bool) -> Iterator[Callable[[int, int, str], None]]:
    """A callback (done, total, best in words) that draws; the line is wiped at the end."""
    started = time.monotonic()
    shown = False
    terminal = sys.stderr.isatty() and not quiet

    def show(done: int, total: int, best: str) -> None:
        nonlocal shown
        elapsed = time.monotonic() - started
        if not terminal or elapsed < _PATIENCE_S:
            return
        left = elapsed / max(done, 1) * max(total - done, 0)
        line = f"{done}/{total}  {done / elapsed:.1f}/s  {left:.0f} s left"
        if best:
            line += f"  best {best}"
        sys.stderr.write("\r" + line[:_WIDTH].ljust(_WIDTH))
        sys.stderr.flush()
        shown = True

    try:
        yield show
    finally:
        if shown:
            sys.stderr.write("\r" + " " * _WIDTH + "\r")
            sys.stderr.flush()
