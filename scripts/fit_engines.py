"""Fit engine profiles to measured deployments, cross-validate them, and write both.

    python scripts/fit_engines.py                     fit, write profiles, bands and the tables
    python scripts/fit_engines.py --check             cross-validate only, write nothing
    python scripts/fit_engines.py --out-of-fold FILE  predictions of rows left out, as a table

Reads ../shared/data/silicon/silicon_train.csv. Writes library/engines/{vllm,sglang,trtllm,common,
error_bands}.yaml, the deployment tables of docs/accuracy.md and its pictures. Counts of running
requests depend on the profiles, so fitting and solving take turns twice. A row left out is
predicted by a fit without any row of its group: its (model, system), its system, or its model
(DeepSeek-V3 and R1 are one model here, since their rows are the same runs).
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import torch
import yaml

from plimsoll.api.validate_figures import ranking_figures
from plimsoll.cost.error_bands import error_bands
from plimsoll.cost.host import common_costs, engine_profile
from plimsoll.spec.deployment import Prediction, Refusal
from plimsoll.spec.deployment_rows import (
    DeploymentTable,
    read_deployments,
    write_predictions,
)
from plimsoll.spec.io import write_text

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from scripts.engine_bands import band_factors, banded, bands_data  # noqa: E402
from scripts.engine_fit import Coefficients, fit, predict, row_weights, tensors  # noqa: E402
from scripts.engine_report import Scheme, write_deployment_tables  # noqa: E402
from scripts.engine_rows import ENGINES, FitRow, columns, fit_rows  # noqa: E402
from scripts.plot_accuracy import plot_accuracy  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared/data/silicon/silicon_train.csv"
LIBRARY = ROOT / "plimsoll/library/engines"
PASSES = 2
SOURCE = (
    "penalized fit to the InferenceX and AIConfigurator runs in ai-dynamo/aiconfigurator "
    "(commit 095f58a), 2,496 deployments; cross-validated errors in docs/accuracy.md"
)
FITTED_ON = "silicon_train.csv"
FACTORS = ("dense", "experts", "attention", "all_reduce", "exchange", "light")
COSTS = (
    "fixed_s",
    "expert_s",
    "prompt_token_s",
    "admission_steps",
    "rank_wait_steps",
    "handover_s",
)
Key = Callable[[FitRow], str]
Answers = list[Prediction | Refusal]


def one_model(name: str) -> str:
    """DeepSeek-V3 and R1 under one name."""
    return name.split("/")[-1].replace("DeepSeek-V3", "DeepSeek-R1")


SCHEMES: dict[str, Key] = {
    "model and system": lambda r: f"{r.row.model} {r.row.system}",
    "system": lambda r: r.row.system,
    "model": lambda r: one_model(r.row.model),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Folds:
    """Predictions of every row by a fit without its group."""

    tpot_s: np.ndarray
    ttft_s: np.ndarray


def left_out(rows: list[FitRow], key: Key) -> Folds:
    """Predict every group of ``key`` from all others."""
    data, weights = columns(rows), row_weights(rows)
    groups = np.array([key(row) for row in rows])
    tpot_s, ttft_s = np.zeros(len(rows)), np.zeros(len(rows))
    for group in sorted(set(groups)):
        inside = groups == group
        kept = {name: values[~inside] for name, values in data.items()}
        held = {name: values[inside] for name, values in data.items()}
        found = fit(tensors(kept), weights[~inside])
        with torch.no_grad():
            tpot, ttft = predict(found.theta, tensors(held))
        tpot_s[inside], ttft_s[inside] = tpot.numpy(), ttft.numpy()
    return Folds(tpot_s=tpot_s, ttft_s=ttft_s)


def rounded(value: float) -> float:
    """Three significant digits: more would not repeat on another machine."""
    return float(f"{value:.3g}")


def write_profiles(found: Coefficients) -> None:
    """The engines' files and what they share."""
    today = date.today().strftime("%Y-%m")
    common = found.common()
    few = common["few_admission"]
    for index, engine in enumerate(ENGINES):
        values = found.by_engine(index)
        old = engine_profile(engine)
        prompts = values.pop("more_for_prompts")
        fitted = {name: error for name, (_, error) in values.items()}
        factors = {name: rounded(values[name][0]) for name in FACTORS}
        factors["prompts"] = rounded(1.0 + prompts[0])
        fitted["prompts"] = prompts[1]
        request = {name: rounded(values[name][0]) for name in COSTS}
        if engine == "sglang":
            request["few_admission"] = rounded(few[0])
            fitted["few_admission"] = few[1]
        data = {
            "name": engine,
            "kernels": old.kernels,
            "step_s": rounded(values["step_s"][0]),
            "sequence_s": rounded(values["sequence_s"][0]),
            "prompt_step_s": rounded(values["prompt_step_s"][0]),
            "quantize_fraction": old.quantize_fraction,
            "expert_exchange": old.expert_exchange,
            "token_budget": old.token_budget,
            "reserve_outputs": old.reserve_outputs,
            "factors": factors,
            "request": request,
            "origin": "calibrated",
            "source": SOURCE,
            "as_of": today,
            "fitted": fitted_data(fitted),
        }
        write_yaml(LIBRARY / f"{engine}.yaml", data)
    shared = {
        "cross_node": rounded(1.0 + common["more_across"][0]),
        "rank_overlap": rounded(
            common["rank_overlap_odds"][0] / (1 + common["rank_overlap_odds"][0])
        ),
        "draft_tokens": common_costs().draft_tokens,
        "accepted_tokens": rounded(1.0 + common["more_accepted"][0]),
        "few_requests": common_costs().few_requests,
        "source": SOURCE,
        "as_of": today,
        "fitted": fitted_data(
            {
                "cross_node": common["more_across"][1],
                "rank_overlap": common["rank_overlap_odds"][1]
                / (1 + common["rank_overlap_odds"][0]) ** 2,
                "accepted_tokens": common["more_accepted"][1],
            }
        ),
    }
    write_yaml(LIBRARY / "common.yaml", shared)
    engine_profile.cache_clear()
    common_costs.cache_clear()


