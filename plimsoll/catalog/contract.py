"""What an entry of the catalog is: a published system, its claims, and how each is recomputed.

The paper's number stands only in a ``Claim``; the function of a ``Check`` never sees it. A
check compares what it computed with an acceptance band, given or relative to the claim. Its
``ablation`` computes the same quantity with the mechanism turned off; the ablation passes when
the value then *misses* the band, so that a gain that was never there shows.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from plimsoll.spec.errors import UnsupportedError

__all__ = [
    "AtLeast",
    "AtMost",
    "Band",
    "Between",
    "Check",
    "Claim",
    "Context",
    "Measured",
    "Report",
    "System",
    "Within",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A number as the paper prints it. ``value`` None: a claim in words."""

    id: str
    text: str
    value: float | None = None
    unit: str = ""
    setup: str = ""
    where: str = ""


@dataclass(frozen=True, slots=True)
class Within:
    """Relative distance to the claim's value at most ``fraction``."""

    fraction: float


@dataclass(frozen=True, slots=True)
class AtLeast:
    """The value is at least ``bound``."""

    bound: float


@dataclass(frozen=True, slots=True)
class AtMost:
    """The value is at most ``bound``."""

    bound: float


@dataclass(frozen=True, slots=True)
class Between:
    """``low <= value <= high``."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Report:
    """No verdict: the value is shown for the reader, with the reason it is not judged."""

    reason: str


Band = Within | AtLeast | AtMost | Between | Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a check obtained. ``values`` holds one number a seed or repeat; ``detail`` says in
    one line how it came about (setting, intermediate numbers)."""

    value: float
    values: tuple[float, ...] = ()
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a check may use. ``data`` is a folder of published measurements, if there is one."""

    data: Path | None = None
    seeds: tuple[int, ...] = (0, 1, 2)

    def file(self, name: str) -> Path:
        """A file of the measured-data folder.

        Raises:
            UnsupportedError: no folder was given or it lacks the file.
        """
        if self.data is None or not (self.data / name).exists():
            raise UnsupportedError(
                f"needs the measured data file {name}; name its folder with --data FOLDER"
            )
        return self.data / name


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One recomputation of one claim.

    ``how``: ``run`` here on real tensors, ``simulated`` on the paper's cluster, ``derived`` by
    exact arithmetic. ``fitted_on`` names the data that constants used here were fitted on.
    ``slow`` checks take more than about ten seconds. ``timed`` checks compare wall-clock times, so
    that other work on the machine can fail them. ``optional`` checks need a file that few
    have; without it they are left out and do not count against the system.
    """

    claim: str
    title: str
    how: Literal["run", "simulated", "derived"]
    band: Band
    compute: Callable[[Context], Measured]
    unit: str = ""
    ablation: Callable[[Context], Measured] | None = None
    ablation_title: str = ""
    fitted_on: str = ""
    slow: bool = False
    timed: bool = False
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A published system: who claims what, where its mechanism lives here, how it is checked.

    ``not_reproduced`` maps a claim id to the reason why it cannot be obtained as printed.
    ``waiting`` lists acceptance lines that need a part which does not exist yet.
    """

    id: str
    title: str
    arxiv: str
    family: str
    summary: str
    claims: tuple[Claim, ...]
    rooms: tuple[str, ...]
    checks: tuple[Check, ...]
    not_reproduced: dict[str, str] = field(default_factory=dict)
    waiting: tuple[str, ...] = ()
