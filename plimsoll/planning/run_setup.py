"""How a benchmark run was set up where its table does not say: load, lengths, speculation.

Public runs hold a number of requests in flight and draw lengths around the stated ones; which
runs drew them and which speculated is read off the measurements once and kept in
``library/engines/settings.yaml`` by engine, release and date. A row that fits no entry gets the
last, most common set-up.
Leaves out: what single runs changed beside.
Source: library/engines/settings.yaml.
"""

import functools
from dataclasses import dataclass, field
from importlib import resources
from typing import Annotated, ClassVar, Literal

import yaml
from pydantic import Field

from plimsoll.spec.deployment import DeploymentRow
from plimsoll.spec.io import PLAIN, from_data

__all__ = ["LoadSetup", "RunSettings", "SpeculativeRun", "load_of", "run_settings", "speculates"]

Engine = Literal["vllm", "sglang", "trtllm"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSetup:
    """Lengths and rounds of the runs that fit; fields left out fit every run.

    Lengths lie evenly over ``length_spread`` times their mean, which is ``length_mean`` of the
    stated; each place in flight serves ``rounds`` requests.
    """

    __pydantic_config__: ClassVar = PLAIN
    engine: Engine | None = None
    releases: tuple[str, ...] = ()
    unnamed_precision: bool = False
    other_lengths_than: tuple[tuple[int, int], ...] = ()
    length_spread: Annotated[float, Field(ge=0, le=2)]
    length_mean: Annotated[float, Field(gt=0, le=2)]
    rounds: Annotated[int, Field(gt=0)]

    def fits(self, row: DeploymentRow) -> bool:
        """Whether the entry speaks of this row."""
        return (
            (self.engine is None or self.engine == row.backend)
            and (not self.releases or row.backend_version in self.releases)
            and not (self.unnamed_precision and row.precision)
            and (row.isl, row.osl) not in self.other_lengths_than
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeculativeRun:
    """Runs shown to speculate, by engine, release, date (ISO) and precision."""

    __pydantic_config__: ClassVar = PLAIN
    engine: Engine
    releases: tuple[str, ...]
    since: str = ""
    dates: tuple[str, ...] = ()
    precision: str = ""

    def fits(self, row: DeploymentRow) -> bool:
        """Whether the entry speaks of this row."""
        return (
            self.engine == row.backend
            and row.backend_version in self.releases
            and row.measured_on >= self.since
            and (not self.dates or row.measured_on in self.dates)
            and (not self.precision or self.precision == row.precision)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """All entries."""

    __pydantic_config__: ClassVar = PLAIN
    load: Annotated[tuple[LoadSetup, ...], Field(min_length=1)]
    speculative: tuple[SpeculativeRun, ...] = field(default=())
    source: str
    as_of: str


@functools.cache
def run_settings() -> RunSettings:
    """The bundled entries."""
    file = resources.files("plimsoll.library") / "engines" / "settings.yaml"
    data = yaml.safe_load(file.read_text(encoding="utf-8"))
    return from_data(RunSettings, data, where="library/engines/settings.yaml")


def load_of(row: DeploymentRow) -> LoadSetup:
    """The first set-up that fits; the last entry fits all."""
    entries = run_settings().load
    return next((entry for entry in entries if entry.fits(row)), entries[-1])


def speculates(row: DeploymentRow) -> bool:
    """Whether runs like this one were shown to speculate (aggregated rows only)."""
    return any(entry.fits(row) for entry in run_settings().speculative)
