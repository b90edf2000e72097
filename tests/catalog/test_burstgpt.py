"""The catalog entry: checks pass, ablations flip, what is missing is said."""

from pathlib import Path

import pytest

from plimsoll.catalog.burst_effect import burst_effect, sustained_rate_per_s
from plimsoll.catalog.burstgpt import SYSTEM
from plimsoll.catalog.contract import Context
from plimsoll.catalog.verdicts import run_system

DATA = Path(__file__).resolve().parents[2] / "../shared/data"
HAS_DATA = (DATA / "traces").is_dir()
ROOMS = Path(__file__).resolve().parents[2] / "plimsoll"


def test_quick_checks_pass_and_ablations_flip() -> None:
    context = Context(data=DATA if HAS_DATA else None)
    rows = list(run_system(SYSTEM, context, quick=True))
    failed = [row for row in rows if row.verdict == "fail"]
    assert not failed, failed
    passed = sum(row.verdict == "pass" for row in rows)
    assert passed >= (24 if HAS_DATA else 16)
    assert {row.claim for row in rows if row.verdict == "not reproduced"} == {"size"}
    assert not any(row.verdict == "waiting" for row in rows)
    redrawn = [row for row in rows if row.claim == "effect" and row.band.startswith("must miss")]
    assert [row.low != row.high for row in redrawn] == [True, True, False]  # none preempts


def test_without_data_nothing_fails() -> None:
    quick = SYSTEM.checks[:2] + SYSTEM.checks[7:13]
    rows = [row for row in run_system(SYSTEM, Context(), quick=True) if row.verdict == "not run"]
    assert len(rows) >= len(quick)
    assert not [row for row in rows if row.ours is not None]


def test_every_claim_has_a_check_and_every_room_exists() -> None:
    checked = {check.claim for check in SYSTEM.checks} | set(SYSTEM.not_reproduced)
    assert checked == {claim.id for claim in SYSTEM.claims}
    for room in SYSTEM.rooms:
        assert (ROOMS / room).exists(), room


def test_the_load_is_below_what_is_sustained() -> None:
    # 78,496 KV tokens hold about 57 requests of 1,155 + 211 tokens on each of 4 instances.
    assert 4 < sustained_rate_per_s() < 20
    calm = burst_effect(1.0, 0)
    assert calm.preemptions == 0 and calm.ttft_p50_s < calm.ttft_p99_s < 3


@pytest.mark.slow
@pytest.mark.skipif(not HAS_DATA, reason="measured traces are not beside the checkout")
def test_slow_checks_show_their_tables() -> None:
    rows = {row.what: row for row in run_system(SYSTEM, Context(data=DATA), timed=False)}
    assert rows["four routers"].verdict == "shown"
    assert "disaggregated" in rows["four routers"].detail
    shuffled = rows["lengths shuffled against arrivals"]
    assert shuffled.ours is not None and shuffled.ours > 0
