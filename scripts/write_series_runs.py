"""Train the forecasters of series of every size, architecture, seed and share of data; keep scores.

    python scripts/write_series_runs.py [--arch encoder] [--part sizes] [--seeds 0 1] [--out FOLDER]

Rows are added to series_runs.csv, series_looks.csv and series_rates.csv as runs end, and what is
there is not run again, so an interrupted sweep goes on where it was; architectures and parts may
run side by side. When all runs are there the tables are sorted and series_runs.yaml says how they
came about. About twelve CPU minutes in all.
"""

import argparse
import csv
import platform
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
import yaml

from plimsoll.catalog import tsfm_runs as runs

FOLDER = Path(__file__).parents[1] / "plimsoll" / "library" / "laws"
SEEDS = (0, 1, 2)
DATA_WIDTH = 64
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
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def add(path: Path, columns: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> None:
    """Append rows in one write; a new file gets its header."""
    lines = [",".join(columns)] if not path.exists() else []
    lines += [",".join(str(cell) for cell in row) for row in rows]
    with path.open("a", encoding="utf-8", newline="") as file:
        file.write("\n".join(lines) + "\n")


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


def sweep(arch: runs.Arch, out: Path, part: str, seeds: Sequence[int]) -> None:
    """The runs of an architecture that are not there yet."""
    for width in runs.WIDTHS:
        known = {(row["arch"], row["width"]) for row in rows_of(out / "series_rates.csv")}
        if (arch, str(width)) not in known:
            rate, tried = runs.tuned_rate(arch, width)
            words = " ".join(f"{r:g}:{loss:.4f}" for r, loss in tried.items())
            add(out / "series_rates.csv", RATE_COLUMNS, [(arch, width, f"{rate:g}", words)])
            print(arch, width, "rate", rate, words, flush=True)
    rates = {
        int(row["width"]): float(row["rate"])
        for row in rows_of(out / "series_rates.csv")
        if row["arch"] == arch
    }
    for width, seed, share in cells(arch, part):
        done = {
            (row["arch"], row["width"], row["seed"], row["share"])
            for row in rows_of(out / "series_runs.csv")
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
            add(out / "series_looks.csv", LOOK_COLUMNS, looks)
        row = (arch, width, run.params, seed, f"{rates[width]:g}", f"{share:g}")
        row += (
            run.data_tokens,
            run.seen_tokens,
            *scores(run.scores["id"]),
            *scores(run.scores["ood"]),
        )
        add(out / "series_runs.csv", RUN_COLUMNS, [row])
        print(*row, f"{time.process_time() - began:.0f} s", flush=True)


def finish(out: Path) -> bool:
    """Sort the tables and write where they come from, if all runs are there."""
    have = rows_of(out / "series_runs.csv")
    if len(have) < sum(len(cells(arch)) for arch in runs.ARCHITECTURES):
        return False
    for name, columns, order in (
        ("series_runs.csv", RUN_COLUMNS, ("share", "width", "seed")),
        ("series_looks.csv", LOOK_COLUMNS, ("params", "seed", "tokens")),
        ("series_rates.csv", RATE_COLUMNS, ("width",)),
    ):
        once = {tuple(row[key] for key in ("arch", *order)): row for row in rows_of(out / name)}
        rows = list(once.values())
        rows.sort(key=lambda row: (row["arch"], *(float(row[key]) for key in order)))
        (out / name).unlink()
        add(out / name, columns, [tuple(row[column] for column in columns) for row in rows])
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
    text = yaml.safe_dump(about, sort_keys=False, width=100)
    (out / "series_runs.yaml").write_text(text, encoding="utf-8")
    return True


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", choices=runs.ARCHITECTURES, help="only this one")
    parser.add_argument("--part", choices=("sizes", "data"), default="", help="only these cells")
    parser.add_argument("--seeds", type=int, nargs="+", choices=SEEDS, default=SEEDS)
    parser.add_argument("--out", type=Path, default=FOLDER)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    for arch in (given.arch,) if given.arch else runs.ARCHITECTURES:
        sweep(arch, given.out, given.part, given.seeds)
    print("complete" if finish(given.out) else "runs are still missing")


if __name__ == "__main__":
    main()
