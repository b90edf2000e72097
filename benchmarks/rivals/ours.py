"""Plimsoll's side of each comparison, run as the commands a user would run.

Rows go through ``plimsoll validate``; the search and the hour are the scripts beside this folder.
Left out: predictions out of fold, which take a fit a fold; a file of them can be given instead.
"""

import csv
import json
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import venvs
from error_table import Predictions
from rows import Row, to_csv
from venvs import Cost, Unavailable

BENCHMARKS = Path(__file__).resolve().parents[1]
FITTED = "Plimsoll, fitted on this file"
GIVEN = "Plimsoll, given predictions"


def read_predictions(tool: str, path: Path, rows: list[Row]) -> Predictions:
    """Predictions of the asked rows from a file with pred_ttft_ms and pred_tpot_ms columns."""
    asked = {row["id"] for row in rows}
    times: dict[str, dict[str, float]] = {}
    reasons: dict[str, str] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["id"] not in asked:
                continue
            if row["pred_ttft_ms"] and row["pred_tpot_ms"]:
                times[row["id"]] = {
                    "ttft_ms": float(row["pred_ttft_ms"]),
                    "tpot_ms": float(row["pred_tpot_ms"]),
                }
            else:
                reasons[row["id"]] = row.get("note") or "no prediction in the file"
    for missing in asked - times.keys() - reasons.keys():
        reasons[missing] = "not in the file"
    return Predictions(tool=tool, times=times, reasons=reasons)


def predict(rows: list[Row]) -> tuple[Predictions, Cost]:
    """``plimsoll validate`` on the rows.

    Raises:
        Unavailable: the command is not there or failed.
    """
    plimsoll = [sys.executable, "-m", "plimsoll.cli.main", "validate"]
    try:
        venvs.run([*plimsoll, "--help"], timeout_s=60)
    except Unavailable as error:
        raise Unavailable(
            "this Plimsoll has no command validate; update it or give --ours PRED.csv"
        ) from error
    with tempfile.TemporaryDirectory() as name:
        source, target = Path(name) / "rows.csv", Path(name) / "predictions.csv"
        source.write_text(to_csv(rows))
        _, cost = venvs.run([*plimsoll, str(source), "--out", str(target)], timeout_s=7200)
        return read_predictions(FITTED, target, rows), cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """What benchmarks/search_speed.py printed."""

    plans: int
    first_cpu_s: float
    later_cpu_s: float


def search(repeats: int) -> Searched:
    """Rank the plan space of the question; see benchmarks/search_speed.py."""
    script = str(BENCHMARKS / "search_speed.py")
    printed, _ = venvs.run([sys.executable, script, str(max(1, repeats))], timeout_s=600)
    plans = re.search(r"plans enumerated ([\d,]+)", printed)
    times = re.search(r"first ([\d.]+), then median ([\d.]+)", printed)
    if plans is None or times is None:
        raise Unavailable("search_speed.py printed neither plans nor times; update ours.py")
    return Searched(
        plans=int(plans[1].replace(",", "")),
        first_cpu_s=float(times[1]),
        later_cpu_s=float(times[2]),
    )


def hour() -> tuple[float, Cost]:
    """CPU seconds of the simulated hour, and of the whole process that ran it."""
    script = str(BENCHMARKS / "simulator_speed.py")
    printed, cost = venvs.run([sys.executable, script, "--once", "hour"], timeout_s=600)
    return float(json.loads(printed)["cpu_s"]), cost
