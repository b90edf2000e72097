"""`fit` answers for every shape, and what it suggests when nothing fits is tried and works."""

import re

import pytest

from plimsoll.api.fit import fit
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import InfeasibleError


def refusal(model: str, fleet: str, **options: object) -> InfeasibleError:
    with pytest.raises(InfeasibleError) as caught:
        fit(model, fleet, **options)
    return caught.value


def test_widths_that_experts_cannot_be_cut_to_are_left_out():
    """48 heads allow tp 24, which the 16,384-wide experts do not."""
    degrees = {row.tp for row in fit("mixtral-8x22b", "72xGB200").rows}
    assert degrees and 24 not in degrees and 8 in degrees


@pytest.mark.parametrize(
    ("model", "fleet"),
    [
        ("deepseek-v3", "8xH100-SXM"),
        ("qwen3.5-35b-a3b", "1xL4"),
        ("llama-3.1-70b", "2xRTX4090"),
        ("llama-3.1-405b", "8xA100-80"),
        ("deepseek-v3.1-nvfp4", "4xTPU-v5e"),
    ],
)
def test_suggested_changes_fit(model, fleet):
    change = refusal(model, fleet).change
    assert change
    for weights in re.findall(r"--weights (\w+)", change):
        assert fit(model, fleet, weight_dtype=DType(weights)).rows
    for count, device in re.findall(r"(\d+) x (\S+) instead of", change):
        assert fit(model, f"{count}x{device}").rows


def test_eight_bits_are_not_suggested_where_they_would_not_do():
    assert "fp8" not in refusal("qwen3.5-35b-a3b", "1xL4").change  # 35 GB on 24 GB
    assert "fp8" not in refusal("deepseek-v3", "8xH100-SXM").change  # stored in 8 bits


def test_a_long_request_is_told_from_a_large_model():
    error = refusal("llama-3.1-8b", "1xL4", context_tokens=100_000)
    assert "fits on 1xL4, but not with a request of 100,000 tokens" in str(error)
    longest = int(re.findall(r"--context (\d+)", error.change)[0])
    assert fit("llama-3.1-8b", "1xL4", context_tokens=longest).rows
    refusal("llama-3.1-8b", "1xL4", context_tokens=longest + 16)


def test_widened_weights_are_stated():
    words = " ".join(fit("llama-3.1-8b", "1xA100-80", weight_dtype=DType.FP8).assumptions)
    assert "A100-SXM-80 multiplies fp8 weights in bf16" in words
    native = fit("llama-3.1-8b", "1xH100-SXM", weight_dtype=DType.FP8).assumptions
    assert not any("multiplies" in line for line in native)


def test_a_step_of_one_request_reads_at_least_the_active_weights():
    for model in ("llama-3.1-8b", "qwen3-30b-a3b", "deepseek-v2-lite"):
        answer = fit(model, "8xH100-SXM")
        share = answer.data()["active_parameters"] / answer.data()["total_parameters"]
        for row in answer.rows:
            assert row.step_s > 0.95 * share * row.memory.weights_bytes / 3.36e12
            assert row.full_step_s >= row.step_s
