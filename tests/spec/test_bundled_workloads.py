"""Bundled workloads repeat the statistics of the traces they are named after."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from plimsoll.spec.statistics import statistics_of
from plimsoll.spec.traces import load_azure, load_mooncake
from plimsoll.spec.workload_files import bundled_recipe, bundled_workloads, load_workload

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "../shared/data"
needs_traces = pytest.mark.skipif(
    not (DATA / "traces").is_dir(), reason="measured traces are not beside the checkout"
)
TRACES = {
    "chat": (load_azure, "azure_llm_2023_conv.csv"),
    "code": (load_azure, "azure_llm_2023_code.csv"),
    "long-chat": (load_mooncake, "mooncake_conversation.jsonl"),
    "agent": (load_mooncake, "mooncake_synthetic.jsonl"),
}
COMPARED = (
    "rate_per_s",
    "gap_cv",
    *(f"{side}_tokens_{part}" for side in ("prompt", "output") for part in ("mean", "p50", "p90")),
    "prompt_tokens_p99",
    "output_tokens_p99",
)


def mean_statistics(name: str, seeds: int = 5) -> dict[str, float]:
    drawn = [statistics_of(load_workload(name, seed=seed)) for seed in range(seeds)]
    return {key: float(np.mean([d[key] for d in drawn])) for key in drawn[0]}


@needs_traces
@pytest.mark.parametrize("name", TRACES)
def test_generated_statistics_are_those_of_the_trace(name: str) -> None:
    load, file = TRACES[name]
    measured = statistics_of(load(DATA / "traces" / file))
    drawn = mean_statistics(name)
    for key in COMPARED:
        assert drawn[key] == pytest.approx(measured[key], rel=0.05), key
    correlation = measured["length_rank_correlation"]
    assert drawn["length_rank_correlation"] == pytest.approx(correlation, abs=0.03)
    if "reused_block_fraction" in measured:
        reused = measured["reused_block_fraction"]
        assert drawn["reused_block_fraction"] == pytest.approx(reused, rel=0.08)


@needs_traces
@pytest.mark.parametrize(("name", "within"), [("chat", 0.2), ("code", 0.35)])
def test_bursts_pile_up_as_in_the_trace(name: str, within: float) -> None:
    def minute_variance(arrival_s: np.ndarray) -> float:  # type: ignore[type-arg]
        return float(np.histogram(arrival_s, np.arange(0, arrival_s[-1], 60.0))[0].var())

    load, file = TRACES[name]
    measured = minute_variance(load(DATA / "traces" / file).arrival_s)
    drawn = [minute_variance(load_workload(name, seed=s).arrival_s) for s in range(10)]
    assert np.mean(drawn) == pytest.approx(measured, rel=within)


def test_all_names_are_there_with_sources() -> None:
    assert bundled_workloads() == ("agent", "batch", "chat", "code", "long-chat", "summarize")
    for name in bundled_workloads():
        recipe = bundled_recipe(name)
        assert recipe.name == name and recipe.description
        for group in (recipe.arrivals, recipe.lengths):
            assert group.source and group.as_of
        assert len(load_workload(name, num_requests=50)) == 50


@pytest.mark.parametrize(
    ("name", "prompt", "output"), [("summarize", 2_753, 170.5), ("batch", 92.2, 207.4)]
)
def test_lengths_of_the_others(name: str, prompt: float, output: float) -> None:
    # Means of microsoft/apex_plus summarization and Nanoflow lmsys-chat-1m lengths.
    drawn = statistics_of(load_workload(name))
    assert drawn["prompt_tokens_mean"] == pytest.approx(prompt, rel=0.02)
    assert drawn["output_tokens_mean"] == pytest.approx(output, rel=0.02)


def test_a_million_requests_take_seconds() -> None:
    start = time.perf_counter()
    assert len(load_workload("chat", num_requests=1_000_000)) == 1_000_000
    assert time.perf_counter() - start < 3


def test_the_rate_asked_for_is_the_rate_made() -> None:
    for name in ("chat", "code", "long-chat", "agent", "summarize"):
        workload = load_workload(name, rate_per_s=20.0, num_requests=4_000)
        assert workload.rate_per_s == pytest.approx(20.0, rel=0.06), name


@pytest.mark.slow
@needs_traces
def test_the_statistics_are_made_by_the_script(tmp_path: Path) -> None:
    script = ROOT / "scripts/fit_workloads.py"
    command = [sys.executable, str(script), "--data", str(DATA), "--out", str(tmp_path)]
    subprocess.run(command, check=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, timeout=120)
    for name in bundled_workloads():
        bundled = ROOT / "plimsoll/library/workloads" / f"{name}.yaml"
        assert (tmp_path / f"{name}.yaml").read_text() == bundled.read_text()
