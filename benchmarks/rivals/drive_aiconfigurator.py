"""Ask AIConfigurator; runs inside its environment.

    python drive_aiconfigurator.py rows ROWS.csv OUT.json       predict measured rows
    python drive_aiconfigurator.py search QUESTION.json OUT.json   search a plan space

A row is one ``cli_estimate`` call with the settings the row states: quantization, batch and
parallel sizes; the measured engine version where the tool has data for it, else its default.
The search is ``cli_default`` with its own defaults beside what the question states. It does not
say how many plans it looked at, so only those it keeps on its fronts are counted.
Left out: hybrid and empirical database modes, which its authors call research.
Source: the documented Python interface of aiconfigurator 0.12 (PyPI).
"""

import contextlib
import io
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from deployments import Deployment, timed_predictions

_without_data: set[tuple[str, str, str]] = set()


def arguments_of(asked: Deployment) -> dict[str, Any]:
    """Keyword arguments of ``cli_estimate``."""
    found: dict[str, Any] = {
        "model_path": asked.model,
        "system_name": asked.system,
        "mode": "disagg" if asked.disaggregated else "agg",
        "backend_name": asked.backend,
        "isl": asked.isl,
        "osl": asked.osl,
        "gemm_quant_mode": asked.gemm_quant_mode,
        "moe_quant_mode": asked.moe_quant_mode,
    }
    for role, workers in asked.workers.items():
        prefix = "" if role == "aggregated" else f"{role}_"
        found |= {prefix + name: degree for name, degree in workers.sizes.items()}
        found[prefix + "batch_size"] = workers.batch
        if prefix:
            found[prefix + "num_workers"] = workers.count
    return found


def estimate(asked: Deployment) -> Any:
    """The tool's answer; without the measured engine version where it has no data for it."""
    from aiconfigurator.cli.api import cli_estimate

    arguments = arguments_of(asked)
    version = (asked.system, asked.backend, asked.backend_version or "")
    if asked.backend_version is not None and version not in _without_data:
        try:
            return cli_estimate(**arguments, backend_version=asked.backend_version)
        except ValueError:
            _without_data.add(version)
    return cli_estimate(**arguments)


def predict(asked: Deployment) -> dict[str, object]:
    """Times of a row, in milliseconds."""
    with contextlib.redirect_stdout(io.StringIO()):
        result = estimate(asked)
    return {
        "ttft_ms": float(result.ttft),
        "tpot_ms": float(result.tpot),
        "version": result.backend_version,
    }


def search(question: dict[str, Any]) -> dict[str, Any]:
    """Search once and again; CPU time of each, children included, and what was kept."""
    from aiconfigurator.cli import cli_default

    times = []
    for _ in range(question["repeats"] + 1):
        before = os.times()
        with contextlib.redirect_stdout(io.StringIO()):
            result = cli_default(**question["arguments"])
        times.append(sum(os.times()[:4]) - sum(before[:4]))
    return {
        "cpu_s": times,
        "kept": {name: len(table) for name, table in result.pareto_fronts.items()},
    }


def main() -> None:
    """Answer one question from the command line."""
    verb, source, target = sys.argv[1:4]
    import aiconfigurator.cli.api  # noqa: F401  # loaded before the clock starts

    logging.disable(logging.CRITICAL)
    if verb == "search":
        answer = search(json.loads(Path(source).read_text()))
    else:
        answer = timed_predictions(source, predict)
    Path(target).write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
