"""Draw predictions against measurements, from a table that ``plimsoll validate --out`` wrote.

    python scripts/plot_accuracy.py predictions.csv                   to docs/pictures/
    python scripts/plot_accuracy.py predictions.csv --folder figures

One picture for TPOT and one for TTFT, aggregated and disaggregated rows side by side, on
logarithmic axes with y = x and the bands of 10 % and 25 %. Each panel says how many rows it
shows, their median and mean error, and what was left out. Every row that is measured and
predicted is drawn. The picture is kept as SVG or as PNG, whichever file is smaller.
Colors: Okabe-Ito, with a marker for each system; source https://jfly.uni-koeln.de/color/.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from plimsoll.evals.prediction_error import error_row, ordered_groups
from plimsoll.report.wording import FAMILY_COLORS, bound_text, ticks_1_2_5
from plimsoll.spec.deployment_rows import DeploymentTable, read_deployments
from plimsoll.spec.errors import PlimsollError, SpecError

__all__ = ["plot_accuracy"]

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "pictures"
METRICS = {"tpot": "TPOT", "ttft": "TTFT"}
MODES = {"agg": "Aggregated", "disagg": "Disaggregated"}
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
BANDS = ((0.25, "#dfe3e8"), (0.10, "#bcc4cd"))
LAYERS = 16
SIZE_IN = (8.0, 5.2)
PNG_DOTS_PER_IN = 130

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Points:
    """The rows of one panel; NaN where not measured or not predicted."""

    measured_s: Floats
    predicted_s: Floats
    low_s: Floats
    high_s: Floats
    systems: tuple[str, ...]

    @property
    def shown(self) -> npt.NDArray[np.bool_]:
        """Rows that are both measured and predicted."""
        return np.isfinite(self.measured_s) & np.isfinite(self.predicted_s)


def plot_accuracy(predictions: Path, folder: Path = FOLDER, *, title: str = "") -> list[Path]:
    """The pictures of one table of predictions, written to ``folder``; returns their paths.

    ``title`` is put behind the name of the quantity, as in "held-out rows".

    Raises:
        SpecError: the file is no table of deployments, or has no prediction columns.
    """
    table = read_deployments(predictions)
    if "pred_tpot_ms" not in table.header:
        raise SpecError(
            f"{predictions}: line 1: column pred_tpot_ms is missing; expected a file that "
            "`plimsoll validate FILE --out PREDICTIONS` wrote"
        )
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for metric in METRICS:
        panels = {mode: _points(table, metric, mode) for mode in MODES}
        if any(points.shown.any() for points in panels.values()):
            figure = _figure(metric, panels, title)
            written.append(_save(figure, folder, f"accuracy-{metric}"))
    return written


def _points(table: DeploymentTable, metric: str, mode: str) -> Points:
    chosen = [k for k, row in enumerate(table.rows) if row.mode == mode]

    def seconds(column: str) -> Floats:
        cells = table.column(column)
        found = [float(cells[k]) / 1e3 if cells[k] else np.nan for k in chosen]
        return np.array(found, dtype=np.float64)

    return Points(
        measured_s=seconds(f"{metric}_ms"),
        predicted_s=seconds(f"pred_{metric}_ms"),
        low_s=seconds(f"pred_{metric}_ms_p10"),
        high_s=seconds(f"pred_{metric}_ms_p90"),
        systems=tuple(table.rows[k].system for k in chosen),
    )


def _figure(metric: str, panels: dict[str, Points], title: str) -> Any:
    from matplotlib.figure import Figure

    shown = {mode: points for mode, points in panels.items() if points.shown.any()}
    every = np.concatenate(
        [values[p.shown] for p in shown.values() for values in (p.measured_s, p.predicted_s)]
    )
    limits = float(every.min()) / 1.25, float(every.max()) * 1.25
    systems = ordered_groups([name for points in panels.values() for name in points.systems])
    width = SIZE_IN[0] if len(shown) > 1 else SIZE_IN[0] * 0.6
    figure = Figure(figsize=(width, SIZE_IN[1]), layout="constrained")
    heading = f"{METRICS[metric]}, predicted against measured"
    figure.suptitle(f"{heading}, {title}" if title else heading, fontsize=11, fontweight="bold")
    axes = figure.subplots(1, len(shown), sharex=True, sharey=True, squeeze=False)[0]
    for (mode, points), panel in zip(shown.items(), axes, strict=True):
        _panel(panel, points, limits, systems)
        panel.set_title(_caption(mode, points), fontsize=8.5, loc="left")
        panel.set_xlabel(f"measured {METRICS[metric]}")
    axes[0].set_ylabel(f"predicted {METRICS[metric]}")
    handles: dict[str, Any] = {}
    for panel in axes:
        handles |= dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    legend = figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=len(handles),
        fontsize=8,
        frameon=False,
        columnspacing=1.2,
        handletextpad=0.4,
        markerscale=2,
    )
    for handle in filter(None, legend.legend_handles):
        handle.set_alpha(1)
    return figure


def _panel(axes: Any, points: Points, limits: tuple[float, float], systems: Sequence[str]) -> None:
    line = np.array(limits)
    for share, color in BANDS:
        label = f"± {share:.0%}".replace("%", " %")
        edges = line * (1 - share), line * (1 + share)
        axes.fill_between(line, *edges, color=color, linewidth=0, zorder=0, label=label)
        for edge in edges:
            axes.plot(line, edge, color="#6b7480", linewidth=0.5, linestyle=":", zorder=3)
    axes.plot(line, line, color="#404040", linewidth=0.8, zorder=3, label="predicted = measured")
    names = np.array(points.systems, dtype=object)
    groups = [np.flatnonzero(points.shown & (names == system)) for system in systems]
    for part in range(LAYERS):  # in turns, so that no system hides another
        for k, rows in enumerate(groups):
            chosen = rows[part::LAYERS]
            axes.scatter(
                points.measured_s[chosen],
                points.predicted_s[chosen],
                s=7,
                marker=MARKERS[k % len(MARKERS)],
                color=FAMILY_COLORS[k % len(FAMILY_COLORS)],
                alpha=0.45,
                linewidths=0,
                zorder=2,
                label=systems[k] if len(rows) and not part else None,
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(limits)
    axes.set_ylim(limits)
    axes.set_aspect("equal")
    ticks = ticks_1_2_5(*limits)
    if len(ticks) > 9:
        ticks = [tick for tick in ticks if f"{tick:.0e}"[0] == "1"]
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(ticks, labels=[bound_text(tick) for tick in ticks])
        axis.set_ticks([], minor=True)
    axes.tick_params(labelsize=6.5)
    axes.grid(True, color="#b8bec5", linewidth=0.4, zorder=0.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _caption(mode: str, points: Points) -> str:
    row = error_row(points.measured_s, points.predicted_s, points.low_s, points.high_s)
    if row is None:
        return MODES[mode]
    measured = np.isfinite(points.measured_s)
    left_out = [
        f"{count:,} {why}"
        for why, count in (
            ("not predicted", int((measured & ~points.shown).sum())),
            ("not measured", int((~measured).sum())),
        )
        if count
    ]
    return (
        f"{MODES[mode]}: {row.num_rows:,} rows\nerror: median {row.median_error_fraction:.1%}, "
        f"mean {row.mean_error_fraction:.1%}\nleft out: {', '.join(left_out) or 'none'}"
    ).replace("%", " %")


def _save(figure: Any, folder: Path, stem: str) -> Path:
    """The figure as SVG or PNG, whichever is smaller; an old one of the other kind goes."""
    import matplotlib

    files: dict[str, bytes] = {}
    settings: dict[Any, Any] = {"svg.hashsalt": "plimsoll", "svg.fonttype": "none"}
    with matplotlib.rc_context(settings):
        for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
            held = io.BytesIO()
            figure.savefig(held, format=kind, dpi=PNG_DOTS_PER_IN, metadata=metadata)
            files[kind] = held.getvalue()
    best = min(files, key=lambda kind: len(files[kind]))
    path = folder / f"{stem}.{best}"
    temporary = folder / f".{path.name}.partial"
    temporary.write_bytes(files[best])
    temporary.replace(path)
    for kind in files:
        if kind != best:
            (folder / f"{stem}.{kind}").unlink(missing_ok=True)
    return path


def main() -> int:
    """Draw what the command line names; 2 if the file cannot be drawn."""
    parser = argparse.ArgumentParser(description="Draw predictions against measurements.")
    parser.add_argument("predictions", type=Path, help="as plimsoll validate --out wrote it")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--title", default="", help="put behind the name of the quantity")
    arguments = parser.parse_args()
    try:
        paths = plot_accuracy(arguments.predictions, arguments.folder, title=arguments.title)
    except PlimsollError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    for path in paths:
        print(f"{path}: {path.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
