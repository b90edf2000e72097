"""Pictures as text: braille curves by plotext, rows of blocks for timelines and shares.

A curve's own legend and ticks are drawn here, outside the plot, so that no data is covered.
Without color, families are told apart by their markers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

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
    METRIC_NAMES,
    bound_text,
    count_text,
    percent_text,
    rate_text,
    seconds_text,
    ticks_1_2_5,
)
from plimsoll.spec.units import format_bytes

__all__ = ["picture_text"]

_COLORS = ("blue", "orange", "green", "magenta", "cyan", "yellow", "white")
_SHAPES = ("o", "x", "+", "#", "@", "%", "=")
_GLYPHS = {"queue": "·", "prefill": "▓", "decode": "━", "preempted": "░"}
_SGR = {"queue": "90", "prefill": "33", "decode": "34", "preempted": "35", "late": "31;1"}
_SGR |= {"compute": "34", "memory": "32", "collective": "33", "host": "35"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Curve:
    """Points to draw: joined by a braille line, or one ``shape`` each."""

    xs: Sequence[float]
    ys: Sequence[float]
    color: str
    shape: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Axis:
    """Limits in drawing units, and ticks as (position, label)."""

    low: float
    high: float
    ticks: Sequence[tuple[float, str]]


def _paint(text: str, kind: str, color: bool) -> str:
    return f"\x1b[{_SGR[kind]}m{text}\x1b[0m" if color and text.strip() else text


def _plot(
    curves: Sequence[_Curve],
    x: _Axis,
    y: _Axis,
    *,
    width: int,
    height: int,
    color: bool,
    vertical: Sequence[tuple[float, str]] = (),
) -> list[str]:
    """Lines of text: the curves in a frame. ``vertical`` holds (position, color) lines."""
    import plotext

    figure = plotext.figure
    figure.clear()
    figure.theme("colorless")
    figure.canvas("default")
    figure.plot_size(width, height)
    figure.legend(False)
    for position, name in vertical:
        if x.low <= position <= x.high:
            figure.line(position, "vertical", pixel=plotext.pixel(foreground=name))
    for curve in curves:
        if not len(curve.xs):
            continue
        marker = plotext.marker(
            curve.shape or "braille", pixel=plotext.pixel(foreground=curve.color)
        )
        signal = figure.signal(list(curve.xs), list(curve.ys), marker=marker)
        figure.draw(signal.lines(not curve.shape and len(curve.xs) > 1))
    for name, axis in (("x", x), ("y", y)):
        ruler = figure.ruler(name)
        ruler.lim(axis.low, axis.high)
        ruler.ticks([t for t, _ in axis.ticks], [label for _, label in axis.ticks])
    text: str = figure.build().string(colorless=not color)
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def _linear_axis(high: float, *, low: float = 0.0, unit_digits: int = 3) -> _Axis:
    """From ``low`` to a round number above ``high``, with up to five ticks."""
    span = max(high - low, 1e-12)
    raw = span / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
    count = math.ceil(span / step - 1e-9)
    ticks = [low + k * step for k in range(count + 1)]
    return _Axis(
        low=low,
        high=ticks[-1],
        ticks=[(t, f"{t:,.{unit_digits}g}" if t < 1000 else f"{t:,.0f}") for t in ticks],
    )


def _log_axis(low: float, high: float, label: object) -> _Axis:
    """Positions are log10; ``label`` turns a tick's value into text."""
    low, high = low / 1.1, high * 1.1
    if high / low < 3:
        low, high = low / 1.5, high * 1.5
    ticks = ticks_1_2_5(low, high)
    return _Axis(
        low=math.log10(low),
        high=math.log10(high),
        ticks=[(math.log10(t), label(t)) for t in ticks],  # type: ignore[operator]
    )


def _short_ms(value_s: float) -> str:
    return f"{value_s * 1e3:g} ms" if value_s < 1 else f"{value_s:g} s"


def _head(picture: Picture, *lines: str) -> list[str]:
    return [picture.title, *lines]


def _tail(picture: Picture) -> list[str]:
    origin = getattr(picture, "origin", None)
    notes = [*picture.notes, *([origin.value] if origin is not None else [])]
    return [f"({'; '.join(notes)})"] if notes else []


