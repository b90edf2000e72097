"""Columns of numbers and times from columns of text, naming the line of the first bad value.

The fast path converts a whole chunk at once; only when that fails, or a check does, is the
line looked up. Times are ISO dates ("2023-11-16 18:17:03.9799600", an optional UTC offset that
must be the same in all rows) or numbers in a stated unit.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from plimsoll.spec.errors import SpecError

__all__ = ["MAX_TOKENS", "dates_s", "numbers", "tokens"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MAX_TOKENS = 10**9
_LARGEST = 1e18
_OFFSET = re.compile(r"(?:Z|[+-]\d\d:?\d\d)$")
_DATE = re.compile(r"^\d{4}-\d\d-\d\d(?:[ T]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?)?$")


def _is_number(text: object) -> bool:
    try:
        return bool(np.isfinite(float(text)))  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return False


def numbers(
    values: Sequence[object], *, path: Path, column: str, first_line: int, least: float = 0.0
) -> Floats:
    """``values`` as finite numbers of at least ``least``."""
    try:
        result = np.array(values, dtype=np.float64)
        good = np.isfinite(result) & (result >= least) & (result <= _LARGEST)
    except (TypeError, ValueError, OverflowError):
        good = np.array([_is_number(v) for v in values], dtype=bool)
        result = np.zeros(len(values))
    if result.ndim != 1 or not good.all():
        bad = int(np.argmin(good)) if result.ndim == 1 else 0
        raise SpecError(
            f"{path}: line {first_line + bad}: {column} = {str(values[bad])[:40]!r}; expected a "
            f"number of {least:g} or more"
        )
    return result


def tokens(values: Sequence[object], *, path: Path, column: str, first_line: int) -> Ints:
    """``values`` as whole numbers of tokens, zero or more."""
    exact = numbers(values, path=path, column=column, first_line=first_line)
    result = exact.astype(np.int64)
    good = (result == exact) & (exact <= MAX_TOKENS)
    if not good.all():
        bad = int(np.argmin(good))
        raise SpecError(
            f"{path}: line {first_line + bad}: {column} = {str(values[bad])[:40]!r}; expected a "
            f"whole number of tokens up to {MAX_TOKENS:,}"
        )
    return result


def dates_s(values: Sequence[str], *, path: Path, column: str, first_line: int) -> Floats:
    """Seconds since 2000-01-01 of ISO dates, exact to the 100 ns that traces carry."""
    match = _OFFSET.search(values[0])
    offset = match.group(0) if match else ""
    stripped = [v[: -len(offset)] if offset and v.endswith(offset) else v for v in values]
    for i, text in enumerate(stripped):
        if _DATE.match(text) is None:
            raise SpecError(
                f"{path}: line {first_line + i}: {column} = {values[i][:40]!r}; expected a date "
                f"like 2023-11-16 18:17:03.97{offset}"
            )
    try:
        # Whole seconds and fractions apart: a float of absolute seconds would round to 60 ns.
        moments = np.array(stripped, dtype="datetime64[ns]")
    except ValueError:
        for i, text in enumerate(stripped):
            try:
                datetime.fromisoformat(text[:19])
            except ValueError:
                raise SpecError(
                    f"{path}: line {first_line + i}: {column} = {values[i][:40]!r} is not a date"
                ) from None
        raise SpecError(f"{path}: line {first_line}: {column} holds a date out of range") from None
    origin = np.datetime64("2000-01-01", "ns")
    return np.asarray((moments - origin).astype(np.int64) / 1e9, dtype=np.float64)
