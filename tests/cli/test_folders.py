"""Where results go: nothing is overwritten by half, mixed, or written where it cannot be."""

import json
import os
import stat
from pathlib import Path

import pytest

from tests.command_line import PLAN, plimsoll, spawn

SERVE = ["simulate", "plan.yaml", "-w", "500/50", "--requests", "50"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.yaml").write_text(PLAN)
    return tmp_path


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("place", ["a-file/run", "/proc/run"])
def test_a_place_that_takes_no_files(folder: Path, place: str) -> None:
    (folder / "a-file").write_text("mine")
    before = content(folder)
    for words in (
        [*SERVE, "--out", place],
        [*SERVE, "--report", f"{place}/page.html"],
        [*SERVE, "--trace", f"{place}/trace.json"],
        ["plan", "qwen3-8b", "--on", "1xL4", "--out", f"{place}/plan.yaml"],
        ["fit", "qwen3-8b", "--on", "1xL4", "--report", f"{place}/page.html"],
        ["export", "plan.yaml", "--to", "vllm", "--out", place],
        ["trace", "make", "chat", "--out", f"{place}/made.jsonl"],
        ["trace", "fit", "chat", "--out", f"{place}/model.yaml"],
    ):
        done = plimsoll(*words)
        assert done.code == 2 and done.out == "", words
        assert "cannot be written" in done.err and done.err.count("\n") == 1, words
    assert content(folder) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_a_read_only_folder(folder: Path) -> None:
    shut = folder / "shut"
    shut.mkdir()
    shut.chmod(stat.S_IRUSR | stat.S_IXUSR)
    done = plimsoll(*SERVE, "--out", "shut/run")
    assert done.code == 2 and "cannot be written" in done.err
    assert list(shut.iterdir()) == []


def test_a_folder_holds_one_run(folder: Path) -> None:
    assert plimsoll(*SERVE, "--out", "run").code == 0
    before = content(folder / "run")
    assert sorted(before) == [
        "meta.json",
        "plan.yaml",
        "record.npz",
        "run.json",
        "summary.json",
    ]
    done = plimsoll(*SERVE, "--seed", "1", "--out", "run")
    assert done.code == 2 and "already holds a run" in done.err
    assert content(folder / "run") == before


def test_of_two_runs_at_once_one_gets_the_folder(folder: Path) -> None:
    both = [spawn(*SERVE, "--seed", str(k), "--out", "run", folder=folder) for k in (0, 1)]
    errors = [process.communicate(timeout=120)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2]
    assert sum("already holds a run" in text for text in errors) == 1
    winner = [process.returncode for process in both].index(0)
    assert json.loads((folder / "run" / "run.json").read_text())["seed"] == winner


def test_a_run_repeats_bit_for_bit(folder: Path) -> None:
    assert plimsoll(*SERVE, "--seed", "5", "--out", "run").code == 0
    assert plimsoll("simulate", "run/run.json", "--out", "again").code == 0
    first, second = content(folder / "run"), content(folder / "again")
    assert first == second


def test_a_run_whose_workload_changed_is_not_repeated(folder: Path) -> None:
    assert plimsoll("trace", "make", "500/50", "--requests", "50", "--out", "w.jsonl").code == 0
    assert plimsoll("simulate", "plan.yaml", "-w", "w.jsonl", "--out", "run").code == 0
    with open("w.jsonl", "a", encoding="utf-8") as file:
        file.write("\n")
    done = plimsoll("simulate", "run")
    assert done.code == 2 and "has changed since" in done.err


def test_exported_files_are_not_overwritten(folder: Path) -> None:
    assert plimsoll("export", "plan.yaml", "--to", "vllm", "--out", "files").code == 0
    before = content(folder)
    done = plimsoll("export", "plan.yaml", "--to", "vllm", "--out", "files")
    assert done.code == 2 and "exists already" in done.err
    assert content(folder) == before
