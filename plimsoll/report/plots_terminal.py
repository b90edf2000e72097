"""Pictures as text, at most 80 columns: curves here, rows of blocks beside.

Without color, families are told apart by their markers.
"""

import math

from plimsoll.report.laws_terminal import LAW_TEXTS
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
from plimsoll.report.rows_terminal import breakdown_rows, memory_rows, timeline_rows
from plimsoll.report.text_plot import (
    CURVE_COLORS,
    CURVE_SHAPES,
    Axis,
    Curve,
    head,
    linear_axis,
    log_axis,
    plot,
    tail,
    wrap,
)
from plimsoll.report.wording import (
    METRIC_NAMES,
    bound_text,
    count_text,
    gpus_text,
    percent_text,
    plain_text,
    rate_text,
)

__all__ = ["picture_text"]


def _short_time(value_s: float) -> str:
    return f"{value_s * 1e3:g} ms" if value_s < 1 else f"{value_s:g} s"


def _pareto(p: ParetoPicture, width: int, height: int, color: bool) -> list[str]:
    families = list(dict.fromkeys(q.family for q in p.points if q.frontier))
    curves, legend = [], []
    faint = [q for q in p.points if not q.frontier and not q.chosen]
    curves.append(
        Curve(
            xs=[q.tokens_per_s_per_user for q in faint],
            ys=[q.tokens_per_s_per_gpu for q in faint],
            color="gray",
            shape="·",
        )
    )
    for k, family in enumerate(families):
        mine = sorted(
            (q for q in p.points if q.frontier and q.family == family),
            key=lambda q: q.tokens_per_s_per_user,
        )
        xs = [q.tokens_per_s_per_user for q in mine]
        ys = [q.tokens_per_s_per_gpu for q in mine]
        name, shape = CURVE_COLORS[k % len(CURVE_COLORS)], CURVE_SHAPES[k % len(CURVE_SHAPES)]
        curves += [Curve(xs=xs, ys=ys, color=name), Curve(xs=xs, ys=ys, color=name, shape=shape)]
        legend.append(f"{shape} {family}")
    for q in p.points:
        if q.chosen:
            curves.append(
                Curve(
                    xs=[q.tokens_per_s_per_user],
                    ys=[q.tokens_per_s_per_gpu],
                    color="alert",
                    shape="★",
                )
            )
            legend.append(f"★ chosen: {q.label}, {gpus_text(q.num_gpus)}")
    if faint:
        legend.append("· dominated")
    lines = []
    if p.min_tokens_per_s_per_user is not None:
        lines.append((p.min_tokens_per_s_per_user, "green"))
        legend.append(
            f"│ mean TPOT within its bound right of {plain_text(p.min_tokens_per_s_per_user)}"
        )
    x_high = max([q.tokens_per_s_per_user for q in p.points] + [v for v, _ in lines] + [1e-9])
    y_high = max([q.tokens_per_s_per_gpu for q in p.points] + [1e-9])
    body = plot(
        curves,
        linear_axis(x_high * 1.02),
        linear_axis(y_high * 1.02),
        width=width,
        height=height,
        color=color,
        vertical=lines,
    )
    return [
        *head(p, "output tokens/s/GPU"),
        *body,
        f"{'output tokens/s/user':>{width}}",
        *wrap(legend, width),
        *tail(p, width),
    ]


