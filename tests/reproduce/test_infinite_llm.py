"""The catalog entry of Infinite-LLM; what its parts do is tested beside them."""

from plimsoll.catalog.contract import Context
from plimsoll.catalog.infinite_llm import SYSTEM
from plimsoll.catalog.verdicts import run_system


def test_every_check_passes() -> None:
    rows = list(run_system(SYSTEM, Context(), timed=False))
    assert [f"{r.claim}: {r.what}" for r in rows if r.verdict == "fail"] == []
    assert {r.detail for r in rows if r.verdict == "not run"} == {"compares times"}
    assert sum(r.verdict == "pass" for r in rows) == 14


def test_what_is_missing_is_said() -> None:
    assert len(SYSTEM.waiting) == 4
    assert {check.claim for check in SYSTEM.checks} == {
        claim.id for claim in SYSTEM.claims if claim.id != "throughput"
    }
