"""What a table of runs says of its own units, and counts that no run can have.

Counts are meant raw. A column in billions is recognised by its median, single rows in billions by
lying beneath what a run can have while the rest does not, and a factor of a billion too many by
counts above all that were ever trained. The unit of a loss is that of a column ``unit``, or is read
off the header (``bpb``, ``loss_bits``); where both are there, or one is asked for, they must agree.
Nothing is converted in silence. Left out: a unit that no header and no column names.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from plimsoll.laws.forms.contract import Floats
from plimsoll.spec.errors import SpecError

__all__ = ["Unit", "check_counts", "unit_of"]

Unit = Literal["nats", "bits"]

_FEWEST = {"params": 1e3, "tokens": 1e4}
_MOST = {"params": 1e14, "tokens": 1e15}
_APART = 1e5
_SHOWN = 5
_WORDS: dict[str, Unit] = {
    **dict.fromkeys(("bit", "bits", "bpb", "bpc", "bpt"), "bits"),
    **dict.fromkeys(("nat", "nats"), "nats"),
}
_UNIT_COLUMNS = ("unit", "units", "loss_unit")


def check_counts(
    name: str, columns: Mapping[str, Floats], headers: Mapping[str, str], lines: Sequence[int]
) -> None:
    """Refuse parameters and tokens that cannot be raw counts.

    Raises:
        SpecError: it names the column, the lines where only some are wrong, and what to write.
    """
    for what in _FEWEST:
        if what not in columns:
            continue
        values, header, middle = columns[what], headers[what], float(np.median(columns[what]))
        plain = header.partition("*")[0]
        low, high = values < _FEWEST[what], values > _MOST[what]
        if middle < _FEWEST[what] and not (values > middle * _APART).any():
            raise SpecError(
                f"{name}: the median of {header} is {middle:g}, which is too few {what}; if it is "
                f"in billions, say {what}={plain}*1e9"
            )
        if middle > _MOST[what] and not (values < middle / _APART).any():
            raise SpecError(
                f"{name}: the median of {header} is {middle:g}, more {what} than any run had; "
                f"expected raw counts, so say {what}={plain}{'' if '*' in header else '*1e-9'}"
            )
        stray = np.flatnonzero(low if middle >= _FEWEST[what] else ~low)
        stray = stray[np.abs(np.log(values[stray] / middle)) > np.log(_APART)]
        if not len(stray):
            stray = np.flatnonzero(high)
        if len(stray):
            some = ", ".join(f"line {lines[i]}" for i in stray[:_SHOWN].tolist())
            more = f" and {len(stray) - _SHOWN} more" if len(stray) > _SHOWN else ""
            raise SpecError(
                f"{name} {some}{more}: {plain} is {values[stray[0]]:g} where the median is "
                f"{middle:.3g}, as when some rows are in billions; expected raw counts in all"
            )


def unit_of(
    name: str,
    header: str,
    asked: Unit | None,
    cell: Callable[[str], Sequence[str] | None],
    lines: Sequence[int],
) -> tuple[Unit, str]:
    """Unit of a loss column and a note on where it is from, "" if it was asked for or assumed.

    ``cell`` gives the cells of a column by its lower-case header, None if there is none.

    Raises:
        SpecError: units that disagree, or a cell that is no unit; it names the line.
    """
    found, note = asked, ""
    named = next((_WORDS[w] for w in re.split(r"[^a-z]+", header.lower()) if w in _WORDS), None)
    if named is not None:
        if found is not None and named != found:
            raise SpecError(
                f"{name}: the header {header} says {named}, --unit says {found}; expected one, so "
                "leave --unit out or rename the column"
            )
        found, note = named, f"loss in {named}, as its header {header} says"
    for column in _UNIT_COLUMNS:
        cells = cell(column)
        if cells is None:
            continue
        units = [_WORDS.get(text.strip().lower()) for text in cells]
        for line, unit, text in zip(lines, units, cells, strict=True):
            if unit is None:
                raise SpecError(f"{name} line {line}: {column} is {text!r}; expected nats or bits")
            if unit != units[0]:
                raise SpecError(
                    f"{name} line {line}: loss in {unit}, in {units[0]} on line {lines[0]}; "
                    "expected one unit for all rows; a bit is 0.6931 nats"
                )
        if found is not None and units[0] != found:
            source = "--unit" if asked else f"the header {header}"
            raise SpecError(
                f"{name} line {lines[0]}: loss in {units[0]} by the column {column}, {source} says "
                f"{found}; expected one"
            )
        found, note = units[0], f"loss in {units[0]}, as the column {column} says"
    return found or "nats", note
