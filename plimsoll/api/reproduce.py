"""The published claim beside ours, for one system of the catalog or all."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plimsoll.api.commands import command
from plimsoll.catalog.contract import Context
from plimsoll.catalog.verdicts import Row, run_system
from plimsoll.report.document import Report, Table
from plimsoll.spec.errors import SpecError, suggest
from plimsoll.spec.io import plain

__all__ = ["ReproduceAnswer", "reproduce"]

_SHARED = Path("../shared/data")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReproduceAnswer:
    """Every row, in the order of the catalog."""

    rows: tuple[Row, ...]

    @property
    def passed(self) -> bool:
        """All checks that gave a verdict passed, and none could not be run."""
        return all(row.verdict not in ("fail", "not run") for row in self.rows)

    def report(self) -> Report:
        """See ``Answer``."""
        tables = []
        for system in dict.fromkeys(row.system for row in self.rows):
            rows = [row for row in self.rows if row.system == system]
            tables.append(
                Table(
                    title=system,
                    columns=("", "paper", "ours", "accepted", "how", "verdict"),
                    rows=tuple(
                        (
                            str(k),
                            _value(row.paper, row.unit),
                            _value(row.ours, row.unit),
                            row.band,
                            row.how,
                            row.verdict,
                        )
                        for k, row in enumerate(rows, start=1)
                    ),
                    notes=tuple(
                        ": ".join(filter(None, (f"{k}: {row.what}{_spread(row)}", row.detail)))
                        for k, row in enumerate(rows, start=1)
                    ),
                )
            )
        passed = sum(row.verdict == "pass" for row in self.rows)
        failed = sum(row.verdict == "fail" for row in self.rows)
        rest = len(self.rows) - passed - failed
        return Report(
            title=f"{passed} checks pass, {failed} fail, {rest} shown, waiting or not reproduced",
            tables=tuple(tables),
            next_command=command("list", "catalog"),
        )

    def data(self) -> dict[str, Any]:
        """See ``Answer``."""
        return {"format_version": 1, "passed": self.passed, "rows": [plain(r) for r in self.rows]}


def reproduce(
    ids: Sequence[str],
    *,
    data: Path | None = None,
    quick: bool = False,
    on_row: Callable[[Row], None] | None = None,
) -> ReproduceAnswer:
    """Run the checks of the systems named, all of them if none is.

    ``data`` is a folder of published measurements; by default ``../shared/data`` if it is there.

    Raises:
        SpecError: an id that is not in the catalog, a folder that does not exist.
    """
    from plimsoll.catalog import SYSTEMS

    unknown = [i for i in ids if i not in SYSTEMS]
    if unknown:
        raise SpecError(
            f"reproduce: {unknown[0]!r} is not in the catalog; it holds {', '.join(SYSTEMS)}."
            + suggest(unknown[0], SYSTEMS)
        )
    if data is not None and not data.is_dir():
        raise SpecError(f"--data {data}: no such folder")
    if data is None and _SHARED.is_dir():
        data = _SHARED
    context = Context(data=data)
    rows = []
    for system_id in ids or SYSTEMS:
        for row in run_system(SYSTEMS[system_id], context, quick=quick):
            rows.append(row)
            if on_row is not None:
                on_row(row)
    return ReproduceAnswer(rows=tuple(rows))


def _value(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.4g} {unit}".strip()


def _spread(row: Row) -> str:
    return "" if row.low is None or row.high is None else f", {row.low:.4g} to {row.high:.4g}"
