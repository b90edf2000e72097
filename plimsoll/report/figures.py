"""Pictures as SVG or PNG files, by matplotlib: the same data as on the terminal and in HTML.

Drawn without pyplot, so nothing global changes and no display is needed; the same picture
gives the same SVG bytes.
"""

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plimsoll.report.figure_axes import axes_of, legend
from plimsoll.report.figures_laws import LAW_FIGURES
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
)
from plimsoll.report.wording import (
    FAMILY_COLORS,
    METRIC_NAMES,
    PART_COLORS,
    PHASE_COLORS,
    bound_text,
    count_text,
    gpus_text,
    percent_text,
    plain_text,
    rate_text,
    seconds_text,
    ticks_1_2_5,
)
from plimsoll.spec.errors import SpecError, UnsupportedError
from plimsoll.spec.units import format_bytes

__all__ = ["write_figure", "write_figures"]

_GIB = 2.0**30
_HATCHES = ("", "//", "..", "xx", "\\\\", "++")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ("-", "--", "-.", ":")
_LIMIT_COLOR, _FAINT = "#009E73", "#9aa0a6"


def _log_seconds(axis: Any, low: float, high: float) -> None:
    """A logarithmic axis of seconds with ticks in ms and s."""
    axis.axes.set_xscale("log") if axis.axis_name == "x" else axis.axes.set_yscale("log")
    ticks = ticks_1_2_5(low / 1.3, high * 1.3)
    axis.set_ticks(ticks, labels=[bound_text(t) for t in ticks])
    axis.set_ticks([], minor=True)


def _pareto(figure: Any, p: ParetoPicture) -> None:
    axes = axes_of(figure, p, "output tokens/s/user", "output tokens/s/GPU")
    faint = [q for q in p.points if not q.frontier and not q.chosen]
    axes.scatter(
        [q.tokens_per_s_per_user for q in faint],
        [q.tokens_per_s_per_gpu for q in faint],
        s=12,
        color=_FAINT,
        alpha=0.55,
        linewidths=0,
        label="dominated" if faint else None,
    )
    families = list(dict.fromkeys(q.family for q in p.points if q.frontier))
    for k, family in enumerate(families):
        mine = sorted(
            (q for q in p.points if q.frontier and q.family == family),
            key=lambda q: q.tokens_per_s_per_user,
        )
        axes.plot(
            [q.tokens_per_s_per_user for q in mine],
            [q.tokens_per_s_per_gpu for q in mine],
            marker=_MARKERS[k % len(_MARKERS)],
            color=FAMILY_COLORS[k % len(FAMILY_COLORS)],
            markersize=5,
            label=family,
        )
    axes.set_xlim(0, max([q.tokens_per_s_per_user for q in p.points] + [1e-9]) * 1.05)
    axes.set_ylim(0, max([q.tokens_per_s_per_gpu for q in p.points] + [1e-9]) * 1.12)
    if p.min_tokens_per_s_per_user is not None:
        limit = p.min_tokens_per_s_per_user
        axes.set_xlim(0, max(axes.get_xlim()[1], limit * 1.1))
        axes.axvspan(limit, axes.get_xlim()[1], color=_LIMIT_COLOR, alpha=0.10, linewidth=0)
        axes.axvline(
            limit, color=_LIMIT_COLOR, linewidth=1, label=f"SLO: {plain_text(limit)} or more"
        )
    for q in p.points:
        if q.chosen:
            at = (q.tokens_per_s_per_user, q.tokens_per_s_per_gpu)
            axes.plot(*at, marker="*", markersize=16, color="#D55E00", markeredgecolor="white",
                      linestyle="none", label="chosen", zorder=5)  # fmt: skip
            axes.annotate(
                f"{q.label}, {gpus_text(q.num_gpus)}",
                at,
                xytext=(8, 8),
                textcoords="offset points",
                fontsize=8,
            )
    legend(axes, loc="upper right")


