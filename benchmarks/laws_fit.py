"""How fast are fits of scaling laws, and are they as good as scipy from many starts?

Usage: python benchmarks/laws_fit.py [DATA] [repeats]

DATA holds the public tables (laws/overtraining_models.csv, …). Every form that does not refuse is
fitted to the runs of each corpus, and the laws of streams to the published losses of streams, which
need no file. Beside it, in the same run and on the same objective with the same exact gradient,
scipy starts from 64 Sobol points of a box of sensible values: L-BFGS-B, and least_squares with its
Huber loss; the better of the two counts. Then the fits that are no loss surface (repeated data, the
trend of density), and predictions a second. CPU seconds; imports not counted.
"""

import csv
import platform
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares, minimize
from scipy.stats import qmc

from plimsoll.catalog.contract import Context, System
from plimsoll.catalog.data_filtering import SYSTEM as DATA_FILTERING
from plimsoll.catalog.densing_law import SYSTEM as DENSING_LAW
from plimsoll.catalog.parscale_published import losses
from plimsoll.laws.compare import compare
from plimsoll.laws.fit import DELTA, bootstrap, fit
from plimsoll.laws.forms import FORMS
from plimsoll.laws.forms.contract import Floats, LossForm
from plimsoll.laws.minimise import huber
from plimsoll.laws.table import LossTable
from plimsoll.spec.errors import InfeasibleError

_STARTS = 64
_POINTS = 1_000_000
_SENSIBLE: dict[str, tuple[tuple[float, float], ...]] = {
    "chinchilla": ((-1, 1), (0, 20), (0, 20), (0.1, 1), (0.1, 1)),
    "chinchilla-q": ((-1, 1), (0, 20), (0, 20), (0.1, 1), (0.1, 1), (-1, 1)),
    "kaplan": ((20, 40), (20, 40), (0.03, 0.5), (0.03, 0.5)),
    "parscale": ((-1, 1), (-6, 0), (0.05, 0.6), (0.05, 1.5)),
    "power-streams": ((-1, 1), (-6, 0), (0.05, 0.6), (0.05, 1)),
}
"""Where a careful user would start each coordinate, as the forms list them."""


def _corpora(folder: Path) -> list[LossTable]:
    with (folder / "overtraining_models.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    tables = []
    for corpus in sorted({row["corpus"] for row in rows}):
        own = [row for row in rows if row["corpus"] == corpus]
        columns = {k: np.array([float(row[k]) for row in own]) for k in ("params", "tokens")}
        loss = np.array([float(row["loss_c4_val"]) for row in own])
        tables.append(LossTable(name=corpus, columns=columns, loss=loss))
    return tables


def _scipy(form: LossForm, table: LossTable) -> float:
    """The lowest mean Huber loss of both methods over all starts."""
    x = {name: table.column(name) for name in form.inputs}
    log_loss = np.log(table.loss)
    low = np.array([c.low for c in form.coordinates])
    high = np.array([c.high for c in form.coordinates])
    box = np.array(_SENSIBLE[form.name])
    starts = qmc.scale(qmc.Sobol(len(low), seed=0).random(_STARTS), box[:, 0], box[:, 1])

    def residuals(theta: Floats) -> Floats:
        return form.log_loss(theta, x) - log_loss

    def objective(theta: Floats) -> tuple[float, Floats]:
        off = residuals(theta)
        slope = form.gradient(theta, x).T @ np.clip(off, -DELTA, DELTA)
        return float(huber(off, DELTA).mean()) / DELTA, slope / len(off) / DELTA

    best = np.inf
    for start in starts:
        first = minimize(
            objective,
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=list(zip(low, high, strict=True)),
            options={"maxiter": 2000, "ftol": 1e-14, "gtol": 1e-10},
        )
        second = least_squares(
            residuals,
            start,
            jac=lambda theta: form.gradient(theta, x),
            bounds=(low, high),
            loss="huber",
            f_scale=DELTA,
            x_scale="jac",
        )
        for theta in (first.x, second.x):
            best = min(best, float(huber(residuals(theta), DELTA).mean()))
    return best


def _checks_s(system: System, context: Context) -> float:
    """CPU seconds of the checks of a system that fit a shipped table, a line each."""
    total = 0.0
    for check in system.checks:
        if check.how != "derived" or not check.fitted_on:
            continue
        taken = _cpu_s(partial(check.compute, context))
        total += taken
        print(f"{system.id:14} {check.title[:70]:70} {taken:.2f} s")
    return total


def _cpu_s(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    """Print a line a fit, the total, and predictions a second."""
    data = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    repeats = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    print(f"{platform.machine()}, Python {platform.python_version()}, {repeats} repeats")
    print(f"{'table':14} {'form':14} {'ours':>9} {'scipy':>9} {'times':>7}  loss over scipy's")
    corpora = _corpora(data / "laws") if data else []
    tables = [*corpora, losses("stack"), losses("pile")]
    total = 0.0
    for table in tables:
        for form in FORMS.values():
            if not set(form.inputs) <= set(table.columns):
                continue
            try:
                found = fit(form, table)
            except InfeasibleError as error:
                print(f"{table.name:14} {form.name:14} refused: {error}")
                continue
            times = []
            for _ in range(repeats):
                started = time.process_time()
                found = fit(form, table)
                times.append(time.process_time() - started)
            ours = statistics.median(times)
            started = time.process_time()
            lowest = _scipy(form, table)
            theirs = time.process_time() - started
            total += ours
            print(
                f"{table.name:14} {form.name:14} {ours:8.3f}s {theirs:8.2f}s {theirs / ours:6.1f}x"
                f"  {found.loss / lowest:.7f}"
            )
    forms = list(FORMS.values())
    for table in corpora:
        taken = _cpu_s(partial(compare, forms, table))
        total += taken
        print(f"{table.name:14} all forms on all splits {taken:.2f} s")
    if data:
        context = Context(data=data)
        for system in (DENSING_LAW, DATA_FILTERING):
            total += _checks_s(system, context)
    found = fit(FORMS["parscale"], tables[-1])
    print(f"200 resampled fits {_cpu_s(partial(bootstrap, found, draws=200)):.2f} s")
    print(f"all of the above {total:.2f} s")
    rng = np.random.default_rng(0)
    for form in forms:
        x = {
            "params": np.exp(rng.uniform(17, 26, _POINTS)),
            "tokens": np.exp(rng.uniform(20, 28, _POINTS)),
            "streams": rng.integers(1, 9, _POINTS).astype(float),
            "unique": np.exp(rng.uniform(18, 27, _POINTS)),
            "datastore": np.exp(rng.uniform(18, 27, _POINTS)),
        }
        middle = np.array([(c.low + c.high) / 2 for c in form.coordinates])
        work = partial(form.log_loss, middle, {name: x[name] for name in form.inputs})
        rate = _POINTS / min(_cpu_s(work) for _ in range(repeats))
        print(f"{form.name:14} {rate / 1e6:.1f} million predictions a second")


if __name__ == "__main__":
    main()
