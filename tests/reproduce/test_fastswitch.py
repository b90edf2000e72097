"""The catalog entry of FastSwitch; the allocator is tested on its own."""

import pytest

from plimsoll.catalog import fastswitch_setting as setting
from plimsoll.catalog.contract import Context
from plimsoll.catalog.copied_runs import copy_gain
from plimsoll.catalog.fastswitch import SYSTEM
from plimsoll.catalog.verdicts import run_system


def test_every_quick_check_passes() -> None:
    rows = list(run_system(SYSTEM, Context(), quick=True, timed=False))
    assert [f"{r.claim}: {r.what}" for r in rows if r.verdict == "fail"] == []
    assert sum(r.verdict == "pass" for r in rows) == 8


def test_all_parts_shorten_the_tail_of_a_short_trace() -> None:
    """The setting of the slow checks, with few turns, one seed and more at once."""
    load = setting.sessions(1.0, 0, num_turns=300)
    plain, ours = (setting.figures([setting.serve(load, p)]) for p in (setting.PLAIN, setting.ALL))
    assert plain.tbt_p999_s > 2 * ours.tbt_p999_s
    assert plain.ttft_p99_s > 1.4 * ours.ttft_p99_s
    assert ours.sent_blocks < 0.6 * plain.sent_blocks


@pytest.mark.slow
def test_every_check_passes() -> None:
    rows = list(run_system(SYSTEM, Context(), timed=False))
    assert [f"{r.claim}: {r.what}" for r in rows if r.verdict == "fail"] == []
    assert {r.detail for r in rows if r.verdict == "not run"} == {"compares times"}
    assert sum(r.verdict == "pass" for r in rows) == 25


def test_copies_are_verified() -> None:
    """A megabyte: that bytes arrive, not how fast."""
    assert copy_gain(20, seed=0, total_bytes=2**20, repeats=1) > 0


@pytest.mark.timing
def test_real_copies_in_runs_are_faster() -> None:
    assert copy_gain(20, seed=0) >= 1.5
