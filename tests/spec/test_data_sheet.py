"""Devices from a dozen data-sheet values: units, stated assumptions, and bad files."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.spec import io
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import PlimsollError, SpecError
from plimsoll.spec.fleet import load_device
from plimsoll.spec.hardware import Device

FULL = {
    "name": "mycard",
    "memory": "48GB",
    "bandwidth": "864GB/s",
    "bf16": "181TFLOP/s",
    "fp8": "362TFLOP/s",
    "pcie": "32GB/s",
    "nvlink": "56.25GB/s",
    "network": "100Gb/s",
    "cores": 142,
    "l2": "96MB",
    "devices_per_node": 4,
    "ddr": "512GB",
    "watts": 300,
    "idle": "30W",
    "price": "1.2usd/h",
    "family": "ada",
    "vendor": "acme",
    "as_of": "2025-01-31",
}
NEEDED = {key: FULL[key] for key in ("name", "memory", "bandwidth", "bf16", "watts")}


def load(folder: Path, content: object) -> Device:
    path = folder / "card.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return load_device(str(path))


def test_every_value_arrives_in_si_units(tmp_path: Path) -> None:
    device = load(tmp_path, FULL)
    assert device.memory_bytes == 48e9
    assert device.memory_bytes_per_s == 864e9
    assert device.flops_per_s(DType.BF16) == 181e12
    assert device.flops_per_s(DType.FP8) == 362e12
    assert device.host.bytes_per_s == 32e9
    assert device.scale_up is not None and device.scale_up.bytes_per_s == 56.25e9
    assert device.scale_out is not None and device.scale_out.bytes_per_s == 12.5e9
    assert (device.num_cores, device.l2_bytes, device.devices_per_node) == (142, 96e6, 4)
    assert (device.power.peak_w, device.power.idle_w) == (300, 30)
    assert device.price is not None and device.price.usd_per_hour == 1.2
    assert device.tiers[0].capacity_bytes == 512e9
    assert (device.family, device.vendor, device.as_of) == ("ada", "acme", "2025-01-31")
    assert device.assumptions == ()


def test_five_lines_are_enough_and_the_rest_is_stated(tmp_path: Path) -> None:
    device = load(tmp_path, NEEDED)
    said = " ".join(device.assumptions)
    for word in ("PCIe", "idle", "cores", "cache", "family", "network", "node"):
        assert word in said
    assert device.price is None and device.scale_out is None
    assert device.scale_up is not None and device.scale_up.bytes_per_s == device.host.bytes_per_s


def test_each_value_given_removes_an_assumption(tmp_path: Path) -> None:
    count = len(load(tmp_path, NEEDED).assumptions)
    for key in ("pcie", "nvlink", "network", "cores", "l2", "devices_per_node", "idle", "family"):
        assert len(load(tmp_path, NEEDED | {key: FULL[key]}).assumptions) == count - 1


def test_a_sparse_peak_is_halved(tmp_path: Path) -> None:
    device = load(tmp_path, NEEDED | {"fp8_with_sparsity": "1466TFLOPS"})
    assert device.flops_per_s(DType.FP8) == 733e12


@pytest.mark.parametrize("missing", sorted(NEEDED))
def test_what_is_needed_is_named(tmp_path: Path, missing: str) -> None:
    with pytest.raises(SpecError, match=missing):
        load(tmp_path, {k: v for k, v in NEEDED.items() if k != missing})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"memory": 48}, "no unit"),
        ({"memory": "48Gb"}, "unknown unit"),
        ({"memory": "0GB"}, "memory_bytes"),
        ({"bandwidth": "-864GB/s"}, "bandwidth"),
        ({"bf16": ".nan"}, "bf16"),
        ({"bandwith": "864GB/s"}, "Did you mean bandwidth"),
        ({"fp8": "1TFLOPS", "fp8_with_sparsity": "2TFLOPS"}, "keep the dense one"),
        ({"nvlink": "1GB/s", "infinity_fabric": "1GB/s"}, "keep one"),
        ({"cores": 0}, "num_cores"),
        ({"watts": True}, "watts"),
        ({"kind": "toaster"}, "kind"),
    ],
)
def test_bad_values_are_named(tmp_path: Path, change: dict[str, object], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        load(tmp_path, NEEDED | change)


@pytest.mark.parametrize("content", ["", "[]", "3", "name: [", "a: 1\na: 2\n", "\ttab: 1", "{}"])
def test_files_that_are_no_device(tmp_path: Path, content: str) -> None:
    with pytest.raises(SpecError, match=r"card\.yaml"):
        load(tmp_path, content)


def test_a_full_device_file_round_trips(tmp_path: Path) -> None:
    device = load(tmp_path, FULL)
    io.write(device, tmp_path / "full.yaml")
    assert load_device(str(tmp_path / "full.yaml")) == device
    io.write(device, tmp_path / "full.json")
    assert load_device(str(tmp_path / "full.json")) == device


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    data = io.plain(load(tmp_path, FULL)) | {"format_version": 2}
    with pytest.raises(SpecError, match="newer"):
        load(tmp_path, data)


VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-10, 10**20)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["1GB", "1e999GB", "1e300TB/s", "1TFLOP/s", "3W", "2usd/h", "-1GB"])
    | st.lists(st.integers(), max_size=2)
    | st.dictionaries(st.text(max_size=3), st.integers(), max_size=2)
)
KEYS = st.sampled_from([*FULL, "memory_bytes", "format_version", "aliases", "notes"]) | st.text(
    max_size=6
)


@settings(max_examples=200, deadline=None)
@given(changes=st.dictionaries(KEYS, VALUES, max_size=4), base=st.sampled_from([{}, NEEDED, FULL]))
def test_any_values_load_or_are_refused(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[str, object], base: dict[str, object]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(yaml.safe_dump(base | changes, allow_unicode=True), encoding="utf-8")
    try:
        device = load_device(str(path))
    except PlimsollError as error:
        assert str(error)
    else:
        assert device.memory_bytes > 0 and device.peak_flops_per_s


@settings(max_examples=150, deadline=None)
@given(content=st.binary(max_size=200) | st.text(alphabet="a:[]{}-&*!|>\n \t\"'0", max_size=60))
def test_any_bytes_load_or_are_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes | str
) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(PlimsollError):
        load_device(str(path))