def _cdf(p: CdfPicture, width: int, height: int, color: bool) -> list[str]:
    values = [v for s in p.series for v in s.values_s if v > 0]
    if p.bound_s is not None:
        values.append(p.bound_s)
    if not values:
        return [*head(p, "no sample"), *tail(p, width)]
    axis = log_axis(min(values), max(values), _short_time)
    curves, legend = [], []
    for k, s in enumerate(p.series):
        pairs = [(math.log10(v), f) for v, f in zip(s.values_s, s.fractions, strict=True) if v > 0]
        name = CURVE_COLORS[k % len(CURVE_COLORS)]
        xs, ys = [a for a, _ in pairs], [b * 100 for _, b in pairs]
        if len(xs) > 1:
            curves.append(Curve(xs=xs, ys=ys, color=name))
        marks = slice(len(xs) // 8, None, max(len(xs) // 5, 1))
        shape = CURVE_SHAPES[k % len(CURVE_SHAPES)]
        curves.append(Curve(xs=xs[marks], ys=ys[marks], color=name, shape=shape))
        within = "" if s.within_fraction is None else f", {percent_text(s.within_fraction)} within"
        legend.append(f"{shape} {s.name} (n = {count_text(s.num_samples)}{within})")
    lines = []
    if p.bound_s is not None:
        lines.append((math.log10(p.bound_s), "green"))
        legend.append(f"│ SLO {bound_text(p.bound_s)}")
    ticks = [(v, f"{v:g} %") for v in (0, 25, 50, 75, 100)]
    body = plot(
        curves,
        axis,
        Axis(low=0, high=100, ticks=ticks),
        width=width,
        height=height,
        color=color,
        vertical=lines,
    )
    of = "deliveries" if p.metric == "itl" else "requests"
    return [
        *head(p, f"{of} at or below"),
        *body,
        f"{METRIC_NAMES[p.metric]:>{width}}",
        *wrap(legend, width),
        *tail(p, width),
    ]


def _load_curve(p: LoadCurvePicture, width: int, height: int, color: bool) -> list[str]:
    if not p.points:
        return [*head(p, "no load was tried"), *tail(p, width)]
    rates = [q.request_rate_per_s for q in p.points]
    x = linear_axis(max(rates) * 1.02)
    knee = [(p.knee_rate_per_s, "green")] if p.knee_rate_per_s is not None else []
    good = [q.goodput_requests_per_s for q in p.points]
    y = linear_axis(max(s.high for s in good) * 1.05 or 1.0)
    lows, highs = [s.low for s in good], [s.high for s in good]
    curves = [
        Curve(xs=rates, ys=[s.mean for s in good], color="blue"),
        Curve(xs=rates * 2, ys=lows + highs, color="blue", shape="-"),
        Curve(xs=rates, ys=[s.mean for s in good], color="blue", shape="o"),
    ]
    half = max(height // 2 + 1, 8)
    top = plot(curves, x, y, width=width, height=half, color=color, vertical=knee)
    late = [(q.request_rate_per_s, q.latency_s) for q in p.points if q.latency_s is not None]
    bottom: list[str] = []
    if late:
        values = [v for _, s in late for v in (s.low, s.high) if v > 0]
        axis = log_axis(min(values), max([*values, p.bound_s or 0]), _short_time)
        at = [r for r, _ in late]
        means, lows, highs = (
            [math.log10(max(getattr(s, name), 1e-9)) for _, s in late]
            for name in ("mean", "low", "high")
        )
        curves = [
            Curve(xs=at, ys=means, color="vermillion"),
            Curve(xs=at * 2, ys=lows + highs, color="vermillion", shape="-"),
            Curve(xs=at, ys=means, color="vermillion", shape="x"),
        ]
        if p.bound_s is not None:
            level = math.log10(p.bound_s)
            curves.append(Curve(xs=[x.low, x.high], ys=[level, level], color="green"))
        bottom = plot(curves, x, axis, width=width, height=half, color=color, vertical=knee)
    legend = [f"- least and most of {p.num_seeds} seeds"] if p.num_seeds > 1 else ["one seed"]
    if p.knee_rate_per_s is not None:
        legend.append(f"│ knee at {plain_text(p.knee_rate_per_s)} req/s")
    if p.bound_s is not None:
        legend.append(f"level line: SLO {bound_text(p.bound_s)}")
    return [
        *head(p, "goodput, req/s"),
        *top,
        p.latency_name,
        *bottom,
        f"{'offered req/s':>{width}}",
        *wrap(legend, width),
        *tail(p, width),
    ]


def _roofline(p: RooflinePicture, width: int, height: int, color: bool) -> list[str]:
    peak = max((v for _, v in p.peaks), default=1.0)
    xs = [d.flops_per_byte for d in p.dots] or [1.0]
    ys = [d.flops_per_s for d in p.dots] or [peak]
    ridge = peak / p.memory_bytes_per_s
    x = log_axis(min([*xs, ridge / 10]), max([*xs, ridge * 4]), lambda t: f"{t:,.4g}")
    y = log_axis(min([*ys, peak / 100]), peak, lambda t: f"{t / 1e12:,.4g}")
    curves, legend = [], []
    for dtype, top in p.peaks:
        knee = math.log10(top / p.memory_bytes_per_s)
        low_x, high_x = x.low, x.high
        slope = math.log10(p.memory_bytes_per_s)
        start = max(low_x, y.low - slope)
        curves.append(
            Curve(
                xs=[start, knee, high_x],
                ys=[start + slope, math.log10(top), math.log10(top)],
                color="gray",
            )
        )
        legend.append(f"roof: {dtype} {rate_text(top / 1e12, 'TFLOP/s')}")
    for phase, shape, name in (("prefill", "x", "vermillion"), ("decode", "o", "blue")):
        dots = [d for d in p.dots if d.phase == phase]
        curves.append(
            Curve(
                xs=[math.log10(d.flops_per_byte) for d in dots],
                ys=[math.log10(d.flops_per_s) for d in dots],
                color=name,
                shape=shape,
            )
        )
        bound = sorted({d.bound for d in dots})
        if dots:
            legend.append(f"{shape} {phase} ({len(dots)} operators, bound by {', '.join(bound)})")
    body = plot(curves, x, y, width=width, height=height, color=color)
    where = f"{p.device}, {rate_text(p.memory_bytes_per_s / 1e12, 'TB/s')}"
    return [
        *head(p, f"TFLOP/s on {where}"),
        *body,
        f"{'FLOPs/byte':>{width}}",
        *wrap(legend, width),
        *tail(p, width),
    ]


_DRAW = {
    ParetoPicture: _pareto,
    CdfPicture: _cdf,
    LoadCurvePicture: _load_curve,
    RequestTimeline: timeline_rows,
    MemoryWaterfall: memory_rows,
    RooflinePicture: _roofline,
    TimeBreakdown: breakdown_rows,
    **LAW_TEXTS,
}


def picture_text(
    picture: Picture, *, width: int = 78, height: int = 18, color: bool = False
) -> str:
    """A picture in at most ``width`` columns; ANSI colors only if ``color``."""
    draw = _DRAW[type(picture)]
    return "\n".join(draw(picture, width, height, color))  # type: ignore[operator]
