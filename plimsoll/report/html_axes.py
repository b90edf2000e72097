"""Parts that every Plotly figure shares: axes, limit lines, notes, margins."""

from typing import Any

from plimsoll.report.wording import bound_text, ticks_1_2_5

__all__ = [
    "ALERT",
    "Figure",
    "LIMIT",
    "NEUTRAL",
    "axis",
    "band",
    "figure",
    "line",
    "note",
    "seconds_axis",
]

LIMIT = "#009E73"
NEUTRAL = "#808080"
ALERT = "#D55E00"

Figure = dict[str, Any]


def axis(title: str, **more: Any) -> dict[str, Any]:
    return {"title": {"text": title}, "automargin": True, "zeroline": False, **more}


def seconds_axis(title: str, low: float, high: float, **more: Any) -> dict[str, Any]:
    """Logarithmic, with ticks in ms and s."""
    ticks = ticks_1_2_5(low / 1.5, high * 1.5)
    return axis(title, type="log", tickvals=ticks, ticktext=[bound_text(t) for t in ticks], **more)


def band(xs: list[float], low: list[float], high: list[float], color: str, **more: Any) -> Figure:
    """The region between two curves, drawn faint."""
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


def figure(traces: list[Figure], height: int, **layout: Any) -> Figure:
    base = {
        "height": height,
        "margin": {"l": 60, "r": 20, "t": 40, "b": 50},
        "legend": {"orientation": "h", "y": -0.22, "yanchor": "top", "x": 0},
        "hovermode": "closest",
    }
    return {"data": traces, "layout": {**base, **layout}}


def line(along: str, value: float, color: str, dash: str = "solid", **where: Any) -> Figure:
    other = "y" if along == "x" else "x"
    ends = {f"{along}0": value, f"{along}1": value, f"{other}0": 0, f"{other}1": 1}
    return {
        "type": "line",
        f"{along}ref": along,
        f"{other}ref": "paper",
        "line": {"color": color, "width": 1.5, "dash": dash},
        **ends,
        **where,
    }


def note(text: str, x: float, y: float, **more: Any) -> Figure:
    return {"text": text, "x": x, "y": y, "showarrow": False, "font": {"size": 12}, **more}