def _cdf(figure: Any, p: CdfPicture) -> None:
    of = "deliveries" if p.metric == "itl" else "requests"
    axes = axes_of(figure, p, f"{METRIC_NAMES[p.metric]} (log scale)", f"{of} at or below (%)")
    values = [v for s in p.series for v in s.values_s if v > 0]
    values += [p.bound_s] if p.bound_s is not None else []
    for k, s in enumerate(p.series):
        within = "" if s.within_fraction is None else f", {percent_text(s.within_fraction)} within"
        axes.step(
            s.values_s,
            [f * 100 for f in s.fractions],
            where="post",
            color=FAMILY_COLORS[k % len(FAMILY_COLORS)],
            linestyle=_DASHES[k % len(_DASHES)],
            label=f"{s.name} (n = {count_text(s.num_samples)}{within})",
        )
    if values:
        _log_seconds(axes.xaxis, min(values), max(values))
    if p.bound_s is not None:
        label = f"SLO {bound_text(p.bound_s)}"
        axes.axvline(p.bound_s, color=_LIMIT_COLOR, linewidth=1.2, label=label)
    axes.set_ylim(0, 101)
    legend(axes, loc="lower right")


def _load_curve(figure: Any, p: LoadCurvePicture) -> None:
    top, bottom = figure.subplots(2, 1, sharex=True)
    figure.suptitle(p.title, x=0.02, ha="left", fontsize=11, fontweight="bold")
    rates = [q.request_rate_per_s for q in p.points]
    good = [q.goodput_requests_per_s for q in p.points]
    over = f"least and most of {p.num_seeds} seeds"
    top.fill_between(
        rates, [s.low for s in good], [s.high for s in good],
        color=FAMILY_COLORS[0], alpha=0.2, linewidth=0, label=over if p.num_seeds > 1 else None,
    )  # fmt: skip
    top.plot(rates, [s.mean for s in good], "o-", color=FAMILY_COLORS[0], label="goodput")
    top.plot(rates, rates, color=_FAINT, linewidth=0.8, linestyle=":", label="all good")
    top.set_ylabel("goodput (req/s)")
    top.set_ylim(0, max([s.high for s in good] + [1e-9]) * 1.25)
    late = [(q.request_rate_per_s, q.latency_s) for q in p.points if q.latency_s is not None]
    if late:
        at = [r for r, _ in late]
        bottom.fill_between(
            at, [s.low for _, s in late], [s.high for _, s in late],
            color=FAMILY_COLORS[1], alpha=0.2, linewidth=0,
        )  # fmt: skip
        bottom.plot(
            at, [s.mean for _, s in late], "s-", color=FAMILY_COLORS[1], label=p.latency_name
        )
        values = [v for _, s in late for v in (s.low, s.high) if v > 0]
        _log_seconds(bottom.yaxis, min(values), max([*values, p.bound_s or 0.0]))
    if p.bound_s is not None:
        bottom.axhline(
            p.bound_s, color=_LIMIT_COLOR, linewidth=1.2, label=f"SLO {bound_text(p.bound_s)}"
        )
    bottom.set_ylabel(f"{p.latency_name} (log scale)")
    bottom.set_xlabel("offered load (req/s)")
    for axes in (top, bottom):
        axes.grid(True, color="#d0d4d9", linewidth=0.6)
        axes.spines["top"].set_visible(False)
        axes.spines["right"].set_visible(False)
        if p.knee_rate_per_s is not None:
            text = f"knee {plain_text(p.knee_rate_per_s)} req/s"
            axes.axvline(p.knee_rate_per_s, color="#444444", linestyle="--", linewidth=1,
                         label=text if axes is top else None)  # fmt: skip
        legend(axes, loc="upper left")


