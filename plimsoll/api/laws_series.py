"""Laws of forecasters of series from a table of runs, and what to build and buy first."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from plimsoll.api.commands import command
from plimsoll.laws.series import Advice, Axis, AxisLaw, alpha_gap, fit_axes, suggest_series
from plimsoll.laws.series_table import read_series_runs
from plimsoll.report.document import Report, Table
from plimsoll.report.wording import percent_text, short_count_text
from plimsoll.spec.errors import SpecError

__all__ = ["SeriesLawsAnswer", "series_laws"]

_AXES = {"params": "size", "tokens": "data", "compute": "compute"}
_TARGETS = ("id-nll", "ood-nll", "ood-mape")
_HORIZONS = ("fixed", "varying")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesLawsAnswer:
    """``found`` by (architecture, axis), of a score that had ``offset`` taken off; ``bare`` are
    the same without a floor, whose exponents compare."""

    found: Mapping[tuple[str, Axis], AxisLaw]
    bare: Mapping[tuple[str, Axis], AxisLaw]
    advice: Advice
    source: str
    score: str
    offset: float
    num_runs: int
    asked: tuple[str, ...] = ()

    def report(self) -> Report:
        """See ``Answer``."""
        rows = []
        for (arch, axis), law in self.found.items():
            left, right = law.alpha_interval()
            rows.append(
                (
                    f"{arch or 'runs'}, {_AXES[axis]}",
                    f"{law.alpha:.3f}",
                    f"{left:.3f}-{right:.3f}" if np.isfinite(left) else "-",
                    f"{law.floor:.4g}" if law.floor else "none",
                    f"{law.r2:.3f}",
                    percent_text(law.held_out) if np.isfinite(law.held_out) else "-",
                    percent_text(law.gain(4.0)),
                )
            )
        columns = ("", "alpha", "90 %", "floor", "R²", "largest", "4x takes")
        advice = self.advice
        ranges = {
            axis: f"{_AXES[axis]} {short_count_text(low)} to {short_count_text(high)} {unit}"
            for (_, axis), law in self.found.items()
            for unit in ("parameters" if axis == "params" else "distinct tokens",)
            for low, high in (law.fit.box[axis],)
        }
        return Report(
            title=f"Build {'an encoder' if advice.architecture == 'encoder' else 'a decoder'}; "
            f"more {'data' if advice.first == 'data' else 'parameters'} first",
            subtitle=f"{self.num_runs} runs of {self.source}; {self.score} less {self.offset:g}",
            command=command(*(self.asked or ("laws", "series", self.source))),
            tables=(
                Table(
                    title=f"Powers of {self.score} above {self.offset:g}",
                    columns=columns,
                    rows=tuple(rows),
                    notes=(
                        "; ".join(ranges.values()),
                        "90 %: of alpha, seeds of each point resampled; - with one seed",
                        "largest: error there of a law fitted to the others",
                        "4x takes: share of the loss at the largest that four times as much of "
                        "it removes",
                    ),
                ),
            ),
            notes=(*advice.reasons, *self._compared()),
            next_command=command(*(self.asked or ("laws", "series", self.source)), "--json"),
        )

    def _compared(self) -> tuple[str, ...]:
        """Both architectures' exponents of parameters, in words."""
        archs = [arch for arch, axis in self.bare if axis == "params"]
        if len(archs) != 2:
            return ()
        first, second = (self.bare[arch, "params"] for arch in archs)
        gap, low, high = alpha_gap(first, second)
        spread = f" (90 % {low:+.3f} to {high:+.3f})" if np.isfinite(low) else ""
        return (
            f"exponent of {archs[0]} less that of {archs[1]}, both without a floor: "
            f"{gap:+.3f}{spread}",
        )

    def data(self) -> dict[str, Any]:
        """See ``Answer``."""
        return {
            "format_version": 1,
            "architecture": self.advice.architecture,
            "first": self.advice.first,
            "reasons": list(self.advice.reasons),
            "score": self.score,
            "offset": self.offset,
            "laws": [
                {
                    "arch": arch,
                    "axis": axis,
                    **{
                        name: value if np.isfinite(value) else None
                        for name, value in law.fit.named.items()
                    },
                    "alpha_90": [v if np.isfinite(v) else None for v in law.alpha_interval()],
                    "r2": law.r2,
                    "held_out_error": law.held_out if np.isfinite(law.held_out) else None,
                    "gain_of_4x_fraction": law.gain(4.0),
                }
                for (arch, axis), law in self.found.items()
            ],
        }


def series_laws(
    path: Path,
    *,
    loss: str,
    offset: float,
    target: str,
    horizon: str,
    asked: tuple[str, ...] = (),
) -> SeriesLawsAnswer:
    """Fit every axis that the runs allow; advice from the architecture of the horizon.

    Raises:
        SpecError: a table that is wrong, losses that are not above the offset, sizes at unequal
            tokens, an unknown target or horizon.
        InfeasibleError: too few sizes and amounts of data.
    """
    for name, given, known in (("target", target, _TARGETS), ("horizon", horizon, _HORIZONS)):
        if given not in known:
            raise SpecError(f"--{name} {given!r}: expected one of {', '.join(known)}")
    runs = read_series_runs(path, [loss]).above(loss, offset)
    found = fit_axes(runs, loss)
    wanted = "encoder" if horizon == "fixed" else "decoder"
    archs = {arch for arch, _ in found}
    mine = wanted if wanted in archs else min(archs)
    advice = suggest_series(
        target=cast(Literal["id-nll", "ood-nll", "ood-mape"], target),
        horizon=cast(Literal["fixed", "varying"], horizon),
        measured={axis: law for (arch, axis), law in found.items() if arch == mine},
    )
    return SeriesLawsAnswer(
        found=found,
        bare=fit_axes(runs, loss, floor=False),
        advice=advice,
        source=str(path),
        score=loss,
        offset=offset,
        num_runs=len(runs),
        asked=asked,
    )
