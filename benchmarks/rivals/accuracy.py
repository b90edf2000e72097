"""Measured deployments beside what each tool says of them: error, coverage and time."""

from dataclasses import dataclass
from pathlib import Path

import ours
import venvs
from error_table import Predictions, read_answer, reasons, table
from rows import GROUPS, Row, group_of, read_rows, sample, to_csv
from venvs import Unavailable

RIVALS = {
    "AIConfigurator": ("aiconfigurator", "drive_aiconfigurator.py"),
    "AISimulate": ("aisimulate", "drive_aisimulate.py"),
}
CAVEAT = (
    "Plimsoll's coefficients were fitted on this file, so its errors below are of rows it has",
    "seen; errors of rows held out are in docs/accuracy.md, and --ours takes such predictions.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the command line asked for."""

    file: Path
    cache: Path
    num_rows: int | None
    seed: int
    ours: Path | None
    keep: Path | None


def _rival(name: str, rows: list[Row], cache: Path) -> Predictions:
    environment, driver = RIVALS[name]
    python = venvs.python_of(cache, environment, venvs.REQUIREMENTS[environment])
    answer, cost = venvs.ask(python, driver, "rows", to_csv(rows))
    found = read_answer(name, answer["rows"])
    print(
        f"{name}: {cost.cpu_s:,.0f} CPU s for {len(rows)} rows, "
        f"{cost.cpu_s / len(rows):.2f} s a row, whole process"
    )
    return found


def _ours(rows: list[Row], given: Path | None) -> Predictions:
    if given is not None:
        return ours.read_predictions(ours.GIVEN, given, rows)
    found, cost = ours.predict(rows)
    print(
        f"Plimsoll: {cost.cpu_s:,.0f} CPU s for {len(rows)} rows, "
        f"{cost.cpu_s / len(rows):.2f} s a row, whole process"
    )
    return found


def keep(folder: Path, found: Predictions) -> None:
    """Write the predictions of one tool as id, ttft_ms, tpot_ms."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{i},{t['ttft_ms']:.4f},{t['tpot_ms']:.4f}\n" for i, t in found.times.items()]
    name = found.tool.split()[0].strip(",").lower()
    (folder / f"{name}_rows.csv").write_text("id,ttft_ms,tpot_ms\n" + "".join(lines))


def report(asked: Asked) -> None:
    """Ask everybody, then print the tables."""
    if not asked.file.exists():
        print(f"accuracy left out: {asked.file.name} is not here; give --data FOLDER")
        return
    every = read_rows(asked.file)
    rows = every if asked.num_rows is None else sample(every, asked.num_rows, asked.seed)
    counts = ", ".join(f"{sum(group_of(r) == g for r in rows)} {g}" for g in GROUPS)
    print(f"{len(rows)} of {len(every):,} rows of {asked.file.name}, seed {asked.seed}: {counts}")
    if asked.ours is None:
        print("\n".join(CAVEAT))
    found: list[Predictions] = []
    for name in ("Plimsoll", *RIVALS):
        try:
            if name == "Plimsoll":
                found.append(_ours(rows, asked.ours))
            else:
                found.append(_rival(name, rows, asked.cache))
        except Unavailable as error:
            print(f"{name} left out: {error}")
    for line in table(rows, found):
        print(line)
    for predictions in found:
        if asked.keep is not None:
            keep(asked.keep, predictions)
        if predictions.reasons:
            print(f"\nnot predicted by {predictions.tool}, of {len(rows)}")
            print("\n".join(reasons(predictions)))
