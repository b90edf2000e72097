"""Stored coefficients: complete, with errors inside the bars, and true to the measurements."""

import numpy as np
import pytest

from plimsoll.cost.efficiency import Calibration, calibration_for, latency_scale
from plimsoll.cost.host import engine_profile
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import UnsupportedError
from plimsoll.spec.fleet import load_device
from scripts.kernel_experts import KERNELS
from scripts.kernel_fit import LONG_S
from scripts.kernel_models import ENGINES
from scripts.kernel_tables import DATA, DEVICES, TABLES

BARS = {
    "gemm": (0.10, 0.18),
    "prefill": (0.10, 0.18),
    "decode": (0.15, 0.18),
    "moe": (0.11, 0.18),
    "all_reduce": (0.10, 0.30),
    "exchange": (0.10, 0.18),
}
"""Median error over all measured devices: in sample, and with the device left out."""


def calibrations() -> list[Calibration]:
    names = ("A100-SXM-80", "L40S", "H100-SXM", "B200-SXM", "V100", "MI300X")
    return [calibration_for(load_device(name)) for name in names]


def test_families_and_devices_find_their_class() -> None:
    assert [c.name for c in calibrations()] == [
        "ampere",
        "ada",
        "hopper",
        "blackwell",
        "synchronous",
        "pooled",
    ]
    assert calibration_for(load_device("H200-SXM")).name == "hopper"
    for device in DEVICES.values():
        assert calibration_for(device).origin_for(device) == "calibrated"
    assert calibration_for(load_device("V100")).origin_for(load_device("V100")) == "modeled"


@pytest.mark.parametrize("calibration", calibrations(), ids=lambda c: c.name)
def test_every_class_is_complete(calibration: Calibration) -> None:
    for part in ("prefill", "decode", "latent_prefill", "latent_decode", "state", "moe_kernel"):
        assert set(getattr(calibration, part)) == set(ENGINES)
    assert set(calibration.moe) == set(KERNELS)
    for engine in ENGINES:
        for weight in DType:
            assert calibration.moe_rates(engine, weight) in calibration.moe.values()
    assert calibration.source and calibration.as_of
    assert set(calibration.errors) == set(TABLES)


@pytest.mark.parametrize("operator", BARS)
def test_errors_meet_the_bars(operator: str) -> None:
    pooled = calibration_for(load_device("MI300X")).errors[operator]
    inside, outside = BARS[operator]
    assert pooled.in_sample <= inside
    assert pooled.left_out <= outside


@pytest.mark.skipif(not DATA.is_dir(), reason=f"kernel timings are not at {DATA}")
@pytest.mark.parametrize("operator", ["gemm", "prefill", "decode"])
def test_coefficients_predict_the_measurements(operator: str) -> None:
    """The stored coefficients, through the formulas, against the rows they came from."""
    from plimsoll.cost.attention import decode_work, prefill_work
    from plimsoll.cost.gemm import gemm_work

    errors = []
    for group in TABLES[operator]():
        calibration, s = calibration_for(group.device), dict(group.sizes)
        if operator == "gemm":
            m, n, k, how = (s[name] for name in ("m", "n", "k", "how"))
            work = gemm_work(
                m,
                n,
                k,
                how=how,
                device=group.device,
                rates=calibration.gemm,
                engine=group.engine,
            )
        elif operator == "prefill":
            work = prefill_work(**s, device=group.device, rates=calibration.prefill[group.engine])
        else:
            work = decode_work(**s, device=group.device, rates=calibration.decode[group.engine])
        long = group.latency_s >= LONG_S
        if not group.host_s:
            errors.append(np.abs(work.time_s / group.latency_s - 1)[long])
    assert np.median(np.concatenate(errors)) <= BARS[operator][0]


def test_latency_follows_the_clock() -> None:
    assert latency_scale(load_device("A100-SXM-80")) > latency_scale(load_device("L40S"))
    unknown = load_device("Gaudi-3")
    assert unknown.clock_hz == 0 and latency_scale(unknown) == 1.0


def test_engine_profiles() -> None:
    for name in ENGINES:
        assert engine_profile(name).kernels == name
    assert engine_profile("vllm-0.6").step_s > 3 * engine_profile("vllm").step_s
    with pytest.raises(UnsupportedError, match="Did you mean vllm"):
        engine_profile("vlm")
