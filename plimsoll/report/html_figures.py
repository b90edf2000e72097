"""Pictures as Plotly figures: plain dicts of traces and layout, no Plotly objects.

Colors of text, grid and background are left to the page, which sets them for light or dark.
A trace carries ``meta`` "late" or "all" where the page can filter by it.
"""

import math
from typing import Any

from plimsoll.report.pictures import (
    BreakdownBar,
    CdfPicture,
    LoadCurvePicture,
    MemoryWaterfall,
    ParetoPicture,
    Picture,
    RequestTimeline,
    RooflinePicture,
    TimeBreakdown,
    TimelineRow,
)
from plimsoll.report.wording import (
    FAMILY_COLORS,
    METRIC_NAMES,
    PART_COLORS,
    PHASE_COLORS,
    bound_text,
    count_text,
    percent_text,
    plain_text,
    rate_text,
    seconds_text,
    ticks_1_2_5,
)
from plimsoll.spec.units import format_bytes

__all__ = ["plotly_figure"]

_GIB = 2.0**30
_LIMIT, _NEUTRAL, _ALERT = "#009E73", "#808080", "#D55E00"
_SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x")
_DASHES = ("solid", "dash", "dashdot", "dot")
_PATTERNS = ("", "/", ".", "x", "\\", "+", "-")

Figure = dict[str, Any]


def _axis(title: str, **more: Any) -> dict[str, Any]:
    return {"title": {"text": title}, "automargin": True, "zeroline": False, **more}


def _seconds_axis(title: str, low: float, high: float, **more: Any) -> dict[str, Any]:
    """Logarithmic, with ticks in ms and s."""
    ticks = ticks_1_2_5(low / 1.5, high * 1.5)
    return _axis(title, type="log", tickvals=ticks, ticktext=[bound_text(t) for t in ticks], **more)


def _figure(traces: list[Figure], height: int, **layout: Any) -> Figure:
    base = {
        "height": height,
        "margin": {"l": 60, "r": 20, "t": 40, "b": 50},
        "legend": {"orientation": "h", "y": -0.22, "yanchor": "top", "x": 0},
        "hovermode": "closest",
    }
    return {"data": traces, "layout": {**base, **layout}}


def _line(axis: str, value: float, color: str, dash: str = "solid", **where: Any) -> Figure:
    other = "y" if axis == "x" else "x"
    ends = {f"{axis}0": value, f"{axis}1": value, f"{other}0": 0, f"{other}1": 1}
    return {
        "type": "line",
        f"{axis}ref": axis,
        f"{other}ref": "paper",
        "line": {"color": color, "width": 1.5, "dash": dash},
        **ends,
        **where,
    }