def _pareto(p: ParetoPicture, width: int, height: int, color: bool) -> list[str]:
    families = list(dict.fromkeys(q.family for q in p.points if q.frontier))
    curves, legend = [], []
    faint = [q for q in p.points if not q.frontier and not q.chosen]
    curves.append(
        _Curve(
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
        name, shape = _COLORS[k % len(_COLORS)], _SHAPES[k % len(_SHAPES)]
        curves += [_Curve(xs=xs, ys=ys, color=name), _Curve(xs=xs, ys=ys, color=name, shape=shape)]
        legend.append(f"{shape} {family}")
    for q in p.points:
        if q.chosen:
            curves.append(
                _Curve(
                    xs=[q.tokens_per_s_per_user],
                    ys=[q.tokens_per_s_per_gpu],
                    color="red",
                    shape="★",
                )
            )
            legend.append(f"★ chosen: {q.label}, {count_text(q.num_gpus)} GPUs")
    if faint:
        legend.append("· dominated")
    lines = []
    if p.min_tokens_per_s_per_user is not None:
        lines.append((p.min_tokens_per_s_per_user, "green"))
        legend.append(f"│ SLO holds right of {rate_text(p.min_tokens_per_s_per_user, '')}")
    x_high = max([q.tokens_per_s_per_user for q in p.points] + [v for v, _ in lines] + [1e-9])
    y_high = max([q.tokens_per_s_per_gpu for q in p.points] + [1e-9])
    body = _plot(
        curves,
        _linear_axis(x_high * 1.02),
        _linear_axis(y_high * 1.02),
        width=width,
        height=height,
        color=color,
        vertical=lines,
    )
    return [
        *_head(p, "output tokens/s/GPU"),
        *body,
        f"{'output tokens/s/user':>{width}}",
        *_wrap(legend, width),
        *_tail(p),
    ]


def _cdf(p: CdfPicture, width: int, height: int, color: bool) -> list[str]:
    values = [v for s in p.series for v in s.values_s if v > 0]
    if p.bound_s is not None:
        values.append(p.bound_s)
    if not values:
        return [*_head(p, "no sample"), *_tail(p)]
    axis = _log_axis(min(values), max(values), _short_ms)
    curves, legend = [], []
    for k, s in enumerate(p.series):
        pairs = [(math.log10(v), f) for v, f in zip(s.values_s, s.fractions, strict=True) if v > 0]
        name = _COLORS[k % len(_COLORS)]
        xs, ys = [a for a, _ in pairs], [b * 100 for _, b in pairs]
        if len(xs) > 1:
            curves.append(_Curve(xs=xs, ys=ys, color=name))
        marks = slice(len(xs) // 8, None, max(len(xs) // 5, 1))
        shape = _SHAPES[k % len(_SHAPES)]
        curves.append(_Curve(xs=xs[marks], ys=ys[marks], color=name, shape=shape))
        within = "" if s.within_fraction is None else f", {percent_text(s.within_fraction)} within"
        legend.append(f"{shape} {s.name} (n = {count_text(s.num_samples)}{within})")
    lines = []
    if p.bound_s is not None:
        lines.append((math.log10(p.bound_s), "green"))
        legend.append(f"│ SLO {bound_text(p.bound_s)}")
    ticks = [(v, f"{v:g} %") for v in (0, 25, 50, 75, 100)]
    body = _plot(
        curves,
        axis,
        _Axis(low=0, high=100, ticks=ticks),
        width=width,
        height=height,
        color=color,
        vertical=lines,
    )
    of = "deliveries" if p.metric == "itl" else "requests"
    return [
        *_head(p, f"{of} at or below"),
        *body,
        f"{METRIC_NAMES[p.metric]:>{width}}",
        *_wrap(legend, width),
        *_tail(p),
    ]


def _load_curve(p: LoadCurvePicture, width: int, height: int, color: bool) -> list[str]:
    if not p.points:
        return [*_head(p, "no load was tried"), *_tail(p)]
    rates = [q.request_rate_per_s for q in p.points]
    x = _linear_axis(max(rates) * 1.02)
    knee = [(p.knee_rate_per_s, "green")] if p.knee_rate_per_s is not None else []
    good = [q.goodput_requests_per_s for q in p.points]
    y = _linear_axis(max(s.high for s in good) * 1.05 or 1.0)
    lows, highs = [s.low for s in good], [s.high for s in good]
    curves = [
        _Curve(xs=rates, ys=[s.mean for s in good], color="blue"),
        _Curve(xs=rates * 2, ys=lows + highs, color="blue", shape="-"),
        _Curve(xs=rates, ys=[s.mean for s in good], color="blue", shape="o"),
    ]
    half = max(height // 2 + 1, 8)
    top = _plot(curves, x, y, width=width, height=half, color=color, vertical=knee)
    late = [(q.request_rate_per_s, q.latency_s) for q in p.points if q.latency_s is not None]
    bottom: list[str] = []
    if late:
        values = [v for _, s in late for v in (s.low, s.high) if v > 0]
        axis = _log_axis(min(values), max([*values, p.bound_s or 0]), _short_ms)
        at = [r for r, _ in late]
        means, lows, highs = (
            [math.log10(max(getattr(s, name), 1e-9)) for _, s in late]
            for name in ("mean", "low", "high")
        )
        curves = [
            _Curve(xs=at, ys=means, color="orange"),
            _Curve(xs=at * 2, ys=lows + highs, color="orange", shape="-"),
            _Curve(xs=at, ys=means, color="orange", shape="x"),
        ]
        if p.bound_s is not None:
            level = math.log10(p.bound_s)
            curves.append(_Curve(xs=[x.low, x.high], ys=[level, level], color="green"))
        bottom = _plot(curves, x, axis, width=width, height=half, color=color, vertical=knee)
    legend = [f"- least and most of {p.num_seeds} seeds"] if p.num_seeds > 1 else ["one seed"]
    if p.knee_rate_per_s is not None:
        legend.append(f"│ knee at {rate_text(p.knee_rate_per_s, 'req/s')}")
    if p.bound_s is not None:
        legend.append(f"level line: SLO {bound_text(p.bound_s)}")
    return [
        *_head(p, "goodput, req/s"),
        *top,
        p.latency_name,
        *bottom,
        f"{'offered req/s':>{width}}",
        *_wrap(legend, width),
        *_tail(p),
    ]


def _timeline(p: RequestTimeline, width: int, height: int, color: bool) -> list[str]:
    if not p.rows:
        return [*_head(p, "no request to show"), *_tail(p)]
    rows = p.rows[: max(height, 4)]
    begin = min(s.start_s for r in rows for s in r.spans) if any(r.spans for r in rows) else 0.0
    end = max((s.end_s for r in rows for s in r.spans), default=begin + 1.0)
    label = max(len(str(r.request_id)) for r in rows) + 2
    cells = width - label - 7
    scale = cells / max(end - begin, 1e-12)
    lines = []
    for r in rows:
        kinds = [""] * cells
        for s in r.spans:
            low = min(int((s.start_s - begin) * scale), cells - 1)
            high = max(math.ceil((s.end_s - begin) * scale), low + 1)
            for k in range(low, min(high, cells)):
                kinds[k] = s.kind
        bar, k = "", 0
        while k < cells:
            run = k
            while run < cells and kinds[run] == kinds[k]:
                run += 1
            glyph = _GLYPHS.get(kinds[k], " ") * (run - k)
            bar += _paint(glyph, kinds[k], color) if kinds[k] else glyph
            k = run
        mark = _paint(" late", "late", color) if r.late else ""
        lines.append(f"{r.request_id:>{label - 1}} {bar}{mark}".rstrip())
    legend = [f"{_GLYPHS[k]} {k}" for k in ("queue", "prefill", "decode", "preempted")]
    each = seconds_text((end - begin) / cells)
    span = f"{seconds_text(begin)} to {seconds_text(end)}, {each} a character"
    shown = f"{len(rows):,} of {p.num_requests:,} requests shown, {p.num_late:,} late in all"
    return [*_head(p, "request"), *lines, span, *_wrap(legend, width), shown, *_tail(p)]


def _roofline(p: RooflinePicture, width: int, height: int, color: bool) -> list[str]:
    peak = max((v for _, v in p.peaks), default=1.0)
    xs = [d.flops_per_byte for d in p.dots] or [1.0]
    ys = [d.flops_per_s for d in p.dots] or [peak]
    ridge = peak / p.memory_bytes_per_s
    x = _log_axis(min([*xs, ridge / 10]), max([*xs, ridge * 4]), lambda t: f"{t:,.4g}")
    y = _log_axis(min([*ys, peak / 100]), peak, lambda t: f"{t / 1e12:,.4g}")
    curves, legend = [], []
    for dtype, top in p.peaks:
        knee = math.log10(top / p.memory_bytes_per_s)
        low_x, high_x = x.low, x.high
        slope = math.log10(p.memory_bytes_per_s)
        start = max(low_x, y.low - slope)
        curves.append(
            _Curve(
                xs=[start, knee, high_x],
                ys=[start + slope, math.log10(top), math.log10(top)],
                color="gray",
            )
        )
        legend.append(f"roof: {dtype} {rate_text(top / 1e12, 'TFLOP/s')}")
    for phase, shape, name in (("prefill", "x", "orange"), ("decode", "o", "blue")):
        dots = [d for d in p.dots if d.phase == phase]
        curves.append(
            _Curve(
                xs=[math.log10(d.flops_per_byte) for d in dots],
                ys=[math.log10(d.flops_per_s) for d in dots],
                color=name,
                shape=shape,
            )
        )
        bound = sorted({d.bound for d in dots})
        if dots:
            legend.append(f"{shape} {phase} ({len(dots)} operators, bound by {', '.join(bound)})")
    body = _plot(curves, x, y, width=width, height=height, color=color)
    where = f"{p.device}, {rate_text(p.memory_bytes_per_s / 1e12, 'TB/s')}"
    return [
        *_head(p, f"TFLOP/s on {where}"),
        *body,
        f"{'FLOPs/byte':>{width}}",
        *_wrap(legend, width),
        *_tail(p),
    ]


def _breakdown(p: TimeBreakdown, width: int, height: int, color: bool) -> list[str]:
    lines = list(_head(p))
    for bar in p.bars:
        total = bar.total_s
        lines.append(f"{bar.name}: {seconds_text(total)} a step")
        name_width = max([len(part.name) for part in bar.parts] + [8])
        cells = width - name_width - 40
        for part in sorted(bar.parts, key=lambda q: -q.seconds):
            share = part.seconds / total if total > 0 else 0.0
            filled = "█" * round(share * cells) or ("▏" if part.seconds else "")
            painted = _paint(f"{filled:<{cells}}", part.kind, color)
            text = f"  {part.name:<{name_width}} {painted} {share * 100:5.1f} %"
            text += f" {seconds_text(part.seconds):>9}"
            if part.hidden_s:
                text += f" +{seconds_text(part.hidden_s)} hidden"
            elif part.bound_s is not None:
                text += f" bound {seconds_text(part.bound_s)}"
            lines.append(text.rstrip())
    return [*lines, *_tail(p)]


def _memory(p: MemoryWaterfall, width: int, height: int, color: bool) -> list[str]:
    """A plain version; the terminal report draws bars."""
    lines = [f"  {part.name:<20} {format_bytes(part.size_bytes):>12}" for part in p.parts]
    return [*_head(p), *lines, f"  {'limit':<20} {format_bytes(p.limit_bytes):>12}", *_tail(p)]


def _wrap(items: Sequence[str], width: int) -> list[str]:
    """Legend entries on as few lines as fit."""
    lines: list[str] = []
    for item in items:
        if lines and len(lines[-1]) + 3 + len(item) <= width:
            lines[-1] += f"   {item}"
        else:
            lines.append(item[:width])
    return lines


_DRAW = {
    ParetoPicture: _pareto,
    CdfPicture: _cdf,
    LoadCurvePicture: _load_curve,
    RequestTimeline: _timeline,
    MemoryWaterfall: _memory,
    RooflinePicture: _roofline,
    TimeBreakdown: _breakdown,
}


def picture_text(
    picture: Picture, *, width: int = 78, height: int = 18, color: bool = False
) -> str:
    """A picture in at most ``width`` columns; ANSI colors only if ``color``."""
    draw = _DRAW[type(picture)]
    return "\n".join(draw(picture, width, height, color))  # type: ignore[operator]
