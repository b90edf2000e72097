"""Calibrating with tiny sizes: a valid file that every verb takes, and refusals."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from plimsoll.cost.measured_clock import measured_clock
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import SpecError, UnsupportedError
from plimsoll.spec.fleet import load_device, parse_fleet
from plimsoll.spec.hardware import Device
from plimsoll.spec.io import from_data, plain

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def answer(tmp_path_factory):
    from plimsoll.api.calibrate import calibrate

    started = time.perf_counter()
    found = calibrate("cpu", DType.FP32, out=tmp_path_factory.mktemp("here") / "here.yaml",
                      quick=True)  # fmt: skip
    return found, time.perf_counter() - started


def test_quick_is_quick(answer):
    assert answer[1] < 20


def test_the_file_is_a_device(answer):
    found, _ = answer
    read = load_device(str(found.path))
    assert read == found.device
    assert from_data(Device, plain(read), where="again") == read
    (part,) = parse_fleet(f"1x{found.path}").parts
    assert part.device == read
    assert read.measured is not None
    assert set(read.measured.kernels) == {DType.FP32}
    assert read.peak_flops_per_s[DType.FP32] > 1e8
    assert read.memory_bytes_per_s > 1e8


def test_copies_count_both_ways(answer):
    rates = answer[0].device.measured.rates
    assert rates.copy_traffic_bytes_per_s.value == pytest.approx(2 * rates.copy_bytes_per_s.value)


def test_a_clock_comes_out(answer):
    from plimsoll.api.fit import fit
    from plimsoll.spec.model_files import load_model

    found, _ = answer
    clock = measured_clock(load_model("qwen3-0.6b"), found.device, dtype=DType.FP32)
    assert 0 < clock.step_s((), 1, 100) < clock.step_s([(512, 0)], 1, 100)
    assert fit("qwen3-0.6b", f"1x{found.path}").report().title


def test_the_report_states_every_coefficient(answer):
    found, _ = answer
    report, data = found.report(), found.data()
    assert json.dumps(data, allow_nan=False)
    shown = {row[0] for table in report.tables for row in table.rows}
    for name in ("decode attention: layer_s", "engine: step_s", "memory copy, each byte once"):
        assert name in shown
    assert str(found.path) in report.title
    assert report.next_command.startswith("plimsoll fit ")


def test_refusals(tmp_path):
    from plimsoll.api.calibrate import calibrate

    with pytest.raises(SpecError, match="expected cpu, cuda or cuda:0"):
        calibrate("abacus", out=tmp_path / "a.yaml", quick=True)
    with pytest.raises(SpecError, match="shows . CUDA devices"):
        calibrate("cuda:9", out=tmp_path / "a.yaml", quick=True)
    with pytest.raises(UnsupportedError, match="only fp32 and bf16"):
        calibrate("cpu", DType.FP8, out=tmp_path / "a.yaml", quick=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words", [("--device", "abacus"), ("--out", "somewhere"), ("--dtype", "bf17")]
)
def test_the_command_line_says_one_sentence(tmp_path: Path, words: tuple[str, ...]):
    done = subprocess.run(
        [sys.executable, "-m", "plimsoll.cli.main", "calibrate", "--quick", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr
