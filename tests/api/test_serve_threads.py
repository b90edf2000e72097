"""How many threads a worker of ``plimsoll serve`` computes with."""

import os

import pytest

from plimsoll.api.serve import worker_threads


def test_worker_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert usable is not None
    for text in ("", "0", "many"):
        monkeypatch.setenv("OMP_NUM_THREADS", text)
        assert worker_threads(1) == usable
        assert worker_threads(10_000) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "3,2")
    assert worker_threads(1) == worker_threads(8) == 3
