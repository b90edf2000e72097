"""Pictures of scaling laws as text: small, with what the legend of a page would say below."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from plimsoll.report.law_pictures import (
    ExtrapolationPicture,
    IsoFlopPicture,
    IsoLossPicture,
    LawRun,
    ResidualPicture,
)
from plimsoll.report.text_plot import (
    CURVE_COLORS,
    CURVE_SHAPES,
    Axis,
    Curve,
    head,
    plot,
    tail,
    wrap,
)
from plimsoll.report.wording import (
    loss_ticks,
    quantity_text,
    short_count_text,
    ticks_1_2_5,
)

__all__ = ["LAW_TEXTS"]

_TALLEST = 14


def _log(values: Sequence[float]) -> list[float]:
    return [math.log10(v) for v in values]


def _axis(low: float, high: float, unit: str) -> Axis:
    """Positions are log10, as everywhere here; as few ticks as a line of text holds."""
    ticks = ticks_1_2_5(low, high)
    ticks = ticks if len(ticks) <= 8 else ticks[:: math.ceil(len(ticks) / 8)]
    return Axis(
        low=math.log10(low),
        high=math.log10(high),
        ticks=[(math.log10(t), quantity_text(t, unit)) for t in ticks],
    )


def _loss_axis(low: float, high: float) -> Axis:
    low, high = low / 1.01, high * 1.01
    ticks = [(math.log10(t), f"{t:g}") for t in loss_ticks(low, high)]
    return Axis(low=math.log10(low), high=math.log10(high), ticks=ticks)


def _marks(xs: Sequence[float], ys: Sequence[float], color: str, shape: str) -> Curve:
    return Curve(xs=_log(xs), ys=_log(ys), color=color, shape=shape)


def _drawn(
    p: Any,
    y_label: str,
    x_label: str,
    legend: Sequence[str],
    body: Sequence[str],
    width: int,
) -> list[str]:
    return [*head(p, y_label), *body, f"{x_label:>{width}}", *wrap(legend, width), *tail(p, width)]


def _iso_flop(p: IsoFlopPicture, width: int, height: int, color: bool) -> list[str]:
    curves, legend = [], []
    for k, (hue, one) in enumerate(zip(p.colors, p.curves, strict=True)):
        name, shape = CURVE_COLORS[hue % len(CURVE_COLORS)], CURVE_SHAPES[k % len(CURVE_SHAPES)]
        curves.append(Curve(xs=_log(one.params), ys=_log(one.losses), color=name))
        marks = slice(len(one.params) // 6, None, max(len(one.params) // 3, 1))
        curves.append(_marks(one.params[marks], one.losses[marks], name, shape))
        legend.append(f"{shape} {one.name}")
    least = [one.least for one in p.curves]
    curves.append(_marks([q.params for q in least], [q.loss for q in least], "alert", "★"))
    legend.append("★ least loss" if not any(one.edge for one in p.curves) else "★ least, or edge")
    low, high = p.shown_params
    body = plot(
        curves,
        _axis(low / 1.2, high * 1.2, ""),
        _loss_axis(*p.shown_losses),
        width=width,
        height=min(height, _TALLEST),
        color=color,
        vertical=_box(p.box_params, low / 1.2, high * 1.2, legend),
    )
    return _drawn(p, f"loss ({p.unit})", "parameters", legend, body, width)


def _box(
    box: tuple[float, float], low: float, high: float, legend: list[str]
) -> list[tuple[float, str]]:
    inside = [edge for edge in box if low < edge < high]
    if inside:
        legend.append(f"│ edge of the sizes fitted: {', '.join(map(short_count_text, inside))}")
    return [(math.log10(edge), "gray") for edge in inside]


def _iso_loss(p: IsoLossPicture, width: int, height: int, color: bool) -> list[str]:
    curves = [Curve(xs=_log(one.params), ys=_log(one.tokens), color="sky") for one in p.contours]
    legend = []
    if p.contours:
        losses = [f"{one.loss:.3g}" for one in p.contours]
        legend.append(f"lines: loss {', '.join(losses)} {p.unit}, from the lower left")
    if p.runs:
        sizes = [run.inputs["params"] for run in p.runs]
        tokens = [run.inputs["tokens"] for run in p.runs]
        curves.append(_marks(sizes, tokens, "amber", "o"))
        legend.append("o runs")
    if p.optimal:
        thinned = p.optimal[:: max(len(p.optimal) // 10, 1)]
        curves.append(
            _marks([q.params for q in thinned], [q.tokens for q in thinned], "green", "+")
        )
        legend.append("+ compute-optimal")
    for point in p.points:
        curves.append(_marks([point.params], [point.tokens], "alert", "★"))
        legend.append(
            f"★ {point.name}: {short_count_text(point.params)} on {short_count_text(point.tokens)}"
        )
    body = plot(
        curves, _axis(*p.params, ""), _axis(*p.tokens, ""), width=width, height=height, color=color
    )
    return _drawn(p, "tokens", "parameters", legend, body, width)


def _residuals(p: ResidualPicture, width: int, height: int, color: bool) -> list[str]:
    curves, legend = [], []
    low, high = p.shown_xs
    least, most = p.shown_residuals
    x = _axis(low / 1.6, high * 1.6, p.x_unit)
    levels = [0.0] if p.bound_ln is None else [0.0, p.bound_ln, -p.bound_ln]
    curves += [Curve(xs=[x.low, x.high], ys=[level, level], color="gray") for level in levels]
    if p.bound_ln is not None:
        legend.append("level lines: 0 and where runs count as far off")

    def marks(runs: Sequence[LawRun], name: str, shape: str) -> Curve:
        return Curve(
            xs=_log([run.x for run in runs]),
            ys=[run.residual_ln for run in runs],
            color=name,
            shape=shape,
        )

    for k, one in enumerate(p.series):
        shape = CURVE_SHAPES[k % len(CURVE_SHAPES)]
        curves.append(
            marks([r for r in one.runs if not r.far], CURVE_COLORS[k % len(CURVE_COLORS)], shape)
        )
        legend.append(f"{shape} {one.name}")
    far = [run for one in p.series for run in one.runs if run.far]
    if far:
        curves.append(marks(far, "alert", "★"))
        lines = ", ".join(str(run.line) for run in far[:8] if run.line)
        legend.append(f"★ far off{f': line {lines}' if lines else ''}")
    body = plot(
        curves,
        x,
        Axis(low=least, high=most, ticks=[(v, f"{v:+.2g}") for v in (least, 0.0, most)]),
        width=width,
        height=min(height, _TALLEST),
        color=color,
    )
    x_label = f"{p.x_name}, {p.x_unit}" if p.x_unit else p.x_name
    return _drawn(p, "ln(measured / predicted)", x_label, legend, body, width)


def _extrapolation(p: ExtrapolationPicture, width: int, height: int, color: bool) -> list[str]:
    curves, legend = [], []
    for k, one in enumerate(p.lines):
        name = CURVE_COLORS[k % len(CURVE_COLORS)]
        curves.append(Curve(xs=_log(one.xs), ys=_log(one.losses), color=name))
        if len(p.lines) > 1:
            shape = CURVE_SHAPES[(k + 2) % len(CURVE_SHAPES)]
            curves.append(_marks(one.xs[-1:], one.losses[-1:], name, shape))
            legend.append(f"{shape} {one.name}")
    curves.append(_marks([r.x for r in p.fitted], [r.loss for r in p.fitted], "gray", "o"))
    curves.append(_marks([r.x for r in p.held_out], [r.predicted for r in p.held_out], "blue", "-"))
    curves.append(_marks([r.x for r in p.held_out], [r.loss for r in p.held_out], "alert", "★"))
    legend += ["o fitted", "★ held out, measured", "- predicted"]
    ends = [one.box_ends_at for one in p.lines if one.box_ends_at is not None]
    if ends:
        legend.append(f"│ {p.box_words}")
    low, high = p.shown_xs
    body = plot(
        curves,
        _axis(low / 1.5, high * 1.5, p.x_unit),
        _loss_axis(*p.shown_losses),
        width=width,
        height=min(height, _TALLEST),
        color=color,
        vertical=[(math.log10(min(ends)), "gray")] if ends else [],
    )
    x_label = f"{p.x_name}, {p.x_unit}" if p.x_unit else p.x_name
    return _drawn(p, f"loss ({p.unit})", x_label, legend, body, width)


LAW_TEXTS: dict[type, Callable[[Any, int, int, bool], list[str]]] = {
    IsoLossPicture: _iso_loss,
    IsoFlopPicture: _iso_flop,
    ResidualPicture: _residuals,
    ExtrapolationPicture: _extrapolation,
}
