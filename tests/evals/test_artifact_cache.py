"""Made folders: found when whole, made again when not, safe against a twin at work."""

import logging
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from plimsoll.evals.artifact_cache import cache_root, cached_folder, flaw
from plimsoll.spec.errors import ExecutionError


class Maker:
    """Writes two files and counts how often."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self, folder: Path) -> None:
        self.made += 1
        (folder / "weights").write_bytes(b"weights" * 1000)
        (folder / "report.json").write_text("{}", encoding="utf-8")


def whole(folder: Path) -> bool:
    return not flaw(folder) and [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_a_whole_folder_is_found(tmp_path: Path) -> None:
    make = Maker()
    folder = cached_folder(tmp_path / "cache" / "it", make)
    assert cached_folder(folder, make) == folder
    assert make.made == 1 and whole(folder)


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "add", "unseal", "seal", "folder"])
def test_a_damaged_folder_is_made_again(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    make = Maker()
    folder = cached_folder(tmp_path / "it", make)
    weights = folder / "weights"
    content = weights.read_bytes()
    if damage == "flip":
        weights.write_bytes(b"W" + content[1:])
    elif damage == "cut":
        weights.write_bytes(content[:-1])
    elif damage == "remove":
        weights.unlink()
    elif damage == "add":
        (folder / "model.bin").touch()
    elif damage == "unseal":
        (folder / "SHA256SUMS").unlink()
    elif damage == "seal":
        (folder / "SHA256SUMS").write_bytes(b"\xff\n")
    else:
        (folder / "more").mkdir()
    with caplog.at_level(logging.WARNING):
        cached_folder(folder, make)
    assert make.made == 2 and whole(folder) and weights.read_bytes() == content
    assert "made again" in caplog.text and str(folder) in caplog.text


def test_a_failed_making_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_folder(tmp_path / "it", fail)
    assert not list(tmp_path.iterdir())


def _slowly(folder: Path) -> None:
    (folder / "half").write_text("half", encoding="ascii")
    time.sleep(0.3)
    (folder / "maker").write_text(str(os.getpid()), encoding="ascii")


def _make_slowly(folder: Path) -> None:
    cached_folder(folder, _slowly)
    assert not flaw(folder)


@pytest.mark.parametrize("broken", [False, True])
def test_two_processes_may_make_it_at_once(tmp_path: Path, broken: bool) -> None:
    folder = tmp_path / "it"
    if broken:
        folder.mkdir()
        (folder / "weights").write_bytes(b"rest of something")
    spawn = multiprocessing.get_context("spawn")
    twins = [spawn.Process(target=_make_slowly, args=(folder,)) for _ in range(2)]
    for twin in twins:
        twin.start()
    for twin in twins:
        twin.join()
    assert [twin.exitcode for twin in twins] == [0, 0]
    assert whole(folder) and sorted(p.name for p in folder.iterdir())[1:] == ["half", "maker"]


def test_who_comes_second_takes_what_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "it"

    def make(own: Path) -> None:
        cached_folder(folder, Maker())
        (own / "late").touch()

    assert cached_folder(folder, make) == folder
    assert whole(folder) and not (folder / "late").exists()


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ExecutionError, match="XDG_CACHE_HOME"):
        cached_folder(tmp_path / "file" / "it", Maker())


def test_the_place_follows_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "plimsoll"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "plimsoll"
