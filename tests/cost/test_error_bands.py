"""Error bands: every step away from what was measured widens, and the file is checked."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from plimsoll.cost.error_bands import (
    Band,
    ErrorBands,
    LogBand,
    MetricBands,
    error_bands,
    latency_band,
    model_kind,
)
from plimsoll.cost.host import engine_profile
from plimsoll.spec.errors import SpecError, UnsupportedError
from plimsoll.spec.fleet import load_device
from plimsoll.spec.io import from_data, plain, read, write
from plimsoll.spec.model_files import load_model
from tests.cost.machines import MODELS

INSIDE: dict[str, Any] = {
    "disaggregated": False,
    "device": "H100-SXM",
    "model": load_model("llama-3.1-70b"),
    "prompt_tokens": 1000,
    "output_tokens": 1000,
    "batch_per_device": 8.0,
    "queue_fraction": 0.0,
}
KINDS = {
    "llama-3.1-70b": "dense",
    "gemma-3-27b": "dense",
    "mixtral-8x7b": "mixture-of-experts",
    "gpt-oss-120b": "mixture-of-experts",
    "deepseek-v3": "latent-attention",
    "deepseek-v3.2": "sparse-attention",
    "minimax-m3": "sparse-attention",
    "qwen3.5-27b": "linear-attention",
    "kimi-k3": "linear-attention",
    "nemotron-h-56b": "state-space",
}
AWAY: dict[str, tuple[dict[str, Any], str]] = {
    "device": ({"device": "RTX-4090"}, "device not measured"),
    "model": ({"model": load_model("nemotron-h-56b")}, "kind of model not measured"),
    "short prompts": ({"prompt_tokens": 0.5}, "shorter prompts than measured"),
    "long prompts": ({"prompt_tokens": 1e6}, "longer prompts than measured"),
    "short outputs": ({"output_tokens": 0.5}, "shorter outputs than measured"),
    "long outputs": ({"output_tokens": 1e6}, "longer outputs than measured"),
    "batch": ({"batch_per_device": 1e5}, "larger batches than measured"),
    "guess": ({"guessed": 1}, "1 setting guessed"),
    "guesses": ({"guessed": 3}, "3 settings guessed"),
    "load": ({"queue_fraction": 1.0}, "mostly queueing"),
}
"""What leaves the measured range, and what is said of it."""


def table(**bands: LogBand) -> ErrorBands:
    """Bands of round numbers; what was measured is fixed, so that a new fit breaks no test."""
    data = plain(error_bands())
    data["measured"] = {
        "devices": ["H100-SXM"],
        "model_kinds": ["dense"],
        "prompt_tokens": {"least": 100, "most": 10_000},
        "output_tokens": {"least": 100, "most": 10_000},
        "batch_per_device": {"least": 0.1, "most": 100},
    }
    data["widening"] = dict.fromkeys(data["widening"], 1.5)
    data["high_load_queue_fraction"] = 0.5
    made = from_data(ErrorBands, data, where="test")
    usual = LogBand(low_log=-0.2, high_log=0.3)
    one = bands.get("both", usual)
    wide = LogBand(low_log=1.5 * one.low_log, high_log=1.5 * one.high_log)
    metric = MetricBands(
        aggregated=one,
        disaggregated=one,
        aggregated_guessed=wide,
        disaggregated_guessed=wide,
    )
    return replace(made, bands={"ttft": metric, "tpot": metric})


def band(metric: Any = "ttft", of: ErrorBands | None = None, **changes: Any) -> Band:
    return latency_band(metric, table=of or table(), **(INSIDE | changes))


def test_what_was_measured_has_the_base_band() -> None:
    found = band()
    assert (found.low, found.high) == pytest.approx((math.exp(-0.2), math.exp(0.3)))
    assert found.reasons == ()


@pytest.mark.parametrize("name", AWAY)
def test_each_reason_widens_by_its_factor(name: str) -> None:
    changes, words = AWAY[name]
    found = band(**changes)
    assert (found.low, found.high) == pytest.approx((math.exp(-0.3), math.exp(0.45)))
    assert found.reasons == (words,)


@pytest.mark.parametrize("base", [(-0.2, 0.3), (0.1, 0.3), (-0.4, -0.1), (0.0, 0.0)])
def test_more_reasons_never_narrow(base: tuple[float, float]) -> None:
    """Also of bands that a bias put on one side of the prediction."""
    of = table(both=LogBand(low_log=base[0], high_log=base[1]))
    changes: dict[str, Any] = {}
    before = band(of=of)
    for more, _ in AWAY.values():
        changes |= more
        found = band(of=of, **changes)
        assert found.low <= before.low and found.high >= before.high
        before = found
    assert len(before.reasons) == 7


def test_queueing_is_of_first_tokens_only() -> None:
    assert band("tpot", queue_fraction=1.0) == band("tpot")


def test_what_is_not_known_widens_nothing() -> None:
    unknown = {"prompt_tokens": None, "output_tokens": None, "batch_per_device": None}
    assert band(**unknown, queue_fraction=None) == band()


@pytest.mark.parametrize("metric", ["ttft", "tpot"])
@pytest.mark.parametrize("disaggregated", [False, True])
def test_the_bundled_bands_contain_the_prediction(metric: Any, disaggregated: bool) -> None:
    found = latency_band(metric, **(INSIDE | {"disaggregated": disaggregated}))
    assert found.low <= 1 <= found.high


def test_the_bundled_file_names_bundled_devices_and_round_trips(tmp_path: Path) -> None:
    bundled = error_bands()
    assert [load_device(name).name for name in bundled.measured.devices] == list(
        bundled.measured.devices
    )
    assert bundled.source and bundled.as_of
    write(bundled, tmp_path / "bands.yaml")
    assert read(ErrorBands, tmp_path / "bands.yaml") == bundled


def broken(path: str, value: Any) -> dict[str, Any]:
    """The bundled file with one value replaced, or left out where it is None."""
    data: dict[str, Any] = plain(error_bands())
    inner = data
    *outer, last = path.split(".")
    for key in outer:
        inner = inner[key]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("bands.ttft", None, "bands lacks ttft"),
        ("bands.itl", {}, "bands.itl"),
        ("bands.tpot.aggregated.low_log", 9.0, "low_log 9 is above high_log"),
        ("bands.tpot.disaggregated", None, "bands.tpot.disaggregated"),
        ("widening.unseen_device", 0.9, "widening.unseen_device"),
        ("widening.luck", 1.1, "widening.luck"),
        ("measured.model_kinds", ["dense", "large"], "measured.model_kinds.1"),
        ("measured.prompt_tokens", {"least": 9, "most": 1}, "least 9 is above most 1"),
        ("high_load_queue_fraction", 1.5, "high_load_queue_fraction"),
        ("source", None, "source"),
        ("as_of", None, "as_of"),
    ],
)
def test_bad_files_are_refused(path: str, value: Any, words: str, tmp_path: Path) -> None:
    file = tmp_path / "bands.yaml"
    file.write_text(yaml.safe_dump(broken(path, value)))
    with pytest.raises(SpecError, match="bands.yaml") as caught:
        read(ErrorBands, file)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", KINDS)
def test_kinds_of_models(name: str) -> None:
    assert model_kind(load_model(name)) == KINDS[name]


def test_every_model_has_a_kind() -> None:
    assert MODELS
    for model in MODELS.values() if isinstance(MODELS, dict) else MODELS:
        assert model_kind(model)


def test_the_file_is_no_engine() -> None:
    with pytest.raises(UnsupportedError) as caught:
        engine_profile("error_bands")
    assert "sglang, trtllm, vllm" in str(caught.value)
    assert "are error_bands" not in str(caught.value)