def _note(text: str, x: float, y: float, **more: Any) -> Figure:
    return {"text": text, "x": x, "y": y, "showarrow": False, "font": {"size": 12}, **more}


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
                marker={"color": _NEUTRAL, "size": 6, "opacity": 0.45},
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
            "color": _ALERT,
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
            "fillcolor": _LIMIT, "opacity": 0.12, "line": {"width": 0}, "layer": "below",
        }  # fmt: skip
        shapes = [region, _line("x", limit, _LIMIT)]
        text = f" SLO: {plain_text(limit)} tokens/s/user or more"
        notes = [_note(text, limit, 0.99, yref="paper", xanchor="left", yanchor="top")]
    return _figure(
        traces,
        440,
        xaxis=_axis("output tokens/s/user", range=[0, right]),
        yaxis=_axis("output tokens/s/GPU", range=[0, top]),
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
        shapes = [_line("x", p.bound_s, _LIMIT)]
        at = math.log10(p.bound_s)  # annotations on a log axis are placed by exponent
        text = f" SLO {bound_text(p.bound_s)}"
        notes = [_note(text, at, 0.02, yref="paper", xanchor="left", yanchor="bottom")]
    return _figure(
        traces,
        400,
        xaxis=_seconds_axis(
            f"{METRIC_NAMES[p.metric]} (log scale)", min(values, default=1), max(values, default=1)
        ),
        yaxis=_axis(f"{of} at or below (%)", range=[0, 101]),
        shapes=shapes,
        annotations=notes,
    )


def _band(xs: list[float], low: list[float], high: list[float], color: str, **more: Any) -> Figure:
    return {
        "type": "scatter",
        "x": xs + xs[::-1],
        "y": high + low[::-1],
        "fill": "toself",
        "fillcolor": color,
        "opacity": 0.25,
        "line": {"width": 0},
        "mode": "lines",
        "hoverinfo": "skip",
        **more,
    }


def _load_curve(p: LoadCurvePicture) -> Figure:
    rates = [q.request_rate_per_s for q in p.points]
    good = [q.goodput_requests_per_s for q in p.points]
    blue, orange = FAMILY_COLORS[0], FAMILY_COLORS[1]
    traces = [
        _band(
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
            _band(
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
        shapes.append(_line("x", p.knee_rate_per_s, _NEUTRAL, "dash"))
        text = f" knee: {plain_text(p.knee_rate_per_s)} req/s"
        notes.append(_note(text, p.knee_rate_per_s, 1, yref="paper", xanchor="left"))
    if p.bound_s is not None:
        shapes.append(_line("y", p.bound_s, _LIMIT, yref="y2"))
        text = f"SLO {bound_text(p.bound_s)}"
        where = {"xref": "paper", "yref": "y2", "xanchor": "right", "yanchor": "bottom"}
        notes.append(_note(text, 1, math.log10(p.bound_s), **where))
    return _figure(
        traces,
        520,
        legend={"orientation": "h", "y": -0.14, "yanchor": "top", "x": 0},
        xaxis=_axis("offered load (req/s)", anchor="y2"),
        yaxis=_axis("goodput (req/s)", domain=[0.55, 1], rangemode="tozero"),
        yaxis2=_seconds_axis(
            f"{p.latency_name} (log scale)",
            min(values, default=1),
            max(values, default=1),
            domain=[0, 0.45],
        ),
        shapes=shapes,
        annotations=notes,
    )


def _timeline(p: RequestTimeline) -> Figure:
    def traces(rows: list[TimelineRow], group: str, visible: bool) -> list[Figure]:
        made = []
        names = [str(r.request_id) for r in rows]
        for kind, color in PHASE_COLORS.items():
            spans = [(n, r, s) for n, r in zip(names, rows, strict=True) for s in r.spans]
            spans = [(n, r, s) for n, r, s in spans if s.kind == kind]
            made.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "name": kind,
                    "meta": group,
                    "visible": visible,
                    "y": [n for n, _, _ in spans],
                    "x": [s.end_s - s.start_s for _, _, s in spans],
                    "base": [s.start_s for _, _, s in spans],
                    "customdata": [
                        [seconds_text(s.end_s - s.start_s), seconds_text(r.tpot_s)]
                        for _, r, s in spans
                    ],
                    "hovertemplate": f"request %{{y}}: {kind} for %{{customdata[0]}}"
                    "<br>TPOT %{customdata[1]}<extra></extra>",
                    "marker": {
                        "color": color,
                        "line": {"width": 0},
                        "pattern": {"shape": "/" if kind == "preempted" else ""},
                    },
                }
            )
        late = [r for r in rows if r.late and r.spans]
        made.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "late",
                "meta": group,
                "visible": visible,
                "x": [r.spans[-1].end_s for r in late],
                "y": [str(r.request_id) for r in late],
                "marker": {"symbol": "x", "size": 7, "color": _ALERT},
                "hovertemplate": "request %{y} missed a target<extra></extra>",
            }
        )
        return made

    rows = list(p.rows)
    both = traces(rows, "all", True) + traces([r for r in rows if r.late], "late", False)
    return _figure(
        both,
        max(300, min(40 + 9 * len(rows), 900)),
        barmode="overlay",
        bargap=0.15,
        xaxis=_axis("time since the run began (s)"),
        yaxis=_axis("request", type="category", autorange="reversed"),
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )


