"""Pictures of scaling laws by matplotlib: contours, iso-FLOP curves, residuals, predictions."""

from collections.abc import Callable
from typing import Any

from plimsoll.report.figure_axes import axes_of, legend
from plimsoll.report.law_pictures import (
    ExtrapolationPicture,
    IsoFlopPicture,
    IsoLossPicture,
    ResidualPicture,
)
from plimsoll.report.wording import (
    FAMILY_COLORS,
    loss_ticks,
    quantity_text,
    ticks_1_2_5,
)

__all__ = ["LAW_FIGURES"]

_ALERT, _BEST, _NEUTRAL = "#D55E00", "#009E73", "#777777"
_CONTOUR, _RUN, _BUDGET = FAMILY_COLORS[5], FAMILY_COLORS[4], FAMILY_COLORS[3]
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ("-", "--", "-.", ":")


def _quantities(axis: Any, unit: str, low: float, high: float) -> None:
    """A logarithmic axis of counts or FLOPs."""
    axis.axes.set_xscale("log") if axis.axis_name == "x" else axis.axes.set_yscale("log")
    ticks = ticks_1_2_5(low, high)
    axis.set_ticks(ticks, labels=[quantity_text(t, unit) for t in ticks])
    axis.set_ticks([], minor=True)
    axis.axes.set_xlim(low, high) if axis.axis_name == "x" else axis.axes.set_ylim(low, high)


def _losses(axes: Any, low: float, high: float) -> None:
    room = (high / low) ** 0.05 * 1.002
    low, high = low / room, high * room
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    ticks = loss_ticks(low, high)
    axes.yaxis.set_ticks(ticks, labels=[f"{t:g}" for t in ticks])
    axes.yaxis.set_ticks([], minor=True)


def _label(name: str, unit: str) -> str:
    return f"{name} ({unit}, log scale)" if unit else f"{name} (log scale)"


def _below(axes: Any, columns: int) -> None:
    legend(axes, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=columns)


def _iso_loss(figure: Any, p: IsoLossPicture) -> None:
    axes = axes_of(figure, p, _label("size", "parameters"), _label("training data", "tokens"))
    _quantities(axes.xaxis, "", *p.params)
    _quantities(axes.yaxis, "", *p.tokens)
    for k, one in enumerate(p.contours):
        axes.plot(
            one.params, one.tokens, color=_CONTOUR, linewidth=1.1,
            label=f"one loss ({p.unit})" if k == 0 else None,
        )  # fmt: skip
        axes.annotate(
            f"{one.loss:.3g}", (one.params[0], one.tokens[0]), xytext=(-3, 2),
            textcoords="offset points", fontsize=7, ha="right",
        )  # fmt: skip
    (n_low, n_high), (d_low, d_high) = p.box_params, p.box_tokens
    axes.plot(
        [n_low, n_high, n_high, n_low, n_low], [d_low, d_low, d_high, d_high, d_low],
        color=_NEUTRAL, linewidth=1, linestyle="--", label="fitted in here",
    )  # fmt: skip
    for k, cost in enumerate(p.budgets):
        axes.plot(
            cost.params, cost.tokens, color=_BUDGET, linewidth=1.2,
            linestyle=_DASHES[(k + 1) % 4], label=cost.name,
        )  # fmt: skip
    if p.optimal:
        axes.plot(
            [one.params for one in p.optimal], [one.tokens for one in p.optimal],
            color=_BEST, linewidth=2.2, label="compute-optimal",
        )  # fmt: skip
    for far, name, color, marker in (
        (False, "measured runs", _RUN, "o"),
        (True, "far from the fit", _ALERT, "x"),
    ):
        mine = [run for run in p.runs if run.far == far]
        if mine:
            axes.plot(
                [run.inputs["params"] for run in mine], [run.inputs["tokens"] for run in mine],
                color=color, marker=marker, linestyle="none", markersize=4.5, label=name, zorder=3,
            )  # fmt: skip
    for k, point in enumerate(p.points):
        axes.plot(
            [point.params], [point.tokens], marker=("*", "D", "s")[k % 3], color=_ALERT,
            markersize=15 if k == 0 else 8, markeredgecolor="white", linestyle="none",
            label=point.name, zorder=5,
        )  # fmt: skip
    _below(axes, 4)


