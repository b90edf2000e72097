"""Tables of runs that come with the package, to try fits on: tiny models trained here.

What each row was trained with stands beside the tables, in ``library/laws/tiny_runs.yaml``.
Leaves out: anybody else's measurements.
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
            BundledRuns(
                name="tiny-sweep",
                path=_FOLDER / "tiny_sweep.csv",
                holds="tiny models, 5 learning rates by 4 batches at two sizes and token counts",
            ),
        )
    }
)
"""By name."""
