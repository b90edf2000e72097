"""Tables of runs that come with the package, to try fits on: tiny models trained here.

What each row was trained with stands beside the tables, in ``library/laws/tiny_runs.yaml``.
Leaves out: anybody else's measurements; sweeps over learning rates, which no form has as inputs.
"""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType

__all__ = ["BUNDLED_RUNS", "BundledRuns"]

_FOLDER = Path(str(files("plimsoll.library") / "laws"))


@dataclass(frozen=True, slots=True, kw_only=True)
class BundledRuns:
    """A table by name: its file, and what it holds."""

    name: str
    path: Path
    holds: str


BUNDLED_RUNS = MappingProxyType(
    {
        table.name: table
        for table in (
            BundledRuns(
                name="tiny-grid",
                path=_FOLDER / "tiny_grid.csv",
                holds="tiny models, ten sizes by six token counts",
            ),
        )
    }
)
"""By name."""
