"""Bar pictures as Plotly figures: request timeline, memory of a GPU, time of a step.

A trace of the timeline carries ``meta`` "all" or "late", by which the page filters.
"""

from plimsoll.report.html_axes import ALERT, LIMIT, NEUTRAL, Figure, axis, figure, line, note
from plimsoll.report.pictures import (
    BreakdownBar,
    MemoryWaterfall,
    RequestTimeline,
    TimeBreakdown,
    TimelineRow,
    TimelineSpan,
)
from plimsoll.report.wording import FAMILY_COLORS, PART_COLORS, PHASE_COLORS, seconds_text
from plimsoll.spec.units import format_bytes

__all__ = ["breakdown", "memory", "timeline"]

_GIB = 2.0**30
_PATTERNS = ("", "/", ".", "x", "\\", "+", "-")


def _never(row: TimelineRow) -> TimelineSpan:
    """A wait of no length where the row begins."""
    at_s = row.spans[0].start_s if row.spans else 0.0
    return TimelineSpan(kind="queue", start_s=at_s, end_s=at_s)


def timeline(p: RequestTimeline) -> Figure:
    def traces(rows: list[TimelineRow], group: str, visible: bool) -> list[Figure]:
        made = []
        names = [str(r.request_id) for r in rows]
        for kind, color in PHASE_COLORS.items():
            spans = [(n, r, s) for n, r in zip(names, rows, strict=True) for s in r.spans]
            spans = [(n, r, s) for n, r, s in spans if s.kind == kind]
            if kind == "queue":
                # Plotly orders rows as it meets them: the first trace names every one.
                waited = {n: s for n, _, s in spans}
                spans = [(n, r, waited.get(n, _never(r))) for n, r in zip(names, rows, strict=True)]
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
                "marker": {"symbol": "x", "size": 7, "color": ALERT},
                "hovertemplate": "request %{y} missed a target<extra></extra>",
            }
        )
        return made

    rows = list(p.rows)
    both = traces(rows, "all", True) + traces([r for r in rows if r.late], "late", False)
    return figure(
        both,
        max(300, min(40 + 9 * len(rows), 900)),
        barmode="overlay",
        bargap=0.15,
        xaxis=axis("time since the run began (s)"),
        yaxis=axis("request", type="category", autorange="reversed"),
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )


def memory(p: MemoryWaterfall) -> Figure:
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
    color = ALERT if over else LIMIT
    where = {"yref": "paper", "yanchor": "bottom"}
    return figure(
        [trace],
        120 + 44 * len(sizes),
        margin={"l": 60, "r": 20, "t": 56, "b": 50},
        xaxis=axis("memory of one GPU (GiB)", range=[0, max(capacity, before) * 1.16]),
        yaxis=axis("", autorange="reversed"),
        shapes=[line("x", limit, color), line("x", capacity, NEUTRAL, "dash")],
        annotations=[
            note(f"limit {limit:,.1f} GiB ", limit, 1, xanchor="right", **where),
            note(f" capacity {capacity:,.1f} GiB", capacity, 1, xanchor="left", **where),
        ],
    )  # fmt: skip


def _bar_label(bar: BreakdownBar) -> str:
    return f"{bar.name}<br>{seconds_text(bar.total_s)}"


def breakdown(p: TimeBreakdown) -> Figure:
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
    return figure(
        traces,
        120 + 22 * rows + 80 * len(p.bars),
        margin={"l": 60, "r": 20, "t": 40, "b": 60 + 22 * rows},
        barmode="stack",
        bargap=0.35,
        uniformtext={"minsize": 10, "mode": "hide"},
        xaxis=axis("share of the step (%)", range=[0, 100]),
        yaxis=axis(
            "",
            autorange="reversed",
            categoryorder="array",
            categoryarray=[_bar_label(bar) for bar in p.bars],
        ),
        legend={"orientation": "h", "yref": "container", "y": 0.01, "yanchor": "bottom", "x": 0},
    )
