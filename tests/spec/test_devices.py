"""Laws over the bundled devices, and their peaks against published data sheets."""

import re

import pytest

from plimsoll.spec import io
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import UnsupportedError
from plimsoll.spec.fleet import bundled_devices, load_device
from plimsoll.spec.hardware import Device

DEVICES = bundled_devices()
by_device = pytest.mark.parametrize("device", DEVICES, ids=lambda d: d.name)

REQUIRED = [
    "V100",
    "A10",
    "A30",
    "A40",
    "A100-40",
    "A100-80",
    "A100-PCIe",
    "L4",
    "L40S",
    "RTX-4090",
    "RTX-5090",
    "RTX-PRO-6000",
    "H100-PCIe",
    "H100-SXM",
    "H200-SXM",
    "B200",
    "B300",
    "GB200",
    "GB300",
    "MI250X",
    "MI300X",
    "MI325X",
    "MI355X",
    "TPU-v5e",
    "TPU-v5p",
    "TPU-v6e",
    "Ascend-910B",
    "Ascend-910C",
    "Gaudi-3",
    "CPU",
]

# Peaks printed "with sparsity" on the vendors' data sheets, TFLOP/s (TOP/s for int8):
# V100 and CPUs have none; L40S prints 362.05 dense beside 733 sparse.
# Sources: NVIDIA data sheets of A10, A30, A40 (GA102 white paper),
# A100 (1758950), L4, L40S, H100, H200, Blackwell (HGX B200, GB200 and GB300 NVL72 over 72,
# HGX B300 over 8); AMD data sheets of MI300X, MI325X, MI355X; Ada and RTX Blackwell white papers.
WITH_SPARSITY = {
    "A10": {"bf16": 250, "int8": 500},
    "A30": {"bf16": 330, "int8": 661},
    "A40": {"bf16": 299.4, "int8": 598.6},
    "A100-80": {"bf16": 624, "int8": 1248},
    "A100-40": {"bf16": 624, "int8": 1248},
    "A100-PCIe": {"bf16": 624, "int8": 1248},
    "L4": {"bf16": 242, "fp8": 485, "int8": 485},
    "L40S": {"bf16": 733, "fp8": 1466, "int8": 1466},
    "RTX-4090": {"bf16": 330.4, "fp8": 660.6, "int8": 1321.2},
    "RTX-5090": {"bf16": 419, "fp8": 838, "int8": 1676, "nvfp4": 3352},
    "RTX-PRO-6000": {"bf16": 1007.6, "fp8": 2015.2, "nvfp4": 4030.4},
    "H100-PCIe": {"bf16": 1513, "fp8": 3026, "int8": 3026},
    "H100-SXM": {"bf16": 1979, "fp8": 3958, "int8": 3958},
    "H200-SXM": {"bf16": 1979, "fp8": 3958, "int8": 3958},
    "B200": {"bf16": 4500, "fp8": 9000, "int8": 9000, "nvfp4": 18000},
    "B300": {"bf16": 4500, "fp8": 9000},
    "GB200": {"bf16": 5000, "fp8": 10000, "int8": 10000, "nvfp4": 20000},
    "GB300": {"bf16": 5000, "fp8": 10000},
    "MI300X": {"bf16": 2614.9, "fp8": 5229.8, "int8": 5229.8},
    "MI325X": {"bf16": 2614.9, "fp8": 5229.8, "int8": 5229.8},
    "MI355X": {"bf16": 5033.2, "fp8": 10066.3, "int8": 10066.3},
}

# (GB, GB/s, watts) as printed on the data sheets named in each device's file.
PRINTED = {
    "V100": (32, 900, 300),
    "A10": (24, 600, 150),
    "A30": (24, 933, 165),
    "A40": (48, 696, 300),
    "A100-40": (40, 1555, 400),
    "A100-80": (80, 2039, 400),
    "A100-PCIe": (80, 1935, 300),
    "L4": (24, 300, 72),
    "L40S": (48, 864, 350),
    "RTX-4090": (24, 1008, 450),
    "RTX-5090": (32, 1792, 575),
    "RTX-PRO-6000": (96, 1792, 600),
    "H100-PCIe": (80, 2000, 350),
    "H100-SXM": (80, 3350, 700),
    "H200-SXM": (141, 4800, 700),
    "B200": (180, 8000, 1000),
    "B300": (270, 8000, 1100),
    "GB200": (186, 8000, 1200),
    "GB300": (279, 8000, 1400),
    "MI250X": (128, 3276.8, 560),
    "MI300X": (192, 5300, 750),
    "MI325X": (256, 6000, 1000),
    "MI355X": (288, 8000, 1400),
    "TPU-v5e": (16, 819, None),
    "TPU-v5p": (95, 2765, None),
    "TPU-v6e": (32, 1640, None),
    "Ascend-910C": (128, 3200, None),
    "Gaudi-3": (128, 3700, 900),
}


