"""Dense multiplies: roofline as lower bound, monotone, formats."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.cost.efficiency import calibration_for
from plimsoll.cost.gemm import gemm_cost, gemm_work, multiply_format
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import UnsupportedError
from plimsoll.spec.fleet import load_device
from tests.cost.machines import H100

RATES = calibration_for(H100).gemm
sizes = st.integers(1, 65536)


@settings(max_examples=200, deadline=None)
@given(m=sizes, n=sizes, k=sizes, dtype=st.sampled_from([DType.BF16, DType.FP8, DType.INT4]))
def test_roofline_is_a_lower_bound(m: int, n: int, k: int, dtype: DType) -> None:
    cost = gemm_cost(m, n, k, dtype=dtype, device=H100, rates=RATES)
    how = multiply_format(dtype, H100)
    assert cost.flops == 2 * m * n * k
    assert cost.bytes >= n * k * how.weight_bytes
    assert cost.time_s > cost.flops / H100.flops_per_s(how.math)
    assert cost.time_s > n * k * how.weight_bytes / H100.memory_bytes_per_s


@settings(max_examples=100, deadline=None)
@given(m=sizes, n=sizes, k=sizes, more=st.integers(1, 4096))
def test_monotone_in_every_size(m: int, n: int, k: int, more: int) -> None:
    def time_s(m: int, n: int, k: int) -> float:
        return gemm_cost(m, n, k, dtype=DType.BF16, device=H100, rates=RATES).time_s

    now = time_s(m, n, k) * (1 - 1e-12)
    assert time_s(m + more, n, k) >= now
    assert time_s(m, n + more, k) >= now
    assert time_s(m, n, k + more) >= now


def test_bound_names_the_winner() -> None:
    def bound(m: int, n: int, k: int) -> str:
        return gemm_cost(m, n, k, dtype=DType.BF16, device=H100, rates=RATES).bound

    assert bound(8192, 8192, 8192) == "compute"
    assert bound(1, 8192, 8192) == "memory"
    assert bound(1, 64, 64) == "launch"


def test_arrays_and_scalars_agree() -> None:
    m = np.array([1.0, 17.0, 300.0, 4096.0])
    how = multiply_format(DType.FP8, H100)
    many = gemm_work(m, 4096, 7168, how=how, device=H100, rates=RATES, engine="vllm").time_s
    for i, rows in enumerate(m):
        one = gemm_cost(int(rows), 4096, 7168, dtype=DType.FP8, device=H100, rates=RATES)
        assert one.time_s == pytest.approx(many[i], rel=1e-12)


def test_formats_the_device_lacks_are_expanded() -> None:
    a100 = load_device("A100-SXM-80")
    how = multiply_format(DType.FP8, a100)
    assert how.expanded and how.math is DType.BF16
    assert how.weight_bytes == 1.0 and how.activation_bytes == 2.0
    assert not multiply_format(DType.FP8, H100).expanded
    assert multiply_format(DType.INT4, H100).math is DType.BF16
    assert multiply_format(DType.BF16, load_device("V100")).math is DType.FP16
    mixed = multiply_format(DType.MXFP4, load_device("B200-SXM"))
    assert mixed.math is DType.FP8 and mixed.weight_bytes == DType.MXFP4.bytes


def test_device_without_any_fitting_peak_is_refused() -> None:
    import dataclasses

    bare = dataclasses.replace(H100, peak_flops_per_s={DType.INT8: 1e15})
    with pytest.raises(UnsupportedError, match="lists no peak for bf16"):
        multiply_format(DType.BF16, bare)


def test_fused_quantization_costs_less() -> None:
    how, m = multiply_format(DType.FP8, H100), np.asarray(64.0)

    def time_s(fraction: float) -> float:
        work = gemm_work(
            m,
            8192,
            8192,
            how=how,
            device=H100,
            rates=RATES,
            engine="trtllm",
            quantize_fraction=fraction,
        )
        return float(work.time_s)

    assert time_s(0.0) < time_s(0.5) < time_s(1.0)
