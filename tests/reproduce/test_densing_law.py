"""The catalog entry of the densing law: its checks on the measured scores."""

from pathlib import Path

import pytest

from plimsoll.catalog.contract import Context
from plimsoll.catalog.densing_law import SYSTEM, base_models, recovered, trend_on
from plimsoll.catalog.verdicts import run_system

DATA = Path(__file__).resolve().parents[2] / "../shared/data"
needs_data = pytest.mark.skipif(not (DATA / "laws").exists(), reason="no measured points here")


@needs_data
@pytest.mark.slow
def test_every_check_passes() -> None:
    rows = list(run_system(SYSTEM, Context(data=DATA)))
    assert [f"{r.claim}: {r.what}" for r in rows if r.verdict == "fail"] == []
    assert sum(r.verdict == "pass" for r in rows) == 19


@needs_data
def test_every_quick_check_passes() -> None:
    rows = list(run_system(SYSTEM, Context(data=DATA), quick=True))
    assert [f"{r.claim}: {r.what}" for r in rows if r.verdict == "fail"] == []
    assert sum(r.verdict == "pass" for r in rows) == 14


def test_without_the_scores_the_closed_loop_still_runs() -> None:
    rows = list(run_system(SYSTEM, Context(), quick=True))
    assert {r.verdict for r in rows if r.claim == "inversion"} == {"pass", "shown"}
    assert {r.verdict for r in rows if r.claim == "doubling"} == {"not run"}


def test_scores_beyond_the_ends_are_all_refused() -> None:
    worst, rated, refused = recovered(7, 2e-4)
    assert (rated, refused) == (50, 7) and worst < 0.05


@needs_data
def test_one_benchmark_can_be_gamed() -> None:
    """A model of half a billion parameters seems worth 26 times its size on MMLU alone."""
    found = trend_on(Context(data=DATA))
    best = max(found.rated, key=lambda d: d.total)
    assert best.model.name == "Qwen/Qwen2-0.5B" and best.total == pytest.approx(25.9, abs=0.3)


@needs_data
def test_models_without_a_date_and_mixtures_are_known() -> None:
    models = base_models(Context(data=DATA))
    assert sum(m.released is None for m in models) == 13
    mixtures = {m.name for m in models if m.experts}
    assert "mistralai/Mixtral-8x7B-v0.1" in mixtures and "Qwen/Qwen2-57B-A14B" in mixtures
    assert "meta-llama/Llama-2-7b-hf" not in mixtures
