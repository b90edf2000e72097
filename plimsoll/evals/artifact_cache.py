"""Folders that take minutes to make, kept in the user's cache and never trusted blindly.

A folder is made under a temporary name beside its place, sealed with the SHA-256 of each of its
files (``SHA256SUMS``, as ``sha256sum -c`` reads it) and renamed. It counts as whole when every
file has its listed sum and no file is missing or new; otherwise it is made again, with a warning.
Several processes may make one at the same time: the first to finish places it, the others take
that one. Left out: locks (the work may be done twice) and cleaning up old folders.
"""

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from plimsoll.spec.errors import ExecutionError

__all__ = ["cache_root", "cached_folder", "flaw", "seal"]

_SUMS = "SHA256SUMS"
_log = logging.getLogger(__name__)


def cache_root() -> Path:
    """``$XDG_CACHE_HOME/plimsoll``, or ``~/.cache/plimsoll`` where that is not set."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "plimsoll"


def flaw(folder: Path) -> str:
    """What is wrong with a sealed folder, "" if it is whole."""
    try:
        sealed = (folder / _SUMS).read_text(encoding="ascii")
        found = _sums(folder)
    except (OSError, UnicodeDecodeError):
        return f"its {_SUMS} cannot be read"
    listed = {line[66:]: line[:64] for line in sealed.splitlines()}
    differing = sorted(n for n in listed.keys() | found if listed.get(n) != found.get(n))
    return f"{', '.join(differing)} not as written" if differing else ""


def cached_folder(
    folder: Path, make: Callable[[Path], None], *, judge: Callable[[Path], str] = flaw
) -> Path:
    """``folder``, whole: as it lies there, or made by ``make`` in an empty folder it is given.

    ``judge`` says what is wrong with a folder that is there, "" for nothing.

    Raises:
        ExecutionError: the cache cannot be written.
    """
    if folder.exists():
        wrong = judge(folder)
        if not wrong:
            return folder
        _log.warning("%s: %s; it is made again", folder, wrong)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    except OSError as error:
        raise ExecutionError(
            f"{folder.parent}: cannot be written: {error.strerror}; set XDG_CACHE_HOME to a "
            "folder that can"
        ) from None
    try:
        made = temporary / "made"
        made.mkdir()
        make(made)
        seal(made)
        _place(made, folder, temporary / "old", judge)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _place(made: Path, folder: Path, aside: Path, judge: Callable[[Path], str]) -> None:
    """Rename into place; whoever came first with a whole folder wins."""
    for _ in range(10):
        if folder.exists():
            if not judge(folder):
                return
            with contextlib.suppress(FileNotFoundError):  # another process moved it away
                os.rename(folder, aside)
                shutil.rmtree(aside, ignore_errors=True)
        try:
            os.rename(made, folder)
            return
        except OSError:
            if not folder.exists():
                raise
    raise ExecutionError(f"{folder}: other processes keep placing broken copies; remove it")


def seal(folder: Path) -> None:
    """Write the sums of all files in a folder."""
    lines = [f"{digest}  {name}\n" for name, digest in sorted(_sums(folder).items())]
    (folder / _SUMS).write_text("".join(lines), encoding="ascii")


def _sums(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.name != _SUMS
    }
