"""Pictures of scaling laws as Plotly figures: contours, iso-FLOP curves, residuals, predictions."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from plimsoll.report.html_axes import ALERT, LIMIT, NEUTRAL, Figure, axis, band, figure, line, note
from plimsoll.report.law_pictures import (
    ExtrapolationPicture,
    IsoFlopPicture,
    IsoLossPicture,
    LawPoint,
    LawRun,
    ResidualPicture,
)
from plimsoll.report.wording import (
    FAMILY_COLORS,
    flops_text,
    loss_ticks,
    quantity_text,
    short_count_text,
    ticks_1_2_5,
)

__all__ = ["LAW_FIGURES"]

_CONTOUR, _RUN, _BEST, _BUDGET = FAMILY_COLORS[5], FAMILY_COLORS[4], LIMIT, FAMILY_COLORS[3]
_SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x")
_DASHES = ("solid", "dash", "dashdot", "dot")
_STAR = {"color": ALERT, "size": 16, "symbol": "star", "line": {"color": "white", "width": 1}}


def _quantity_axis(title: str, unit: str, low: float, high: float, **more: Any) -> Figure:
    """Logarithmic, of counts or FLOPs, from ``low`` to ``high``."""
    ticks = ticks_1_2_5(low, high)
    return axis(
        f"{title} ({unit}, log scale)" if unit else f"{title} (log scale)",
        type="log",
        range=[math.log10(low), math.log10(high)],
        tickvals=ticks,
        ticktext=[quantity_text(t, unit) for t in ticks],
        **more,
    )


def _loss_axis(unit: str, low: float, high: float) -> Figure:
    room = (high / low) ** 0.05 * 1.002
    low, high = low / room, high * room
    ticks = loss_ticks(low, high)
    return axis(
        f"loss ({unit}, log scale)",
        type="log",
        range=[math.log10(low), math.log10(high)],
        tickvals=ticks,
        ticktext=[f"{t:g}" for t in ticks],
    )


def _legend(height: int) -> Figure:
    """Below the axis title, whatever the height."""
    return {"orientation": "h", "y": -78 / (height - 90), "yanchor": "top", "x": 0}


def _stroke(color: str, width: float, dash: str = "solid") -> Figure:
    """A line drawn through every point: thinned ones show corners on a logarithmic axis."""
    return {"color": color, "width": width, "dash": dash, "simplify": False}


def _run_words(run: LawRun) -> str:
    """What a reader sees over a run."""
    inputs = [f"{name} {short_count_text(value)}" for name, value in run.inputs.items()]
    if {"params", "tokens"} <= set(run.inputs):
        inputs.append(f"{flops_text(6 * run.inputs['params'] * run.inputs['tokens'])} FLOPs")
    lines = [
        f"<b>line {run.line}</b>" if run.line else "",
        ", ".join(inputs),
        f"measured {run.loss:.4g}, predicted {run.predicted:.4g} "
        f"({run.loss / run.predicted - 1:+.2%})",
        f"interval {run.low:.4g} to {run.high:.4g}" if run.low is not None and run.high else "",
    ]
    return "<br>".join(text for text in lines if text)


def _point_words(one: LawPoint) -> str:
    ratio = one.tokens / one.params
    return "<br>".join(
        [
            *([f"<b>{one.name}</b>"] if one.name else []),
            f"params {short_count_text(one.params)}, tokens {short_count_text(one.tokens)} "
            f"({ratio:.3g} a parameter)",
            f"{flops_text(one.flops)} FLOPs, loss {one.loss:.4g}",
        ]
    )


def _marks(xs: Sequence[float], ys: Sequence[float], words: Sequence[str], **style: Any) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": list(xs),
        "y": list(ys),
        "text": list(words),
        "hovertemplate": "%{text}<extra></extra>",
        **style,
    }


def _iso_loss(p: IsoLossPicture) -> Figure:
    traces: list[Figure] = []
    for k, one in enumerate(p.contours):
        label = f"{one.loss:.3g}"
        traces.append(
            {
                "type": "scatter", "mode": "lines", "x": list(one.params), "y": list(one.tokens),
                "line": _stroke(_CONTOUR, 1.5), "legendgroup": "contours",
                "name": f"one loss ({p.unit})", "showlegend": k == 0,
                "hovertemplate": f"loss {label} {p.unit}<br>%{{x:.4s}} params<br>"
                "%{y:.4s} tokens<extra></extra>",
            }
        )  # fmt: skip
    ends = [(one.params[0], one.tokens[0], one.loss) for one in p.contours]
    traces.append(
        {
            "type": "scatter", "mode": "text", "x": [x for x, _, _ in ends],
            "y": [y for _, y, _ in ends], "text": [f"{v:.3g}" for _, _, v in ends],
            "textposition": "top left", "textfont": {"size": 11}, "hoverinfo": "skip",
            "showlegend": False,
        }
    )  # fmt: skip
    for k, cost in enumerate(p.budgets):
        traces.append(
            {
                "type": "scatter", "mode": "lines", "x": list(cost.params), "y": list(cost.tokens),
                "name": cost.name, "hoverinfo": "skip",
                "line": _stroke(_BUDGET, 1.5, _DASHES[(k + 1) % 4]),
            }
        )  # fmt: skip
    if p.optimal:
        traces.append(
            _marks(
                [one.params for one in p.optimal],
                [one.tokens for one in p.optimal],
                [_point_words(one) for one in p.optimal],
                mode="lines",
                name="compute-optimal",
                line=_stroke(_BEST, 3),
            )
        )
    traces += _run_traces(
        p.runs, lambda run: (run.inputs["params"], run.inputs["tokens"]), "measured runs"
    )
    for k, one in enumerate(p.points):
        traces.append(
            _marks(
                [one.params], [one.tokens], [_point_words(one)], name=one.name,
                marker={**_STAR, "symbol": ("star", "diamond", "square")[k % 3],
                        "size": 16 if k == 0 else 11},
            )
        )  # fmt: skip
    (n_low, n_high), (d_low, d_high) = p.box_params, p.box_tokens
    box = {
        "type": "rect", "x0": n_low, "x1": n_high, "y0": d_low, "y1": d_high,
        "line": {"color": NEUTRAL, "width": 1.5, "dash": "dash"}, "layer": "below",
    }  # fmt: skip
    label = note(
        "fitted in here", math.log10(n_low), math.log10(d_high),
        xanchor="left", yanchor="bottom",
    )  # fmt: skip
    return figure(
        traces,
        560,
        legend=_legend(560),
        xaxis=_quantity_axis("size", "parameters", *p.params),
        yaxis=_quantity_axis("training data", "tokens", *p.tokens),
        shapes=[box],
        annotations=[label],
    )


def _run_traces(
    runs: Sequence[LawRun], where: Callable[[LawRun], tuple[float, float]], name: str
) -> list[Figure]:
    """Runs, and those far off apart."""
    traces = []
    for far, said, style in (
        (False, name, {"color": _RUN, "size": 7, "symbol": "circle"}),
        (True, "far from the fit", {"color": ALERT, "size": 10, "symbol": "x"}),
    ):
        mine = [run for run in runs if run.far == far]
        if mine:
            at = [where(run) for run in mine]
            traces.append(
                _marks(
                    [x for x, _ in at], [y for _, y in at], [_run_words(run) for run in mine],
                    name=said, marker=style,
                )
            )  # fmt: skip
    return traces


def _iso_flop(p: IsoFlopPicture) -> Figure:
    traces: list[Figure] = []
    for k, one in zip(p.colors, p.curves, strict=True):
        color = FAMILY_COLORS[k % len(FAMILY_COLORS)]
        words = [
            f"<b>{one.name}</b><br>params {short_count_text(n)}, tokens {short_count_text(d)}"
            f"<br>loss {loss:.4g}, {loss / one.least.loss - 1:+.2%} of the least"
            for n, d, loss in zip(one.params, one.tokens, one.losses, strict=True)
        ]
        traces.append(
            _marks(
                one.params, one.losses, words, mode="lines", name=one.name,
                line=_stroke(color, 2, "dash" if one.serving else "solid"),
            )
        )  # fmt: skip
        if one.runs:
            traces.append(
                _marks(
                    [run.inputs["params"] for run in one.runs], [run.loss for run in one.runs],
                    [_run_words(run) for run in one.runs], name="measured at this budget",
                    marker={"color": color, "size": 8, "symbol": _SYMBOLS[k % len(_SYMBOLS)]},
                )
            )  # fmt: skip
    for edge, name, symbol in ((False, "least loss", "star"), (True, "stands at an edge", "x")):
        least = [one.least for one in p.curves if bool(one.edge) == edge]
        if least:
            traces.append(
                _marks(
                    [one.params for one in least], [one.loss for one in least],
                    [_point_words(one) for one in least], name=name,
                    marker={**_STAR, "symbol": symbol, "size": 14},
                )
            )  # fmt: skip
    low, high = p.shown_params[0] / 1.2, p.shown_params[1] * 1.2
    shapes, notes = _box_edges(p.box_params, low, high)
    return figure(
        traces,
        520,
        legend=_legend(520),
        xaxis=_quantity_axis("size", "parameters", low, high),
        yaxis=_loss_axis(p.unit, *p.shown_losses),
        shapes=shapes,
        annotations=notes,
    )


def _box_edges(
    box: tuple[float, float], low: float, high: float
) -> tuple[list[Figure], list[Figure]]:
    """The least and the largest size of the fit, as far as they are shown."""
    shapes, notes = [], []
    for edge, text in ((box[0], "smallest fitted"), (box[1], "largest fitted")):
        if low < edge < high:
            shapes.append(line("x", edge, NEUTRAL, "dash"))
            notes.append(_at_line(text, edge, low, high))
    return shapes, notes


def _at_line(text: str, value: float, low: float, high: float) -> Figure:
    """A name above a vertical line, on the side that has more room."""
    left = math.log(value / low) < math.log(high / low) / 2
    return note(
        text, math.log10(value), 1, yref="paper", xanchor="left" if left else "right",
        yanchor="bottom",
    )  # fmt: skip


def _residuals(p: ResidualPicture) -> Figure:
    traces: list[Figure] = []
    several = len(p.series) > 1
    for k, one in enumerate(p.series):
        color = FAMILY_COLORS[k % len(FAMILY_COLORS)]
        near = [run for run in one.runs if not run.far]
        style = {"color": color, "size": 8, "symbol": _SYMBOLS[k % len(_SYMBOLS)]}
        near = sorted(near, key=lambda run: run.x)
        traces.append(
            _marks(
                [run.x for run in near], [run.residual_ln for run in near],
                [_run_words(run) for run in near], name=one.name, marker=style,
                mode="lines+markers" if several else "markers",
                line={"color": color, "width": 1, "dash": _DASHES[k % len(_DASHES)]},
            )
        )  # fmt: skip
    far = [run for one in p.series for run in one.runs if run.far]
    if far:
        traces.append(
            _marks(
                [run.x for run in far], [run.residual_ln for run in far],
                [_run_words(run) for run in far], name="far off", mode="markers",
                marker={"color": ALERT, "size": 11, "symbol": "x"},
            )
        )  # fmt: skip
    named = [
        note(
            f" line {run.line}" if run.line else "", math.log10(run.x), run.residual_ln,
            xanchor="left",
        )
        for run in far
        if run.line
    ]  # fmt: skip
    shapes = [line("y", 0.0, NEUTRAL)]
    if p.bound_ln is not None:
        shapes += [line("y", sign * p.bound_ln, NEUTRAL, "dash") for sign in (1, -1)]
    low, high = p.shown_residuals
    return figure(
        traces,
        440,
        legend=_legend(440),
        xaxis=_quantity_axis(p.x_name, p.x_unit, p.shown_xs[0] / 1.6, p.shown_xs[1] * 1.6),
        yaxis=axis("ln(measured / predicted)", tickformat=".3~f", range=[low, high]),
        shapes=shapes,
        annotations=named,
    )


def _extrapolation(p: ExtrapolationPicture) -> Figure:
    traces: list[Figure] = []
    for k, one in enumerate(p.lines):
        color = FAMILY_COLORS[k % len(FAMILY_COLORS)]
        if one.lows:
            traces.append(
                band(
                    list(one.xs), list(one.lows), list(one.highs), color,
                    name=f"{p.level * 100:.0f} % interval", showlegend=k == 0,
                )
            )  # fmt: skip
        words = [
            f"<b>{one.name}</b><br>{p.line_name}: {loss:.4g} {p.unit}<br>"
            f"at {quantity_text(x, p.x_unit)} {p.x_unit}"
            for x, loss in zip(one.xs, one.losses, strict=True)
        ]
        traces.append(
            _marks(
                one.xs, one.losses, words, mode="lines", name=one.name,
                line=_stroke(color, 2, _DASHES[k % len(_DASHES)]),
            )
        )  # fmt: skip
    traces.append(
        _marks(
            [run.x for run in p.fitted], [run.loss for run in p.fitted],
            [_run_words(run) for run in p.fitted], name="fitted",
            marker={"color": NEUTRAL, "size": 7, "symbol": "circle"},
        )
    )  # fmt: skip
    held = p.held_out
    if any(run.low is not None for run in held):
        traces.append(
            _marks(
                [run.x for run in held], [run.predicted for run in held],
                [_run_words(run) for run in held],
                name=f"predicted, {p.level * 100:.0f} % interval",
                marker={"color": FAMILY_COLORS[0], "size": 12, "symbol": "line-ew-open",
                        "line": {"width": 2}},
                error_y={
                    "type": "data", "symmetric": False, "color": FAMILY_COLORS[0], "width": 5,
                    "array": [(run.high or run.predicted) - run.predicted for run in held],
                    "arrayminus": [run.predicted - (run.low or run.predicted) for run in held],
                },
            )
        )  # fmt: skip
    traces.append(
        _marks(
            [run.x for run in held], [run.loss for run in held],
            [_run_words(run) for run in held], name="held out, measured",
            marker={"color": ALERT, "size": 10, "symbol": "diamond"},
        )
    )  # fmt: skip
    (low, high), losses = p.shown_xs, p.shown_losses
    shapes, notes = [], []
    ends = [one.box_ends_at for one in p.lines if one.box_ends_at is not None]
    if ends:
        shapes.append(line("x", min(ends), NEUTRAL, "dash"))
        notes.append(_at_line(p.box_words, min(ends), low, high))
    return figure(
        traces,
        520,
        legend=_legend(520),
        xaxis=_quantity_axis(p.x_name, p.x_unit, low / 1.5, high * 1.5),
        yaxis=_loss_axis(p.unit, *losses),
        shapes=shapes,
        annotations=notes,
    )


LAW_FIGURES: dict[type, Callable[[Any], Figure]] = {
    IsoLossPicture: _iso_loss,
    IsoFlopPicture: _iso_flop,
    ResidualPicture: _residuals,
    ExtrapolationPicture: _extrapolation,
}
