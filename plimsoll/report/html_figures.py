"""Pictures as Plotly figures: plain dicts of traces and layout, no Plotly objects.

Colors of text, grid and background are left to the page, which sets them for light or dark.
"""

import math
from typing import Any

from plimsoll.report.html_axes import (
    ALERT,
    LIMIT,
    NEUTRAL,
    Figure,
    axis,
    band,
    figure,
    line,
    note,
    seconds_axis,
)
from plimsoll.report.html_bars import breakdown, memory, timeline
from plimsoll.report.html_laws import LAW_FIGURES
from plimsoll.report.pictures import (
    CdfPicture,
    LoadCurvePicture,
    MemoryWaterfall,
    ParetoPicture,
    Picture,
    RequestTimeline,
    RooflinePicture,
    TimeBreakdown,
)
from plimsoll.report.wording import (
    FAMILY_COLORS,
    METRIC_NAMES,
    PHASE_COLORS,
    bound_text,
    count_text,
    percent_text,
    plain_text,
    rate_text,
    seconds_text,
    ticks_1_2_5,
)

__all__ = ["plotly_figure"]

_SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x")
_DASHES = ("solid", "dash", "dashdot", "dot")


def _pareto(p: ParetoPicture) -> Figure:
    def trace(points: list[Any], **style: Any) -> Figure:
        return {
            "type": "scatter",
            "x": [q.tokens_per_s_per_user for q in points],
            "y": [q.tokens_per_s_per_gpu for q in points],
            "customdata": [
                [q.label, q.num_gpus, "meets the SLO" if q.meets_slo else "misses the SLO"]
                for q in points
            ],
            "hovertemplate": "<b>%{customdata[0]}</b><br>%{customdata[1]} GPUs<br>"
            "%{x:.4s} tokens/s/user<br>%{y:.4s} tokens/s/GPU<br>%{customdata[2]}<extra></extra>",
            **style,
        }

    faint = [q for q in p.points if not q.frontier and not q.chosen]
    traces = []
    if faint:
        traces.append(
            trace(
                faint,
                mode="markers",
                name="dominated",
                marker={"color": NEUTRAL, "size": 6, "opacity": 0.45},
            )
        )
    families = list(dict.fromkeys(q.family for q in p.points if q.frontier))
    for k, family in enumerate(families):
        mine = [q for q in p.points if q.frontier and q.family == family]
        color = FAMILY_COLORS[k % len(FAMILY_COLORS)]
        traces.append(
            trace(
                sorted(mine, key=lambda q: q.tokens_per_s_per_user),
                mode="lines+markers",
                name=family,
                line={"color": color, "width": 2},
                marker={"color": color, "size": 8, "symbol": _SYMBOLS[k % len(_SYMBOLS)]},
            )
        )
    chosen = [q for q in p.points if q.chosen]
    if chosen:
        star = {
            "color": ALERT,
            "size": 18,
            "symbol": "star",
            "line": {"color": "white", "width": 1},
        }
        traces.append(trace(chosen, mode="markers", name=f"chosen: {chosen[0].label}", marker=star))
    limit = p.min_tokens_per_s_per_user
    right = max([q.tokens_per_s_per_user for q in p.points] + [limit or 0.0, 1e-9]) * 1.05
    top = max([q.tokens_per_s_per_gpu for q in p.points] + [1e-9]) * 1.08
    shapes, notes = [], []
    if limit is not None:
        region = {
            "type": "rect", "xref": "x", "yref": "paper",
            "x0": limit, "x1": right, "y0": 0, "y1": 1,
            "fillcolor": LIMIT, "opacity": 0.12, "line": {"width": 0}, "layer": "below",
        }  # fmt: skip
        shapes = [region, line("x", limit, LIMIT)]
        text = f" SLO: {plain_text(limit)} tokens/s/user or more"
        notes = [note(text, limit, 0.99, yref="paper", xanchor="left", yanchor="top")]
    return figure(
        traces,
        440,
        xaxis=axis("output tokens/s/user", range=[0, right]),
        yaxis=axis("output tokens/s/GPU", range=[0, top]),
        shapes=shapes,
        annotations=notes,
    )


def _cdf(p: CdfPicture) -> Figure:
    traces = []
    for k, s in enumerate(p.series):
        within = "" if s.within_fraction is None else f", {percent_text(s.within_fraction)} within"
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": f"{s.name} (n = {count_text(s.num_samples)}{within})",
                "x": list(s.values_s),
                "y": [f * 100 for f in s.fractions],
                "text": [seconds_text(v) for v in s.values_s],
                "hovertemplate": "%{y:.4g} % at or below %{text}<extra></extra>",
                "line": {
                    "color": FAMILY_COLORS[k % len(FAMILY_COLORS)],
                    "dash": _DASHES[k % len(_DASHES)],
                    "shape": "hv",
                    "width": 2,
                },
            }
        )
    values = [v for s in p.series for v in s.values_s if v > 0]
    values += [p.bound_s] if p.bound_s is not None else []
    of = "deliveries" if p.metric == "itl" else "requests"
    shapes, notes = [], []
    if p.bound_s is not None:
        shapes = [line("x", p.bound_s, LIMIT)]
        at = math.log10(p.bound_s)  # annotations on a log axis are placed by exponent
        text = f" SLO {bound_text(p.bound_s)}"
        notes = [note(text, at, 0.02, yref="paper", xanchor="left", yanchor="bottom")]
    return figure(
        traces,
        400,
        xaxis=seconds_axis(
            f"{METRIC_NAMES[p.metric]} (log scale)", min(values, default=1), max(values, default=1)
        ),
        yaxis=axis(f"{of} at or below (%)", range=[0, 101]),
        shapes=shapes,
        annotations=notes,
    )


