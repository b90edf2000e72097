"""Ctrl-C: a search prints the best so far, anything else ends at once; nothing is left behind."""

import os
import pty
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.command_line import PLAN, START, environment, spawn

ASK = ["plan", "llama-3.1-70b", "--on", "8xH100-SXM", "--workload", "chat", "--ttft-p99", "2s"]
ASK += ["--tpot-p99", "60ms"]


def interrupted(folder: Path, *words: str) -> tuple[int, str, str]:
    """Exit code, stdout and progress of a search stopped after its first simulated plan.

    Progress goes to a terminal, and the signal to the whole group, as from a keyboard.
    """
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*START, *ASK, *words],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=slave,
        text=True,
        start_new_session=True,
    )
    os.close(slave)
    seen = ""
    deadline = time.monotonic() + 120
    while "best " not in seen and time.monotonic() < deadline:
        seen += os.read(master, 4096).decode()
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    os.close(master)
    return process.returncode, out, seen


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_search_gives_the_best_so_far(tmp_path: Path, jobs: str) -> None:
    code, out, seen = interrupted(tmp_path, "--jobs", jobs, "--out", "plan.yaml")
    assert code == 0
    assert out.startswith("Interrupted; best so far: ")
    assert "next:  plimsoll simulate plan.yaml" in out
    assert (tmp_path / "plan.yaml").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["plan.yaml"]
    assert "/s" in seen and "left" in seen


def test_anything_else_ends_at_once(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN)
    process = spawn(
        *("simulate", "plan.yaml", "-w", "500/500", "--requests", "2000000", "--out", "run"),
        folder=tmp_path,
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "run.json").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == "" and err == "interrupted\n"
    assert [p.name for p in tmp_path.iterdir()] == ["plan.yaml"], "the folder is let go"