def fitted_data(errors: dict[str, float]) -> dict[str, dict[str, object]]:
    """Standard errors as the profile files hold them."""
    return {
        name: {"standard_error": rounded(error), "fitted_on": FITTED_ON}
        for name, error in sorted(errors.items())
    }


def write_yaml(path: Path, data: dict[str, object]) -> None:
    """One file, keys in order."""
    text = yaml.safe_dump(data, sort_keys=False, width=100, default_flow_style=None)
    write_text("# Written by scripts/fit_engines.py; do not edit.\n" + text, path)


def out_of_fold(rows: list[FitRow], folds: Folds) -> tuple[DeploymentTable, Answers]:
    """The data's rows with predictions of their left-out fits."""
    table = read_deployments(DATA)
    by_line = {row.row.line: i for i, row in enumerate(rows)}
    answers: Answers = []
    for row in table.rows:
        i = by_line.get(row.line)
        if i is None:
            answers.append(Refusal(reason="not solved"))
            continue
        tpot, ttft = (band_factors(rows[i].solved, metric) for metric in ("tpot", "ttft"))
        answers.append(
            Prediction(
                tpot_s=folds.tpot_s[i],
                ttft_s=folds.ttft_s[i],
                tpot_low_s=folds.tpot_s[i] * tpot[0],
                tpot_high_s=folds.tpot_s[i] * tpot[1],
                ttft_low_s=folds.ttft_s[i] * ttft[0],
                ttft_high_s=folds.ttft_s[i] * ttft[1],
                origin="calibrated",
                note="predicted by a fit without its model and system",
            )
        )
    return table, answers


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="cross-validate only")
    parser.add_argument("--out-of-fold", type=Path, help="table of predictions of left-out rows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for _ in range(1 if options.check else PASSES):
        rows, refused = fit_rows(DATA)
        found = fit(tensors(columns(rows)), row_weights(rows), with_errors=True)
        if not options.check:
            write_profiles(found)
    rows, refused = fit_rows(DATA)
    with torch.no_grad():
        tpot, ttft = predict(found.theta, tensors(columns(rows)))
    schemes = [
        Scheme(name="in sample", rows=rows, tpot_s=tpot.numpy(), ttft_s=ttft.numpy()),
    ]
    folds = {name: left_out(rows, key) for name, key in SCHEMES.items()}
    for name, one in folds.items():
        schemes.append(Scheme(name=name, rows=rows, tpot_s=one.tpot_s, ttft_s=one.ttft_s))
    if not options.check:
        write_yaml(LIBRARY / "error_bands.yaml", bands_data(schemes[1:], SOURCE))
        error_bands.cache_clear()
    coverage = banded(schemes[1])
    table, answers = out_of_fold(rows, folds["model and system"])
    text = write_deployment_tables(
        schemes,
        coverage,
        found,
        refused,
        ranking_figures(table.rows, answers),
        None if options.check else ROOT / "docs/accuracy.md",
    )
    print(text)
    if options.out_of_fold:
        write_predictions(table, answers, options.out_of_fold)
    if not options.check:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "left-out.csv"
            write_predictions(table, answers, path)
            plot_accuracy(path, title="model and system left out")


if __name__ == "__main__":
    main()
