"""A disk that fills up, or loses what it held, costs the requests it concerns and no others."""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from plimsoll.models.context import KvShape
from plimsoll.serving.executors.torch.kv_store import KvStore
from plimsoll.serving.policies import ChunkedPrefillPolicy
from plimsoll.spec.errors import ExecutionError
from tests.serving.torch_executor.tiny_llama import Asked, make_folder, open_run, requests, spec

NUM = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("model"))


def served(folder: Path, disk: Path) -> tuple[list[Asked], Any]:
    """All requests under swapping to disk, each ended once, the books whole."""
    policy = ChunkedPrefillPolicy(token_budget=64, preempt="swap")
    run = open_run(folder, [spec(policy, 50, host_blocks=200)], disk_folder=disk, host_bytes=0)
    asked = requests(NUM)
    for one in asked:
        run.submit(one.conversation())
    assert run.wait_idle(120)
    run.check()
    assert not run.failure and run.num_alive == 0
    assert run.engines[0].inst._pool.held == 0
    until_s = time.monotonic() + 20
    while disk.is_dir() and list(disk.iterdir()):  # no later step is needed to clear it
        assert time.monotonic() < until_s, "swapped requests stay on disk"
        time.sleep(0.01)
    again = requests(1)[0]
    run.submit(again.conversation())
    assert run.wait_idle(60) and again.over[0].finish in ("length", "stop")
    run.close()
    assert [len(one.over) for one in asked] == [1] * NUM
    return asked, run


def failing(real: Callable[..., Any], every: int, error: OSError) -> Callable[..., Any]:
    """``real``, which fails after half its work at every so-many-th call."""
    calls = 0

    def wrapped(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls % every:
            return real(*given, **named)
        if len(given) > 1:
            given[1].write(b"half a request")
        raise error

    return wrapped


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            "save",
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
            "no room on disk for a swapped request: No space left on device",
        ),
        (
            "load",
            OSError(errno.EIO, os.strerror(errno.EIO)),
            "a swapped request is lost: Input/output error",
        ),
    ],
)
def test_only_what_the_disk_refused_fails(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    error: OSError,
    message: str,
) -> None:
    whole, _ = served(folder, tmp_path / "whole")
    monkeypatch.setattr(torch, call, failing(getattr(torch, call), 3, error))
    asked, run = served(folder, tmp_path / "full")
    failed = [one for one in asked if one.over[0].finish == "error"]
    assert 0 < len(failed) < NUM and run.num_failed == len(failed)
    assert {one.over[0].error for one in failed} == {message}
    for one, same in zip(asked, whole, strict=True):
        assert one in failed or one.delivered == same.delivered
        assert one.delivered == same.delivered[: len(one.delivered)]


def test_a_folder_that_cannot_be_made(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    asked, _ = served(folder, tmp_path / "file" / "swap")
    failed = [one.over[0].error for one in asked if one.over[0].finish == "error"]
    assert set(failed) == {"no room on disk for a swapped request: Not a directory"}


def test_what_a_killed_worker_left_is_removed(tmp_path: Path) -> None:
    """And a file that was cut short is an error in words, not a broken worker."""

    def store() -> KvStore:
        return KvStore(
            {0: KvShape(num_heads=1, key_dim=4, value_dim=4)},
            num_blocks=2,
            block_tokens=16,
            dtype=torch.float32,
            device=torch.device("cpu"),
            host_bytes=0,
            disk_folder=tmp_path,
        )

    first = store()
    first.swap_out(1, [0], 16)
    (tmp_path / "2.part").write_bytes(b"half")
    assert len(list(tmp_path.iterdir())) == 2
    second = store()
    assert not list(tmp_path.iterdir())
    second.swap_out(3, [0], 16)
    (tmp_path / "3.swap").write_bytes(b"PK half")
    with pytest.raises(ExecutionError, match="a swapped request is lost"):
        second.swap_in(3, [0])
    assert second.num_swapped == 0 and not list(tmp_path.iterdir())