def _timeline(figure: Any, p: RequestTimeline) -> None:
    axes = axes_of(figure, p, "time since the run began (s)", "request")
    height = 0.8
    for kind, color in PHASE_COLORS.items():
        spans = [(row, s) for row, r in enumerate(p.rows) for s in r.spans if s.kind == kind]
        axes.barh(
            [row for row, _ in spans],
            [s.end_s - s.start_s for _, s in spans],
            left=[s.start_s for _, s in spans],
            height=height,
            color=color,
            hatch="////" if kind == "preempted" else None,
            label=kind if spans else None,
            linewidth=0,
        )
    late = [row for row, r in enumerate(p.rows) if r.late and r.spans]
    axes.scatter(
        [p.rows[row].spans[-1].end_s for row in late],
        late,
        marker="x",
        s=14,
        color="black",
        label=f"late ({len(late):,} shown)" if late else None,
        zorder=4,
    )
    axes.set_ylim(max(len(p.rows), 1) - 0.5, -0.5)
    step = max(1, len(p.rows) // 10)
    shown = range(0, len(p.rows), step)
    axes.set_yticks(list(shown), [str(p.rows[k].request_id) for k in shown])
    legend(axes, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=5)


def _memory(figure: Any, p: MemoryWaterfall) -> None:
    axes = axes_of(figure, p, "memory of one GPU (GiB)", "")
    before = 0.0
    for row, part in enumerate(p.parts):
        size = part.size_bytes / _GIB
        axes.barh(row, size, left=before, color=FAMILY_COLORS[row % len(FAMILY_COLORS)], height=0.7)
        before += size
    names = [f"{part.name}\n{format_bytes(part.size_bytes)}" for part in p.parts]
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    over = p.used_bytes > p.limit_bytes
    axes.axvline(
        p.limit_bytes / _GIB, color="#D55E00" if over else _LIMIT_COLOR, linewidth=1.6,
        label=f"limit {p.limit_bytes / _GIB:,.1f} GiB",
    )  # fmt: skip
    axes.axvline(
        p.capacity_bytes / _GIB, color="#444444", linewidth=1, linestyle="--",
        label=f"capacity {p.capacity_bytes / _GIB:,.1f} GiB",
    )  # fmt: skip
    axes.set_xlim(0, max(p.capacity_bytes, p.used_bytes) / _GIB * 1.05)
    legend(axes, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)


def _roofline(figure: Any, p: RooflinePicture) -> None:
    axes = axes_of(figure, p, "arithmetic intensity (FLOPs/byte)", "speed (TFLOP/s)")
    axes.set_xscale("log")
    axes.set_yscale("log")
    peak = max((v for _, v in p.peaks), default=1.0)
    xs = [d.flops_per_byte for d in p.dots] + [peak / p.memory_bytes_per_s]
    low, high = min(xs) / 2, max(xs) * 3
    for k, (dtype, top) in enumerate(p.peaks):
        ridge = top / p.memory_bytes_per_s
        axes.plot(
            [low, ridge, max(high, ridge * 1.5)],
            [low * p.memory_bytes_per_s / 1e12, top / 1e12, top / 1e12],
            color="#444444",
            linestyle=_DASHES[k % len(_DASHES)],
            linewidth=1.2,
            label=f"{p.device} {dtype}: {rate_text(top / 1e12, 'TFLOP/s')} dense",
        )
    colors = {"prefill": PHASE_COLORS["prefill"], "decode": PHASE_COLORS["decode"]}
    for phase, marker in (("prefill", "s"), ("decode", "o")):
        dots = [d for d in p.dots if d.phase == phase]
        axes.scatter(
            [d.flops_per_byte for d in dots],
            [d.flops_per_s / 1e12 for d in dots],
            marker=marker,
            s=28,
            color=colors[phase],
            label=phase if dots else None,
            zorder=3,
        )
    placed: list[tuple[float, float]] = []
    for d in sorted(p.dots, key=lambda d: (d.flops_per_byte, d.flops_per_s)):
        at = (math.log10(d.flops_per_byte), math.log10(d.flops_per_s))
        level = sum(1 for q in placed if abs(q[0] - at[0]) < 0.25 and abs(q[1] - at[1]) < 0.25)
        placed.append(at)
        axes.annotate(
            d.name,
            (d.flops_per_byte, d.flops_per_s / 1e12),
            xytext=(6, -10 - 9 * level),
            textcoords="offset points",
            fontsize=7,
        )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    legend(axes, loc="lower right")


def _bar_label(bar: BreakdownBar) -> str:
    label = f"{bar.name}\n{seconds_text(bar.total_s)}"
    hidden_s = sum(part.hidden_s for part in bar.parts)
    return f"{label}\n+ {seconds_text(hidden_s)} hidden" if hidden_s else label


def _breakdown(figure: Any, p: TimeBreakdown) -> None:
    axes = axes_of(figure, p, "share of the step (%)", "")
    names = list(dict.fromkeys(part.name for bar in p.bars for part in bar.parts))
    seen: set[tuple[str, str]] = set()
    for row, bar in enumerate(p.bars):
        before, total = 0.0, bar.total_s or 1.0
        for part in bar.parts:
            share = part.seconds / total * 100
            key = (part.name, part.kind)
            axes.barh(
                row,
                share,
                left=before,
                height=0.55,
                color=PART_COLORS[part.kind],
                hatch=_HATCHES[names.index(part.name) % len(_HATCHES)],
                edgecolor="white",
                linewidth=0.6,
                label=f"{part.name} ({part.kind})" if key not in seen else None,
            )
            seen.add(key)
            if share >= 7:
                axes.text(
                    before + share / 2, row, f"{share:.0f} %", ha="center", va="center",
                    color="white", fontsize=8, fontweight="bold",
                    bbox={"facecolor": PART_COLORS[part.kind], "edgecolor": "none", "pad": 1},
                )  # fmt: skip
            before += share
    axes.set_yticks(range(len(p.bars)), [_bar_label(bar) for bar in p.bars])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    legend(axes, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, fontsize=7)


_DRAW = {
    ParetoPicture: _pareto,
    CdfPicture: _cdf,
    LoadCurvePicture: _load_curve,
    RequestTimeline: _timeline,
    MemoryWaterfall: _memory,
    RooflinePicture: _roofline,
    TimeBreakdown: _breakdown,
    **LAW_FIGURES,
}


def write_figure(picture: Picture, path: Path, *, width_in: float = 7.0) -> None:
    """Draw a picture into ``path``, an .svg or .png file.

    Raises:
        SpecError: another ending, or the file cannot be written.
        UnsupportedError: matplotlib is not installed.
    """
    kind = path.suffix.lower().lstrip(".")
    if kind not in ("svg", "png"):
        raise SpecError(f"{path}: a figure is written as .svg or .png")
    try:
        import matplotlib
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError:
        raise UnsupportedError(
            "figures need matplotlib, which is not installed; pip install 'plimsoll[report]'"
        ) from None
    tall = {LoadCurvePicture: 0.85, RequestTimeline: 0.75}.get(type(picture), 0.6)
    settings: dict[Any, Any] = {"svg.hashsalt": "plimsoll", "svg.fonttype": "none", "font.size": 9}
    with matplotlib.rc_context(settings):
        layout = ConstrainedLayoutEngine(rect=(0, 0.03, 1, 0.97))
        figure = Figure(figsize=(width_in, width_in * tall), layout=layout)
        _DRAW[type(picture)](figure, picture)  # type: ignore[operator]
        origin = getattr(picture, "origin", None)
        notes = "; ".join([*picture.notes, *([origin.value] if origin is not None else [])])
        if notes:
            figure.text(0.02, 0.005, notes, fontsize=7, color="#555555")
        temporary = path.with_name(f".{path.name}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            metadata = {"Date": None} if kind == "svg" else {"Software": None}
            figure.savefig(temporary, format=kind, dpi=150, metadata=metadata)
            temporary.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise SpecError(f"{path}: cannot be written: {error.strerror}") from None


def write_figures(pictures: Sequence[Picture], folder: Path) -> tuple[Path, ...]:
    """Every picture as SVG and PNG, named by its place and kind: ``1-pareto.svg``."""
    written = []
    for k, picture in enumerate(pictures, start=1):
        for suffix in ("svg", "png"):
            path = folder / f"{k}-{picture.kind}.{suffix}"
            write_figure(picture, path)
            written.append(path)
    return tuple(written)
