"""Fit vLLM 0.6's own time per step, sequence, prompt step and request on measured runs.

The lmsys runs of Llama-3.1-70B on 8 x H100 are replayed on the simulator with a measured profile
of the multiplies; four constants are fitted by least squares on the relative errors of mean time
per token and mean time to first token, each metric weighted by its own scatter. The other traces
take no part. Writes ``plimsoll/library/engines/vllm-0.6.yaml``.

    python scripts/fit_apex_overheads.py --data ../shared/data [--check]
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from plimsoll.catalog.apex_replay import TABLE_FILE, bare, fitted_engine, replay, table_at
from plimsoll.catalog.apex_runs import read_runs
from plimsoll.catalog.contract import Context

Floats = npt.NDArray[np.float64]
START = {"step_s": 3e-3, "sequence_s": 3e-4, "prompt_launch_s": 2.5e-2, "request_s": 5e-3}
FITTED_ON = "lmsys"
ROUNDS = 3
OUTPUT = Path(__file__).resolve().parents[1] / "plimsoll/library/engines/vllm-0.6.yaml"

HEAD = """\
# Written by scripts/fit_apex_overheads.py; do not edit.
name: vllm-0.6
kernels: vllm
"""
TAIL = """\
quantize_fraction: 1.0
expert_exchange: all-gather
origin: calibrated
source: "least squares on the {count} {trace} runs of vLLM 0.6.0, Llama-3.1-70B on 8 x H100, that \
microsoft/apex_plus publishes (commit 8769096); multiplies from the profile of microsoft/vidur"
as_of: "2024-11"
fitted:
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit, print, and write the profile unless ``--check``."""
    parser = argparse.ArgumentParser(description="Fit vLLM 0.6's own time on measured runs.")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--check", action="store_true", help="print, do not write")
    options = parser.parse_args(arguments)
    context = Context(data=options.data)
    table = table_at(context.file(TABLE_FILE))
    runs = [run for run in read_runs(context) if run.trace == FITTED_ON]
    engine = bare(fitted_engine())
    units = np.array(list(START.values()))
    scatter = np.array([0.02, 0.04])
    scaled: Floats = np.ones(len(units))

    def residuals(tried: Floats, weights: Floats) -> Floats:
        constants = dict(zip(START, (tried * units).tolist(), strict=True))
        found = [replay(run, replace(engine, **constants), table) for run in runs]
        token = [ours.tpot_s / run.tpot_s - 1 for ours, run in zip(found, runs, strict=True)]
        first = [ours.ttft_s / run.ttft_s - 1 for ours, run in zip(found, runs, strict=True)]
        return np.concatenate([np.array(token) * weights[0], np.array(first) * weights[1]])

    for _ in range(ROUNDS):
        weights = scatter.min() / scatter
        fit = least_squares(
            residuals, scaled, bounds=(0, np.inf), diff_step=0.03, xtol=1e-3, args=(weights,)
        )
        scaled = np.maximum(fit.x, 0.03)  # a step size relative to zero would be zero
        halves = fit.fun.reshape(2, -1) / weights[:, None]
        scatter = np.sqrt((halves**2).mean(axis=1))
    variance = 2 * fit.cost / (len(fit.fun) - len(units))
    jacobian = np.asarray(fit.jac)
    errors = np.sqrt(np.diag(np.linalg.inv(jacobian.T @ jacobian)) * variance) * units
    print(
        f"{len(runs)} runs, scatter of time per token {scatter[0]:.1%}, of first {scatter[1]:.1%}"
    )
    lines, notes = [], []
    for name, value, error in zip(START, fit.x * units, errors, strict=True):
        print(f"  {name:16} {value:.3e} +- {error:.1e}")
        lines.append(f"{name}: {value:.3e}\n")
        notes.append(
            f"  {name}: {{standard_error: {error:.1e}, fitted_on: {FITTED_ON} runs only}}\n"
        )
    if not options.check:
        tail = TAIL.format(count=len(runs), trace=FITTED_ON)
        OUTPUT.write_text(HEAD + "".join(lines) + tail + "".join(notes), encoding="utf-8")
        print(f"wrote {OUTPUT.name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
