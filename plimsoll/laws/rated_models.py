"""Rated models from a CSV of scores and one of release months.

The date a model was uploaded to a leaderboard is not the date it was released, so dates come
from a table of their own (``model,release_month``, YYYY-MM, taken as the first of the month); a
model without one keeps none. Mixtures of experts are known by their names: ``8x7B``, ``MoE``,
``A14B`` and a few families.
Left out: finding out which of two sizes of a mixture a table holds.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

from plimsoll.laws.density import RatedModel
from plimsoll.spec.csv_records import read_records
from plimsoll.spec.errors import SpecError

__all__ = ["read_rated_models", "read_release_months"]

_MONTH = re.compile(r"(\d{4})-(\d{2})")
_EXPERTS = re.compile(
    r"\d+x\d+(\.\d+)?b|moe|-a\d+(\.\d+)?b|deepseek-(coder-)?v\d|dbrx|grok-1", re.IGNORECASE
)


def read_release_months(
    path: Path, *, name: str = "model", month: str = "release_month"
) -> dict[str, date]:
    """First day of the month each model was released in; models with an empty cell are left out.

    Raises:
        SpecError: no such columns, or a cell that is no month; it names the line.
    """
    header, records = read_records(
        path, required=(name, month), expected="a table of release months"
    )
    found = {}
    for record in records:
        model = record.cells[header.index(name)].strip()
        cell = record.cells[header.index(month)].strip()
        if not cell:
            continue
        match = _MONTH.fullmatch(cell)
        if match is None or not 1 <= int(match[2]) <= 12:
            raise SpecError(
                f"{path} line {record.line}: {month} of {model} is {cell!r}; expected YYYY-MM"
            )
        found[model] = date(int(match[1]), int(match[2]), 1)
    return found


def read_rated_models(
    path: Path,
    months: Mapping[str, date],
    benchmarks: Sequence[str],
    *,
    name: str = "Model",
    family: str = "Model Family",
    params: str = "Model Size (B)",
    active: str = "",
    scale: float = 1e9,
    instruct: bool = False,
) -> list[RatedModel]:
    """Models of a table whose headers are given; ``scale`` turns its sizes into parameters and
    empty scores are left out. ``active``: header of the active parameters, "" for none.

    Raises:
        SpecError: a missing column, a cell that is no number, a score outside [0, 1], a size
            that is not positive; it names the line.
    """
    wanted = [name, family, params, *([active] if active else []), *benchmarks]
    header, records = read_records(path, required=wanted, expected="a table of scores by model")
    found = []
    for record in records:
        cells = dict(zip(header, (cell.strip() for cell in record.cells), strict=True))
        where = f"{path} line {record.line}"
        scores = {b: _number(cells[b], f"{where}: {b}", most=1.0) for b in benchmarks if cells[b]}
        size = _number(cells[params], f"{where}: {params}")
        if size <= 0:
            raise SpecError(f"{where}: {params} is {size:g}; expected a positive number")
        used = cells[active] if active else ""
        found.append(
            RatedModel(
                name=cells[name],
                family=cells[family],
                params=size * scale,
                scores=scores,
                released=months.get(cells[name]),
                active_params=_number(used, f"{where}: {active}") * scale if used else None,
                experts=_EXPERTS.search(cells[name]) is not None,
                instruct=instruct,
            )
        )
    return found


def _number(cell: str, where: str, *, most: float = float("inf")) -> float:
    try:
        value = float(cell)
    except ValueError:
        raise SpecError(f"{where} is {cell!r}; expected a number") from None
    if not 0 <= value <= most:
        hint = "; a percentage must be divided by 100" if most == 1.0 else ""
        raise SpecError(f"{where} is {value:g}; expected 0 to {most:g}{hint}")
    return value