@pytest.mark.parametrize("name", REQUIRED)
def test_required_devices_are_bundled(name: str) -> None:
    assert load_device(name) in DEVICES


@pytest.mark.parametrize("name", sorted(WITH_SPARSITY))
def test_peaks_are_dense(name: str) -> None:
    device = load_device(name)
    for dtype, sparse in WITH_SPARSITY[name].items():
        assert device.flops_per_s(DType(dtype)) == pytest.approx(sparse * 1e12 / 2, rel=0.015)


def test_blackwell_ultra_prints_its_dense_fp4() -> None:
    """GB300 NVL72: 1,080 PFLOP/s dense for 72; HGX B300: 108 PFLOP/s dense for 8."""
    assert load_device("GB300").flops_per_s(DType.NVFP4) * 72 == pytest.approx(1080e15)
    assert load_device("B300").flops_per_s(DType.NVFP4) * 8 == pytest.approx(108e15)


@pytest.mark.parametrize("name", sorted(PRINTED))
def test_memory_and_power_as_printed(name: str) -> None:
    device = load_device(name)
    gigabytes, gigabytes_per_s, watts = PRINTED[name]
    assert device.memory_bytes == pytest.approx(gigabytes * 1e9, rel=0.075)  # GB or GiB
    assert device.memory_bytes_per_s == pytest.approx(gigabytes_per_s * 1e9, rel=0.02)
    if watts is not None:
        assert device.power.peak_w == watts


@by_device
def test_every_value_group_names_source_and_date(device: Device) -> None:
    groups = {"memory", "compute", "links", "power"} | ({"tiers"} if device.tiers else set())
    assert set(device.sources) == groups
    named = [*device.sources.values(), device]
    if device.price is not None:
        named.append(device.price)
    for group in named:
        assert len(group.source) > 10
        assert re.fullmatch(r"20\d\d-\d\d(-\d\d)?", group.as_of)


@by_device
def test_ridge_point_is_sane(device: Device) -> None:
    """FLOPs a byte at which compute and memory balance: 20 to 700 on every matrix machine."""
    widest = DType.BF16 if DType.BF16 in device.peak_flops_per_s else DType.FP16
    ridge = device.flops_per_s(widest) / device.memory_bytes_per_s
    assert 20 < ridge < 700


@by_device
def test_links_slow_down_outwards(device: Device) -> None:
    assert device.scale_up is not None and device.scale_out is not None
    assert device.memory_bytes_per_s >= device.scale_up.bytes_per_s
    assert device.scale_up.bytes_per_s >= device.scale_out.bytes_per_s
    if device.kind != "cpu":  # a CPU's host memory is its own
        assert device.scale_up.bytes_per_s >= device.host.bytes_per_s
        assert all(tier.bytes_per_s <= device.host.bytes_per_s for tier in device.tiers)
    latencies = [device.scale_up.latency_s, device.scale_out.latency_s, device.host.latency_s]
    assert all(1e-8 < latency_s < 1e-4 for latency_s in latencies)


@by_device
def test_narrower_formats_are_not_slower(device: Device) -> None:
    peaks = device.peak_flops_per_s
    order = [DType.FP32, DType.BF16, DType.FP8, DType.MXFP4]
    found = [peaks[dtype] for dtype in order if dtype in peaks]
    assert found == sorted(found)


@by_device
def test_idle_is_well_below_peak_power(device: Device) -> None:
    assert 0 < device.power.idle_w < 0.5 * device.power.peak_w


@by_device
def test_devices_round_trip(device: Device) -> None:
    assert io.from_data(Device, io.plain(device), where=device.name) == device


@by_device
def test_a_format_not_listed_is_refused(device: Device) -> None:
    for dtype in set(DType) - set(device.peak_flops_per_s):
        with pytest.raises(UnsupportedError, match=re.escape(device.name)):
            device.flops_per_s(dtype)


def test_racks_and_pods() -> None:
    sizes = {"GB200": 72, "GB300": 72, "Ascend-910C": 384, "TPU-v5e": 256, "H100": 8}
    for name, size in sizes.items():
        assert load_device(name).devices_per_node == size


def test_most_devices_have_a_price() -> None:
    priced = [device for device in DEVICES if device.price is not None]
    assert len(priced) >= 20
    assert all(0.05 < device.price.usd_per_hour < 50 for device in priced if device.price)