def _iso_flop(figure: Any, p: IsoFlopPicture) -> None:
    axes = axes_of(figure, p, _label("size", "parameters"), _label("loss", p.unit))
    low, high = p.shown_params
    _quantities(axes.xaxis, "", low / 1.2, high * 1.2)
    _losses(axes, *p.shown_losses)
    for k, one in zip(p.colors, p.curves, strict=True):
        color = FAMILY_COLORS[k % len(FAMILY_COLORS)]
        axes.plot(
            one.params, one.losses, color=color, linestyle="--" if one.serving else "-",
            label=one.name,
        )  # fmt: skip
        axes.plot(
            [run.inputs["params"] for run in one.runs], [run.loss for run in one.runs],
            color=color, marker=_MARKERS[k % len(_MARKERS)], markersize=4.5, linestyle="none",
        )  # fmt: skip
    for edge, name, marker in ((False, "least loss", "*"), (True, "stands at an edge", "X")):
        least = [one.least for one in p.curves if bool(one.edge) == edge]
        if least:
            axes.plot(
                [one.params for one in least], [one.loss for one in least], color=_ALERT,
                marker=marker, markersize=11, markeredgecolor="white", linestyle="none",
                label=name, zorder=4,
            )  # fmt: skip
    inside = [edge for edge in p.box_params if low / 1.2 < edge < high * 1.2]
    for k, edge in enumerate(inside):
        axes.axvline(
            edge, color=_NEUTRAL, linewidth=1, linestyle="--",
            label="least and largest size fitted" if k == 0 else None,
        )  # fmt: skip
    _below(axes, 3)


def _residuals(figure: Any, p: ResidualPicture) -> None:
    axes = axes_of(figure, p, _label(p.x_name, p.x_unit), "ln(measured / predicted)")
    low, high = p.shown_xs
    _quantities(axes.xaxis, p.x_unit, low / 1.6, high * 1.6)
    axes.set_ylim(*p.shown_residuals)
    axes.axhline(0, color=_NEUTRAL, linewidth=1)
    if p.bound_ln is not None:
        for sign in (1, -1):
            axes.axhline(sign * p.bound_ln, color=_NEUTRAL, linewidth=1, linestyle="--")
    several = len(p.series) > 1
    for k, one in enumerate(p.series):
        near = sorted((run for run in one.runs if not run.far), key=lambda run: run.x)
        axes.plot(
            [run.x for run in near], [run.residual_ln for run in near],
            color=FAMILY_COLORS[k % len(FAMILY_COLORS)], marker=_MARKERS[k % len(_MARKERS)],
            markersize=4.5, linewidth=0.8,
            linestyle=_DASHES[k % len(_DASHES)] if several else "none", label=one.name,
        )  # fmt: skip
    far = [run for one in p.series for run in one.runs if run.far]
    if far:
        axes.plot(
            [run.x for run in far], [run.residual_ln for run in far], color=_ALERT, marker="x",
            markersize=6, linestyle="none", label="far off",
        )  # fmt: skip
    for run in far:
        if run.line:
            axes.annotate(
                f"line {run.line}", (run.x, run.residual_ln), xytext=(5, -3),
                textcoords="offset points", fontsize=7,
            )  # fmt: skip
    _below(axes, 4)


def _extrapolation(figure: Any, p: ExtrapolationPicture) -> None:
    axes = axes_of(figure, p, _label(p.x_name, p.x_unit), _label("loss", p.unit))
    low, high = p.shown_xs
    _quantities(axes.xaxis, p.x_unit, low / 1.5, high * 1.5)
    _losses(axes, *p.shown_losses)
    for k, one in enumerate(p.lines):
        color = FAMILY_COLORS[k % len(FAMILY_COLORS)]
        if one.lows:
            axes.fill_between(
                one.xs, one.lows, one.highs, color=color, alpha=0.2, linewidth=0,
                label=f"{p.level * 100:.0f} % interval" if k == 0 else None,
            )  # fmt: skip
        axes.plot(
            one.xs, one.losses, color=color, linestyle=_DASHES[k % len(_DASHES)],
            label=one.name,
        )  # fmt: skip
    axes.plot(
        [run.x for run in p.fitted], [run.loss for run in p.fitted], color=_NEUTRAL, marker="o",
        markersize=4, linestyle="none", label="fitted",
    )  # fmt: skip
    bounded = [run for run in p.held_out if run.low is not None and run.high is not None]
    if bounded:
        axes.errorbar(
            [run.x for run in bounded], [run.predicted for run in bounded],
            yerr=[
                [run.predicted - (run.low or 0.0) for run in bounded],
                [(run.high or 0.0) - run.predicted for run in bounded],
            ],
            color=FAMILY_COLORS[0], marker="_", markersize=9, linestyle="none", capsize=3,
            linewidth=1.2, label=f"predicted, {p.level * 100:.0f} % interval", zorder=3,
        )  # fmt: skip
    axes.plot(
        [run.x for run in p.held_out], [run.loss for run in p.held_out], color=_ALERT, marker="D",
        markersize=5.5, linestyle="none", label="held out, measured", zorder=4,
    )  # fmt: skip
    ends = [one.box_ends_at for one in p.lines if one.box_ends_at is not None]
    if ends:
        axes.axvline(
            min(ends),
            color=_NEUTRAL,
            linewidth=1,
            linestyle="--",
            label=p.box_words,
        )
    _below(axes, 3)


LAW_FIGURES: dict[type, Callable[[Any, Any], None]] = {
    IsoLossPicture: _iso_loss,
    IsoFlopPicture: _iso_flop,
    ResidualPicture: _residuals,
    ExtrapolationPicture: _extrapolation,
}
