"""The hardware page is the one its script writes, and its example file loads."""

import re
from pathlib import Path

from plimsoll.spec.dtype import DType
from plimsoll.spec.fleet import bundled_devices, load_device, parse_fleet
from scripts.write_hardware import INTRODUCTION, PAGE, page


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python scripts/write_hardware.py"


def test_every_device_has_a_row() -> None:
    for device in bundled_devices():
        assert f"\n| {device.name} |" in page()


def test_the_fleets_shown_parse(tmp_path: Path) -> None:
    shown = re.findall(r"^\| `([^`]+)` \|", INTRODUCTION, flags=re.MULTILINE)
    assert len(shown) >= 5
    for text in shown:
        if ".yaml" not in text:
            assert parse_fleet(text).num_devices > 0


def test_the_example_file_loads(tmp_path: Path) -> None:
    example = re.search(r"```yaml\n(.*?)```", INTRODUCTION, flags=re.DOTALL)
    assert example is not None
    path = tmp_path / "mycard.yaml"
    path.write_text(example.group(1))
    device = load_device(str(path))
    assert device.flops_per_s(DType.FP8) == 362e12
    assert device.assumptions == ()
