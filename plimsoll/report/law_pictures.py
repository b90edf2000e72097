"""What the pictures of scaling laws show, as plain data.

Sizes are in parameters, data in tokens, compute in FLOPs, losses in ``unit`` (a token or a byte).
Nothing is computed here or in the renderers.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

from plimsoll.spec.io import PLAIN
from plimsoll.spec.origin import Origin

__all__ = [
    "BudgetLine",
    "ExtrapolationPicture",
    "IsoFlopCurve",
    "IsoFlopPicture",
    "IsoLossPicture",
    "LawPoint",
    "LawRun",
    "LossContour",
    "PredictedLine",
    "ResidualPicture",
    "ResidualSeries",
]


def _span(values: Iterable[float]) -> tuple[float, float]:
    """Least and most; (1, 10) of nothing."""
    found = list(values)
    return (min(found), max(found)) if found else (1.0, 10.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LawRun:
    """A training run beside what a law says of it.

    ``line`` of its file, 0 without one; ``x`` is where a picture of one axis puts it, such as its
    compute; ``low`` and ``high`` bound the prediction if it has an interval. ``far``: an outlier.
    """

    __pydantic_config__: ClassVar = PLAIN
    line: int
    inputs: dict[str, float]
    x: float
    loss: float
    predicted: float
    low: float | None = None
    high: float | None = None
    far: bool = False

    @property
    def residual_ln(self) -> float:
        """ln of measured over predicted."""
        return math.log(self.loss / self.predicted)


@dataclass(frozen=True, slots=True, kw_only=True)
class LawPoint:
    """A size and tokens with their loss by the law; ``flops`` to train it, and to serve it if the
    budget is for both."""

    __pydantic_config__: ClassVar = PLAIN
    name: str
    params: float
    tokens: float
    loss: float
    flops: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LossContour:
    """Splits of one predicted ``loss``."""

    __pydantic_config__: ClassVar = PLAIN
    loss: float
    params: tuple[float, ...]
    tokens: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetLine:
    """Splits that cost the same, or that use up the same pool of tokens."""

    __pydantic_config__: ClassVar = PLAIN
    name: str
    params: tuple[float, ...]
    tokens: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class IsoLossPicture:
    """Contours of loss over size and tokens, with the runs, the compute-optimal line, and budgets.

    ``box_params`` and ``box_tokens``: where the law was fitted; ``params`` and ``tokens``: what
    the axes show.
    """

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["iso-loss"] = "iso-loss"
    title: str
    unit: str
    params: tuple[float, float]
    tokens: tuple[float, float]
    box_params: tuple[float, float]
    box_tokens: tuple[float, float]
    contours: tuple[LossContour, ...]
    optimal: tuple[LawPoint, ...] = ()
    budgets: tuple[BudgetLine, ...] = ()
    points: tuple[LawPoint, ...] = ()
    runs: tuple[LawRun, ...] = ()
    origin: Origin = Origin.MODELED
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class IsoFlopCurve:
    """Loss against size for one budget. ``edge``: the limit its least stands at, "" for a true
    minimum; ``serving``: part of the budget is for serving; ``runs``: those of this budget."""

    __pydantic_config__: ClassVar = PLAIN
    name: str
    flops: float
    params: tuple[float, ...]
    tokens: tuple[float, ...]
    losses: tuple[float, ...]
    least: LawPoint
    edge: str = ""
    serving: bool = False
    runs: tuple[LawRun, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class IsoFlopPicture:
    """Loss against size, a curve a budget, the least of each marked."""

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["iso-flop"] = "iso-flop"
    title: str
    unit: str
    curves: tuple[IsoFlopCurve, ...]
    box_params: tuple[float, float]
    origin: Origin = Origin.MODELED
    notes: tuple[str, ...] = ()

    @property
    def colors(self) -> tuple[int, ...]:
        """Which color each curve has: one a budget, with serving or without."""
        budgets = list(dict.fromkeys(one.flops for one in self.curves))
        return tuple(budgets.index(one.flops) for one in self.curves)

    @property
    def shown_params(self) -> tuple[float, float]:
        """Least and largest size drawn."""
        runs = (run.inputs["params"] for one in self.curves for run in one.runs)
        return _span([*(size for one in self.curves for size in one.params), *runs])

    @property
    def shown_losses(self) -> tuple[float, float]:
        """Least and largest loss drawn."""
        runs = (run.loss for one in self.curves for run in one.runs)
        return _span([*(loss for one in self.curves for loss in one.losses), *runs])


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidualSeries:
    """Runs beside the predictions of one law."""

    __pydantic_config__: ClassVar = PLAIN
    name: str
    runs: tuple[LawRun, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidualPicture:
    """ln of measured over predicted loss, against ``x_name`` in ``x_unit``.

    ``bound_ln``: runs further off are outliers; None where none are told.
    """

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["residuals"] = "residuals"
    title: str
    unit: str
    x_name: str
    x_unit: str
    series: tuple[ResidualSeries, ...]
    bound_ln: float | None = None
    origin: Origin = Origin.MODELED
    notes: tuple[str, ...] = ()

    @property
    def shown_xs(self) -> tuple[float, float]:
        """Least and largest x drawn."""
        return _span(run.x for one in self.series for run in one.runs)

    @property
    def shown_residuals(self) -> tuple[float, float]:
        """Least and largest residual shown, with room for marks."""
        bound = () if self.bound_ln is None else (self.bound_ln, -self.bound_ln)
        low, high = _span([0.0, *bound, *(r.residual_ln for s in self.series for r in s.runs)])
        room = 0.06 * (high - low) or 1e-3
        return low - room, high + room


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedLine:
    """Predictions of one law at ``xs``, rising. ``lows`` and ``highs`` are empty without an
    interval; ``box_ends_at``: the x beyond which it has left the box of its fit, None within."""

    __pydantic_config__: ClassVar = PLAIN
    name: str
    xs: tuple[float, ...]
    losses: tuple[float, ...]
    lows: tuple[float, ...] = ()
    highs: tuple[float, ...] = ()
    box_ends_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtrapolationPicture:
    """Loss against ``x_name``: runs of the fit, runs held out of it, and what it predicts.

    ``line_name``: what the lines follow, as in "least loss of each budget"; ``level`` of the
    intervals.
    """

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["extrapolation"] = "extrapolation"
    title: str
    unit: str
    x_name: str
    x_unit: str
    line_name: str
    level: float
    fitted: tuple[LawRun, ...]
    held_out: tuple[LawRun, ...]
    lines: tuple[PredictedLine, ...]
    origin: Origin = Origin.EXTRAPOLATED
    notes: tuple[str, ...] = ()

    @property
    def box_words(self) -> str:
        """What the vertical line says."""
        return (
            "lines leave the fit's box" if len(self.lines) > 1 else "the line leaves the fit's box"
        )

    @property
    def shown_xs(self) -> tuple[float, float]:
        """Least and largest x drawn."""
        runs = (run.x for run in (*self.fitted, *self.held_out))
        return _span([*runs, *(x for one in self.lines for x in one.xs)])

    @property
    def shown_losses(self) -> tuple[float, float]:
        """Least and largest loss drawn, intervals included."""
        values = [run.loss for run in (*self.fitted, *self.held_out)]
        values += [v for run in self.held_out for v in (run.low, run.high) if v is not None]
        values += [v for one in self.lines for v in (*one.losses, *one.lows, *one.highs)]
        return _span(values)
