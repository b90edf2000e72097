"""Curves as text: braille lines and marks in a frame, drawn by plotext.

Ticks are placed by the caller and legends drawn outside the frame, so that no data is covered.
"""

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from plimsoll.report.pictures import Picture
from plimsoll.report.wording import TERMINAL_COLORS, ticks_1_2_5

__all__ = [
    "CURVE_COLORS",
    "CURVE_SHAPES",
    "Axis",
    "Curve",
    "head",
    "linear_axis",
    "log_axis",
    "plot",
    "tail",
    "wrap",
]

CURVE_COLORS = ("blue", "vermillion", "green", "purple", "amber", "sky", "gray")
CURVE_SHAPES = ("o", "x", "+", "#", "@", "%", "=")


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Points to draw: joined by a braille line, or one ``shape`` each; color by name."""

    xs: Sequence[float]
    ys: Sequence[float]
    color: str
    shape: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """Limits in drawing units, and ticks as (position, label)."""

    low: float
    high: float
    ticks: Sequence[tuple[float, str]]


def plot(
    curves: Sequence[Curve],
    x: Axis,
    y: Axis,
    *,
    width: int,
    height: int,
    color: bool,
    vertical: Sequence[tuple[float, str]] = (),
) -> list[str]:
    """Lines of text: the curves in a frame. ``vertical`` holds (position, color) lines."""
    import plotext

    def pixel(name: str) -> Any:
        return plotext.pixel(foreground=TERMINAL_COLORS[name], background="default")

    figure = plotext.figure
    figure.clear()
    figure.theme("colorless")
    figure.canvas("default")
    figure.plot_size(width, height)
    figure.legend(False)
    for position, name in vertical:
        if x.low <= position <= x.high:
            marker = plotext.marker("│", pixel=pixel(name))
            ends = figure.signal([position, position], [y.low, y.high], marker=marker)
            figure.draw(ends.lines())
    for curve in curves:
        if not len(curve.xs):
            continue
        marker = plotext.marker(curve.shape or "braille", pixel=pixel(curve.color))
        signal = figure.signal(list(curve.xs), list(curve.ys), marker=marker)
        figure.draw(signal.lines(not curve.shape and len(curve.xs) > 1))
    for name, axis in (("x", x), ("y", y)):
        ruler = figure.ruler(name)
        ruler.lim(axis.low, axis.high)
        ruler.ticks([t for t, _ in axis.ticks], [label for _, label in axis.ticks])
    text: str = figure.build().string(colorless=not color)
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def linear_axis(high: float, *, low: float = 0.0, unit_digits: int = 3) -> Axis:
    """From ``low`` to a round number above ``high``, with up to five ticks."""
    span = max(high - low, 1e-12)
    raw = span / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
    count = math.ceil(span / step - 1e-9)
    ticks = [low + k * step for k in range(count + 1)]
    return Axis(
        low=low,
        high=ticks[-1],
        ticks=[(t, f"{t:,.{unit_digits}g}" if t < 1000 else f"{t:,.0f}") for t in ticks],
    )


def log_axis(low: float, high: float, label: Callable[[float], str]) -> Axis:
    """Positions are log10; ``label`` turns a tick's value into text."""
    low, high = low / 1.1, high * 1.1
    if high / low < 3:
        low, high = low / 1.5, high * 1.5
    ticks = ticks_1_2_5(low, high)
    return Axis(
        low=math.log10(low),
        high=math.log10(high),
        ticks=[(math.log10(t), label(t)) for t in ticks],
    )


def head(picture: Picture, *lines: str) -> list[str]:
    return [picture.title, *lines]


def tail(picture: Picture, width: int) -> list[str]:
    origin = getattr(picture, "origin", None)
    notes = [*picture.notes, *([origin.value] if origin is not None else [])]
    return textwrap.wrap(f"({'; '.join(notes)})", width) if notes else []


def wrap(items: Sequence[str], width: int) -> list[str]:
    """Legend entries on as few lines as fit."""
    lines: list[str] = []
    for item in items:
        if lines and len(lines[-1]) + 3 + len(item) <= width:
            lines[-1] += f"   {item}"
        else:
            lines += textwrap.wrap(item, width) or [""]
    return lines
