"""Train the forecasters of series of every size, architecture, seed and share of data; keep scores.

    python scripts/write_series_runs.py [--arch encoder] [--part sizes] [--seeds 0 1] [--out FOLDER]

Rows are added to series_runs.csv, series_looks.csv and series_rates.csv as runs end, and what is
there is not run again, so an interrupted sweep goes on where it was; architectures and parts may
run side by side. When the last run ends the tables are sorted and series_runs.yaml says how they
came about; tables that are whole stay as they are. About twelve CPU minutes in all.
"""

import argparse
import csv
import platform
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
import yaml

from plimsoll.catalog import tsfm_runs as runs
from plimsoll.spec.csv_records import csv_line
from plimsoll.spec.io import write_text

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from scripts.run_rows import append, unlock, whole_text  # noqa: E402

FOLDER = Path(__file__).parents[1] / "plimsoll" / "library" / "laws"
SEEDS = (0, 1, 2)
DATA_WIDTH = 64
RUNS, LOOKS, RATES = "series_runs.csv", "series_looks.csv", "series_rates.csv"
ABOUT = "series_runs.yaml"
SCORES = ("excess", "error", "bound", "horizon_excess", "mape", "mase")
RUN_COLUMNS = (
    "arch",
    "width",
    "params",
    "seed",
    "rate",
    "share",
    "data_tokens",
    "seen_tokens",
    *(f"{kind}_{name}" for kind in ("id", "ood") for name in SCORES),
)
LOOK_COLUMNS = ("arch", "params", "seed", "tokens", "excess")
RATE_COLUMNS = ("arch", "width", "rate", "tried")


def rows_of(path: Path) -> list[dict[str, str]]:
    """Rows so far."""
    return list(csv.DictReader(whole_text(path).splitlines()))


def lines_of(rows: Iterable[tuple[object, ...]]) -> str:
    """Rows as text."""
    return "".join(csv_line(str(cell) for cell in row) for row in rows)


