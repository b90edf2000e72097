"""Measure this machine, serve every setting for real and simulated, and write docs/accuracy.md.

    python scripts/write_fidelity.py            measures and serves: twenty minutes on two cores
    python scripts/write_fidelity.py --stored   the page again, from docs/fidelity-results.json
    python scripts/write_fidelity.py --device cuda:0 --out gpu.json    another device, kept apart

`plimsoll reproduce fidelity` runs the same settings and judges them. Colors: Okabe-Ito.
"""

import argparse
import json
import platform
import statistics
import sys
from pathlib import Path
from typing import Any

from plimsoll.catalog.fidelity import compare_clocks, measured_here
from plimsoll.evals.fidelity import FIGURES, Cell, error_summary
from plimsoll.spec.io import from_data, plain, write_text

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, RESULTS = DOCS / "accuracy.md", DOCS / "fidelity-results.json"
PICTURE = DOCS / "pictures" / "fidelity.png"
START = "<!-- fidelity tables: written by scripts/write_fidelity.py -->"
END = "<!-- end of fidelity tables -->"
BARS = {"ttft_p50_s": 12, "ttft_p99_s": 25, "tpot_p50_s": 12, "tpot_p99_s": 25, "tokens_per_s": 8}
NAMES = {
    "ttft_p50_s": "TTFT median",
    "ttft_p99_s": "TTFT P99",
    "tpot_p50_s": "TPOT median",
    "tpot_p99_s": "TPOT P99",
    "tokens_per_s": "tokens/s",
}
COLORS = {"30 %": "#0072B2", "60 %": "#E69F00", "full": "#D55E00"}
MARKERS = {"chunked-prefill": "o", "prefill-first": "^"}


def measure(device: str) -> dict[str, Any]:
    """Everything that the page shows."""
    found = measured_here(device, say=_say)
    assert found.measured is not None
    cells, roofline = compare_clocks(found, device=device, say=_say)
    (kernels,) = found.measured.kernels.values()
    return {
        "device": device,
        "processor": found.name if device != "cpu" else platform.machine(),
        "cores": found.num_cores,
        "num_threads": found.measured.num_threads,
        "software": found.measured.software,
        "as_of": found.as_of,
        "pass_error_fraction": kernels.pass_error_fraction,
        "num_passes": kernels.num_passes,
        "cells": [plain(c) for c in cells],
        "roofline": [plain(c) for c in roofline],
    }


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def _cells(rows: list[Any]) -> list[Cell]:
    return [from_data(Cell, row, where="results") for row in rows]


def section(results: dict[str, Any]) -> str:
    """The text between the marks."""
    cells, roofline = _cells(results["cells"]), _cells(results["roofline"])
    requests = sum(c.num_requests for c in cells)
    lines = [
        START,
        "## Simulator against the real engine",
        "",
        f"The same plan and the same requests, simulated and served: {len(cells)} settings, "
        f"{requests:,} requests, {sum(c.real_s for c in cells) / 60:.0f} minutes of real serving "
        f"on {results['device']} ({results['cores']} cores, {results['num_threads']} threads; "
        f"{results['software']}; {results['as_of']}). Models are random Llamas in fp32 of sizes "
        "that no calibration measures; two loads are Poisson arrivals at 30 % and 60 % of what "
        "the simulator says is the most, *full* keeps 16 requests in flight. The clock comes from "
        "`plimsoll calibrate`, run just before: "
        f"{100 * results['pass_error_fraction']:.1f} % median error at {results['num_passes']} "
        "whole passes of other models. *Roofline* is the same simulation on a roofline of the "
        "machine's peaks. Made by `python scripts/write_fidelity.py`; "
        "`plimsoll reproduce fidelity` judges a fresh run.",
        "",
        "| figure | aim | median error | largest | roofline, median |",
        "|---|---|---|---|---|",
    ]
    for figure in FIGURES:
        middle, worst = error_summary(cells, figure)
        other, _ = error_summary(roofline, figure)
        lines.append(
            f"| {NAMES[figure]} | {BARS[figure]} % | {middle:.1%} | {worst:.1%} | {other:.1%} |"
        )
    lines += [
        "",
        "| model | load | policy | requests | "
        + " | ".join(f"{NAMES[f]}: real, simulated" for f in FIGURES)
        + " |",
        "|---|---|---|---|" + "---|" * len(FIGURES),
    ]
    for c in cells:
        shown = " | ".join(_pair(c, figure) for figure in FIGURES)
        lines.append(f"| {c.model} | {c.load} | {c.policy} | {c.num_requests} | {shown} |")
    lines += ["", "![Simulated against real](pictures/fidelity.png)", END]
    return "\n".join(lines)