def _load_curve(p: LoadCurvePicture) -> Figure:
    rates = [q.request_rate_per_s for q in p.points]
    good = [q.goodput_requests_per_s for q in p.points]
    blue, orange = FAMILY_COLORS[0], FAMILY_COLORS[1]
    traces = [
        band(
            rates,
            [s.low for s in good],
            [s.high for s in good],
            blue,
            name=f"least and most of {p.num_seeds} seeds",
            showlegend=p.num_seeds > 1,
        ),
        {
            "type": "scatter", "mode": "lines+markers", "name": "goodput", "x": rates,
            "y": [s.mean for s in good], "line": {"color": blue}, "marker": {"symbol": "circle"},
            "hovertemplate": "%{y:.4g} good of %{x:.4g} req/s<extra></extra>",
        },
    ]  # fmt: skip
    late = [(q.request_rate_per_s, q.latency_s) for q in p.points if q.latency_s is not None]
    values = [v for _, s in late for v in (s.low, s.high) if v > 0]
    values += [p.bound_s] if p.bound_s is not None else []
    at = [r for r, _ in late]
    if late:
        traces += [
            band(
                at, [s.low for _, s in late], [s.high for _, s in late], orange,
                yaxis="y2", showlegend=False,
            ),
            {
                "type": "scatter", "mode": "lines+markers", "name": p.latency_name, "x": at,
                "y": [s.mean for _, s in late], "line": {"color": orange},
                "marker": {"symbol": "square"}, "yaxis": "y2",
                "text": [seconds_text(s.mean) for _, s in late],
                "hovertemplate": "%{text} at %{x:.4g} req/s<extra></extra>",
            },
        ]  # fmt: skip
    shapes, notes = [], []
    if p.knee_rate_per_s is not None:
        shapes.append(line("x", p.knee_rate_per_s, NEUTRAL, "dash"))
        text = f" knee: {plain_text(p.knee_rate_per_s)} req/s"
        notes.append(note(text, p.knee_rate_per_s, 1, yref="paper", xanchor="left"))
    if p.bound_s is not None:
        shapes.append(line("y", p.bound_s, LIMIT, yref="y2"))
        text = f"SLO {bound_text(p.bound_s)}"
        where = {"xref": "paper", "yref": "y2", "xanchor": "right", "yanchor": "bottom"}
        notes.append(note(text, 1, math.log10(p.bound_s), **where))
    return figure(
        traces,
        520,
        legend={"orientation": "h", "y": -0.14, "yanchor": "top", "x": 0},
        xaxis=axis("offered load (req/s)", anchor="y2"),
        yaxis=axis("goodput (req/s)", domain=[0.55, 1], rangemode="tozero"),
        yaxis2=seconds_axis(
            f"{p.latency_name} (log scale)",
            min(values, default=1),
            max(values, default=1),
            domain=[0, 0.45],
        ),
        shapes=shapes,
        annotations=notes,
    )


def _roofline(p: RooflinePicture) -> Figure:
    peak = max((v for _, v in p.peaks), default=1.0)
    xs = [d.flops_per_byte for d in p.dots] + [peak / p.memory_bytes_per_s]
    low, high = min(xs) / 2, max(xs) * 3
    traces = []
    for k, (dtype, top) in enumerate(p.peaks):
        ridge = top / p.memory_bytes_per_s
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": f"{p.device} {dtype}: {rate_text(top / 1e12, 'TFLOP/s')} dense",
                "x": [low, ridge, max(high, ridge * 1.5)],
                "y": [low * p.memory_bytes_per_s / 1e12, top / 1e12, top / 1e12],
                "line": {"color": NEUTRAL, "dash": _DASHES[k % len(_DASHES)], "width": 2},
                "hoverinfo": "skip",
            }
        )
    for phase, symbol in (("prefill", "square"), ("decode", "circle")):
        dots = [d for d in p.dots if d.phase == phase]
        if not dots:
            continue
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": phase,
                "x": [d.flops_per_byte for d in dots],
                "y": [d.flops_per_s / 1e12 for d in dots],
                "customdata": [[d.name, d.bound] for d in dots],
                "hovertemplate": "<b>%{customdata[0]}</b>, " + phase + "<br>%{y:.4s} TFLOP/s at "
                "%{x:.4s} FLOPs/byte<br>bound by %{customdata[1]}<extra></extra>",
                "marker": {"color": PHASE_COLORS[phase], "symbol": symbol, "size": 10},
            }
        )
    ticks = ticks_1_2_5(low, max(high, peak / p.memory_bytes_per_s * 1.5))
    return figure(
        traces,
        420,
        xaxis=axis(
            "arithmetic intensity (FLOPs/byte)",
            type="log",
            tickvals=ticks,
            ticktext=[f"{t:,.10g}" for t in ticks],
        ),
        yaxis=axis("speed (TFLOP/s)", type="log", dtick=1, tickformat=",~r"),
    )


_DRAW = {
    ParetoPicture: _pareto,
    CdfPicture: _cdf,
    LoadCurvePicture: _load_curve,
    RequestTimeline: timeline,
    MemoryWaterfall: memory,
    RooflinePicture: _roofline,
    TimeBreakdown: breakdown,
    **LAW_FIGURES,
}


def plotly_figure(picture: Picture) -> Figure:
    """A picture as ``{"data": [...], "layout": {...}}``."""
    made: Figure = _DRAW[type(picture)](picture)  # type: ignore[operator]
    return made