def add(path: Path, columns: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> None:
    """Append rows; a new file gets its header."""
    append(path, lines_of(rows), header=lines_of([columns]))


def cells(arch: runs.Arch, part: str = "") -> list[tuple[int, int, float]]:
    """(width, seed, share) of an architecture, seed by seed; "sizes", "data" or both."""
    sizes = [(width, seed, 1.0) for seed in SEEDS for width in runs.WIDTHS]
    data = [(DATA_WIDTH, seed, share) for seed in SEEDS for share in runs.SHARES]
    return [*(sizes if part != "data" else ()), *(data if part != "sizes" else ())]


def scores(scored: runs.Scored) -> list[str]:
    """Cells of a row, in the order of ``SCORES``."""
    excess = scored.next_excess
    error = excess.std(ddof=1) / np.sqrt(len(excess))
    numbers = (
        excess.mean(),
        error,
        scored.next_bound,
        scored.all_excess.mean(),
        scored.mape,
        scored.mase,
    )
    return [f"{number:.6g}" for number in numbers]


def sweep(arch: runs.Arch, out: Path, part: str, seeds: Sequence[int]) -> int:
    """Train the runs of an architecture that are not there yet; how many those were."""
    trained = 0
    for width in runs.WIDTHS:
        known = {(row["arch"], row["width"]) for row in rows_of(out / RATES)}
        if (arch, str(width)) not in known:
            torch.set_num_threads(1)
            rate, tried = runs.tuned_rate(arch, width)
            words = " ".join(f"{r:g}:{loss:.4f}" for r, loss in tried.items())
            add(out / RATES, RATE_COLUMNS, [(arch, width, f"{rate:g}", words)])
            print(arch, width, "rate", rate, words, flush=True)
    rates = {
        int(row["width"]): float(row["rate"]) for row in rows_of(out / RATES) if row["arch"] == arch
    }
    for width, seed, share in cells(arch, part):
        done = {
            (row["arch"], row["width"], row["seed"], row["share"]) for row in rows_of(out / RUNS)
        }
        if seed not in seeds or (arch, str(width), str(seed), f"{share:g}") in done:
            continue
        began = time.process_time()
        cell = runs.Cell(arch=arch, width=width, seed=seed, rate=rates[width], share=share)
        run = runs.run_cell(cell)
        if share == 1.0:
            looks = [
                (arch, run.params, seed, look.tokens, f"{look.excess:.6g}") for look in run.looks
            ]
            add(out / LOOKS, LOOK_COLUMNS, looks)
        row = (arch, width, run.params, seed, f"{rates[width]:g}", f"{share:g}")
        row += (
            run.data_tokens,
            run.seen_tokens,
            *scores(run.scores["id"]),
            *scores(run.scores["ood"]),
        )
        add(out / RUNS, RUN_COLUMNS, [row])
        print(*row, f"{time.process_time() - began:.0f} s", flush=True)
        trained += 1
    return trained


def whole(out: Path) -> bool:
    """Whether all runs are there."""
    have = {(r["arch"], r["width"], r["seed"], r["share"]) for r in rows_of(out / RUNS)}
    wanted = {
        (arch, str(width), str(seed), f"{share:g}")
        for arch in runs.ARCHITECTURES
        for width, seed, share in cells(arch)
    }
    return wanted <= have


def finish(out: Path) -> None:
    """Sort the tables and write where they come from."""
    for name, columns, order in (
        (RUNS, RUN_COLUMNS, ("share", "width", "seed")),
        (LOOKS, LOOK_COLUMNS, ("params", "seed", "tokens")),
        (RATES, RATE_COLUMNS, ("width",)),
    ):
        once = {tuple(row[key] for key in ("arch", *order)): row for row in rows_of(out / name)}
        rows = list(once.values())
        rows.sort(key=lambda row: (row["arch"], *(float(row[key]) for key in order)))
        text = lines_of([columns, *(tuple(row[column] for column in columns) for row in rows)])
        write_text(text, out / name)
    about = {
        "source": "scripts/write_series_runs.py",
        "as_of": time.strftime("%Y-%m-%d", time.gmtime()),
        "settings": {
            "tokens": runs.TOKENS,
            "patch_points": runs.PATCH,
            "context_patches": runs.CONTEXT,
            "forecast_patches": runs.FORECAST,
            "batch_series": runs.BATCH,
            "seeds": list(SEEDS),
            "data_axis_width": DATA_WIDTH,
        },
        "columns": {
            "params": "weights of the blocks' products, no embedding or head",
            "data_tokens": "distinct patches in the pool trained on",
            "seen_tokens": "patches in all batches, repeats counted",
            "excess": "nats a normalised point above the generators' entropy, first patch",
            "error": "standard error of excess over test series",
            "bound": "that entropy, same normalisation",
            "horizon_excess": "the same for all patches to forecast, a decoder's by sampled paths",
            "mape": "percent, median forecast of all patches",
            "mase": "ratio, median forecast of all patches",
        },
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
        },
    }
    write_text(yaml.safe_dump(about, sort_keys=False, width=100), out / ABOUT)


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", choices=runs.ARCHITECTURES, help="only this one")
    parser.add_argument("--part", choices=("sizes", "data"), default="", help="only these cells")
    parser.add_argument("--seeds", type=int, nargs="+", choices=SEEDS, default=SEEDS)
    parser.add_argument("--out", type=Path, default=FOLDER)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    trained = sum(
        sweep(arch, given.out, given.part, given.seeds)
        for arch in ((given.arch,) if given.arch else runs.ARCHITECTURES)
    )
    if not whole(given.out):
        print("runs are still missing")
        return
    if trained or not (given.out / ABOUT).exists():
        finish(given.out)
    for name in (RUNS, LOOKS, RATES):
        unlock(given.out / name)
    print("complete")


if __name__ == "__main__":
    main()
