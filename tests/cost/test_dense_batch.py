"""Arithmetic of a dense batch: printed rows, counts that agree with each other, bad input."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plimsoll.cost.dense_batch import (
    dense_gemms,
    full_memory_batch,
    iteration_network_bytes,
    memory_to_compute_ratio,
    optimal_tokens_per_s,
)
from plimsoll.spec.errors import InfeasibleError, UnsupportedError
from plimsoll.spec.model_files import load_model
from plimsoll.spec.parameters import parameter_counts, weight_bytes

LLAMA = load_model("llama-2-70b")


def test_printed_rows() -> None:
    """Table 2 of arXiv 2408.12757: GFLOP and estimated ms at 2048 tokens on 8 x 312 TFLOP/s."""
    printed = {
        "kqv": (27487.8, 11.01),
        "o": (21990.2, 8.81),
        "ug": (153931.6, 61.67),
        "d": (76965.8, 30.84),
    }
    for gemm in dense_gemms(LLAMA, tokens=2048):
        gflop, ms = printed.pop(gemm.name)
        assert gemm.flops / 1e9 == pytest.approx(gflop, rel=1e-3)
        assert gemm.compute_s(8 * 312e12) * 1e3 == pytest.approx(ms, rel=1e-3)
    assert not printed


def test_gemms_hold_all_parameters_of_the_layers() -> None:
    """Counted another way: what the model holds without embedding, head and norms."""
    counts = parameter_counts(LLAMA)
    gemms = dense_gemms(LLAMA, tokens=1)
    assert sum(gemm.flops for gemm in gemms) == 2 * (counts.mixers + counts.ffn)
    assert sum(gemm.weight_bytes for gemm in gemms) == 2 * (counts.mixers + counts.ffn)


@given(tokens=st.integers(1, 10**6), factor=st.integers(2, 9))
def test_work_follows_tokens_and_weights_do_not(tokens: int, factor: int) -> None:
    one, many = dense_gemms(LLAMA, tokens=tokens), dense_gemms(LLAMA, tokens=factor * tokens)
    for a, b in zip(one, many, strict=True):
        assert b.flops == pytest.approx(factor * a.flops)
        assert a.weight_bytes == b.weight_bytes


def test_network_bytes() -> None:
    received = iteration_network_bytes(LLAMA, tokens=2048, devices=8)
    assert received / 1e9 == pytest.approx(75.2, rel=1e-3)
    assert iteration_network_bytes(LLAMA, tokens=2048, devices=1) == 0


def test_optimum_is_printed_for_260_not_280_tflops() -> None:
    assert optimal_tokens_per_s(flops_per_s=260e12, parameters=70e9) == pytest.approx(
        1857, rel=1e-3
    )
    assert optimal_tokens_per_s(flops_per_s=280e12, parameters=70e9) == pytest.approx(2000)


@given(prompt=st.integers(1, 10**4), output=st.integers(1, 10**4))
def test_full_memory_is_full(prompt: int, output: int) -> None:
    batch = full_memory_batch(LLAMA, memory_bytes=640e9, prompt_tokens=prompt, output_tokens=output)
    kv = batch.requests * (prompt + output / 2) * 2 * 80 * 8 * 128 * 2
    assert kv + weight_bytes(LLAMA) == pytest.approx(640e9)
    assert batch.tokens >= batch.requests


@pytest.mark.parametrize("model", ["mixtral-8x7b", "deepseek-v2-lite"])
def test_other_shapes_are_told(model: str) -> None:
    with pytest.raises(UnsupportedError, match=f"{model}: .* it has a layer of"):
        dense_gemms(load_model(model), tokens=2048)


def test_weights_that_do_not_fit_are_told() -> None:
    with pytest.raises(InfeasibleError, match="weights take 138.0 GB of 80.0 GB"):
        memory_to_compute_ratio(
            LLAMA,
            memory_bytes=80e9,
            memory_bytes_per_s=2e12,
            flops_per_s=312e12,
            prompt_tokens=512,
            output_tokens=512,
        )
