"""The catalog entry of FastSwitch; the allocator is tested on its own."""

import pytest

from plimsoll.catalog.contract import Context
from plimsoll.catalog.copied_runs import copy_gain
from plimsoll.catalog.fastswitch import SYSTEM
from plimsoll.catalog.verdicts import run_system


def test_every_check_passes() -> None:
    rows = list(run_system(SYSTEM, Context(), timed=False))
    assert [f"{r.claim}: {r.what}" for r in rows if r.verdict == "fail"] == []
    assert {r.detail for r in rows if r.verdict == "not run"} == {"compares times"}
    assert sum(r.verdict == "pass" for r in rows) == 8


def test_copies_are_verified() -> None:
    """A megabyte: that bytes arrive, not how fast."""
    assert copy_gain(20, seed=0, total_bytes=2**20, repeats=1) > 0


@pytest.mark.timing
def test_real_copies_in_runs_are_faster() -> None:
    assert copy_gain(20, seed=0) >= 1.5