def _memory(p: MemoryWaterfall) -> Figure:
    before, bases = 0.0, []
    for part in p.parts:
        bases.append(before)
        before += part.size_bytes / _GIB
    sizes = [part.size_bytes / _GIB for part in p.parts]
    over = p.used_bytes > p.limit_bytes
    limit, capacity = p.limit_bytes / _GIB, p.capacity_bytes / _GIB
    trace = {
        "type": "bar",
        "orientation": "h",
        "y": [f"{part.name}<br>{format_bytes(part.size_bytes)}" for part in p.parts],
        "x": sizes,
        "base": bases,
        "customdata": [[part.origin.value] for part in p.parts],
        "hovertemplate": "%{y} (%{customdata[0]})<extra></extra>",
        "marker": {"color": [FAMILY_COLORS[k % len(FAMILY_COLORS)] for k in range(len(sizes))]},
        "showlegend": False,
    }
    color = _ALERT if over else _LIMIT
    where = {"yref": "paper", "yanchor": "bottom"}
    return _figure(
        [trace],
        120 + 44 * len(sizes),
        margin={"l": 60, "r": 20, "t": 56, "b": 50},
        xaxis=_axis("memory of one GPU (GiB)", range=[0, max(capacity, before) * 1.16]),
        yaxis=_axis("", autorange="reversed"),
        shapes=[_line("x", limit, color), _line("x", capacity, _NEUTRAL, "dash")],
        annotations=[
            _note(f"limit {limit:,.1f} GiB ", limit, 1, xanchor="right", **where),
            _note(f" capacity {capacity:,.1f} GiB", capacity, 1, xanchor="left", **where),
        ],
    )  # fmt: skip


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
                "line": {"color": _NEUTRAL, "dash": _DASHES[k % len(_DASHES)], "width": 2},
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
    return _figure(
        traces,
        420,
        xaxis=_axis(
            "arithmetic intensity (FLOPs/byte)",
            type="log",
            tickvals=ticks,
            ticktext=[f"{t:,.10g}" for t in ticks],
        ),
        yaxis=_axis("speed (TFLOP/s)", type="log", dtick=1, tickformat=",~r"),
    )


def _bar_label(bar: BreakdownBar) -> str:
    return f"{bar.name}<br>{seconds_text(bar.total_s)}"


def _breakdown(p: TimeBreakdown) -> Figure:
    names = list(dict.fromkeys(part.name for bar in p.bars for part in bar.parts))
    keys = {(part.name, part.kind) for bar in p.bars for part in bar.parts}
    traces = []
    for name, kind in sorted(keys, key=lambda key: (names.index(key[0]), key[1])):
        found = [
            (bar, part)
            for bar in p.bars
            for part in bar.parts
            if (part.name, part.kind) == (name, kind)
        ]
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": f"{name} ({kind})",
                "y": [_bar_label(bar) for bar, _ in found],
                "x": [part.seconds / (bar.total_s or 1.0) * 100 for bar, part in found],
                "customdata": [
                    [
                        seconds_text(part.seconds),
                        seconds_text(part.bound_s),
                        seconds_text(part.hidden_s),
                    ]
                    for _, part in found
                ],
                "hovertemplate": f"<b>{name}</b> %{{x:.3g}} % of the step<br>%{{customdata[0]}} "
                "exposed, %{customdata[2]} hidden<br>bound: %{customdata[1]}<extra></extra>",
                "texttemplate": "<b>%{x:.0f} %</b>",
                "textfont": {"color": "white"},
                "textposition": "inside",
                "insidetextanchor": "middle",
                "textangle": 0,
                "marker": {
                    "color": PART_COLORS[kind],
                    "pattern": {
                        "shape": _PATTERNS[names.index(name) % len(_PATTERNS)],
                        "fillmode": "overlay",
                        "fgcolor": "white",
                        "fgopacity": 0.4,
                        "size": 7,
                        "solidity": 0.2,
                    },
                    "line": {"color": "white", "width": 1},
                },
            }
        )
    rows = -(-len(keys) // 3)
    return _figure(
        traces,
        120 + 22 * rows + 80 * len(p.bars),
        margin={"l": 60, "r": 20, "t": 40, "b": 60 + 22 * rows},
        barmode="stack",
        bargap=0.35,
        uniformtext={"minsize": 10, "mode": "hide"},
        xaxis=_axis("share of the step (%)", range=[0, 100]),
        yaxis=_axis(
            "",
            autorange="reversed",
            categoryorder="array",
            categoryarray=[_bar_label(bar) for bar in p.bars],
        ),
        legend={"orientation": "h", "yref": "container", "y": 0.01, "yanchor": "bottom", "x": 0},
    )


_DRAW = {
    ParetoPicture: _pareto,
    CdfPicture: _cdf,
    LoadCurvePicture: _load_curve,
    RequestTimeline: _timeline,
    MemoryWaterfall: _memory,
    RooflinePicture: _roofline,
    TimeBreakdown: _breakdown,
}


def plotly_figure(picture: Picture) -> Figure:
    """A picture as ``{"data": [...], "layout": {...}}``."""
    return _DRAW[type(picture)](picture)  # type: ignore[operator]