def _pair(cell: Cell, figure: str) -> str:
    real, simulated = getattr(cell.real, figure), getattr(cell.simulated, figure)
    if figure == "tokens_per_s":
        return f"{real:.0f}, {simulated:.0f} ({cell.error(figure):+.0%})"
    return f"{real * 1e3:.3g}, {simulated * 1e3:.3g} ms ({cell.error(figure):+.0%})"


def draw(results: dict[str, Any], path: Path) -> None:
    """Simulated over real, one panel for each of TTFT and TPOT; filled median, hollow P99."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cells = _cells(results["cells"])
    figure, panels = pyplot.subplots(1, 2, figsize=(9.0, 4.4), layout="constrained")
    for panel, metric in zip(panels, ("ttft", "tpot"), strict=True):
        values = []
        for c in cells:
            for part, filled in (("p50", True), ("p99", False)):
                real, simulated = (
                    1e3 * getattr(side, f"{metric}_{part}_s") for side in (c.real, c.simulated)
                )
                values += [real, simulated]
                color = COLORS[c.load]
                panel.plot(
                    real, simulated, MARKERS[c.policy], color=color, alpha=0.9,
                    markerfacecolor=color if filled else "none",
                )  # fmt: skip
        ends = (min(values) / 1.3, max(values) * 1.3)
        for band, shade in ((0.25, "#e6e9ed"), (0.12, "#cfd5dc")):
            panel.fill_between(
                ends, [x / (1 + band) for x in ends], [x * (1 + band) for x in ends],
                color=shade, zorder=0, linewidth=0,
            )  # fmt: skip
        panel.plot(ends, ends, color="#555555", linewidth=0.8, zorder=1)
        panel.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
        errors = [
            statistics.median(abs(c.error(f"{metric}_{p}_s")) for c in cells)
            for p in ("p50", "p99")
        ]
        panel.set_title(
            f"{metric.upper()}: median {errors[0]:.1%} off, P99 {errors[1]:.1%}", fontsize=11
        )
        panel.set_xlabel("real (ms)")
        panel.set_ylabel("simulated (ms)")
    marks = [
        pyplot.Line2D([], [], marker="s", linestyle="", color=color, label=f"load {load}")
        for load, color in COLORS.items()
    ]
    marks += [
        pyplot.Line2D([], [], marker=mark, linestyle="", color="#555555", label=policy)
        for policy, mark in MARKERS.items()
    ]
    marks += [
        pyplot.Line2D([], [], marker="o", linestyle="", color="#555555", label="median"),
        pyplot.Line2D(
            [], [], marker="o", linestyle="", color="#555555", markerfacecolor="none", label="P99"
        ),
    ]
    panels[0].legend(handles=marks, fontsize=8, loc="upper left", frameon=False)
    figure.suptitle("Same plan, same requests; bands of 12 % and 25 %", fontsize=10)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Measure or read, then write the section and the picture."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--stored", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if not options.stored:
        write_text(json.dumps(measure(options.device), indent=1) + "\n", options.out)
    results = json.loads(options.out.read_text(encoding="utf-8"))
    if options.out != RESULTS:
        print(section(results))
        return
    text = PAGE.read_text(encoding="utf-8")
    if START in text:
        before, rest = text.split(START, 1)
        text = before + section(results) + rest.split(END, 1)[1]
    else:
        title, rest = text.split("\n", 1)
        text = f"{title}\n\n{section(results)}\n{rest}"
    write_text(text, PAGE)
    draw(results, PICTURE)


if __name__ == "__main__":
    main()
