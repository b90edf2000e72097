"""Same seed, same bytes: repeated in one process, and in another with other hash seeds."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving.odd_settings import setting

ROOT = Path(__file__).parents[2]
SEEDS = (224, 1001, 1002, 2005)
IN_A_PROCESS = """
import sys
from pathlib import Path
from tests.serving.test_determinism import fingerprint
for seed in map(int, sys.argv[2:]):
    print(fingerprint(seed, Path(sys.argv[1]) / str(seed)))
"""


def fingerprint(seed: int, folder: Path) -> str:
    """Hash of both files of the saved record."""
    setting(seed).run().save(folder)
    both = (folder / "record.npz").read_bytes() + (folder / "meta.json").read_bytes()
    return hashlib.sha256(both).hexdigest()


@pytest.mark.parametrize("seed", SEEDS)
def test_same_seed_same_bytes(seed, tmp_path):
    assert fingerprint(seed, tmp_path / "a") == fingerprint(seed, tmp_path / "b")


def test_one_executor_may_run_twice(tmp_path):
    case = setting(224)
    executor = case.executor()
    for name in ("a", "b"):
        executor.run(case.workload).save(tmp_path / name)
    a, b = ((tmp_path / name / "record.npz").read_bytes() for name in ("a", "b"))
    assert a == b


def test_same_bytes_in_another_process(tmp_path):
    here = [fingerprint(seed, tmp_path / f"here-{seed}") for seed in SEEDS]
    there = subprocess.run(
        [sys.executable, "-c", IN_A_PROCESS, str(tmp_path), *map(str, SEEDS)],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "4242", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.split() == here


def test_other_seeds_other_runs(tmp_path):
    assert fingerprint(224, tmp_path / "a") != fingerprint(1001, tmp_path / "b")
