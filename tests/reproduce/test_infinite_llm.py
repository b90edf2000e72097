"""The catalog entry of Infinite-LLM; what its parts do is tested beside them."""

from dataclasses import replace

import pytest

from plimsoll.catalog.contract import Context, Report
from plimsoll.catalog.infinite_llm import SYSTEM
from plimsoll.catalog.pooled_serving import longest_blocks
from plimsoll.catalog.verdicts import run_system
from plimsoll.cost.pooled_kv import pooled_kv
from plimsoll.spec.fleet import load_device
from plimsoll.spec.model_files import load_model


def test_every_quick_check_passes() -> None:
    rows = list(run_system(SYSTEM, Context(), quick=True))
    assert [f"{r.claim}: {r.what}" for r in rows if r.verdict == "fail"] == []
    assert sum(r.verdict == "pass" for r in rows) == 14


@pytest.mark.slow
def test_every_judged_check_passes() -> None:
    judged = tuple(c for c in SYSTEM.checks if c.slow and not isinstance(c.band, Report))
    rows = list(run_system(replace(SYSTEM, checks=judged), Context(), timed=False))
    assert [f"{r.claim}: {r.what}" for r in rows if r.verdict == "fail"] == []
    assert sum(r.verdict == "pass" for r in rows) >= 9


@pytest.mark.parametrize("lent_fraction", [0.3, 1.0])
def test_the_longest_context_served_is_that_of_the_closed_form(lent_fraction: float) -> None:
    pool = pooled_kv(
        load_model("llama-2-13b"),
        load_device("a100-sxm-80"),
        num_devices=4,
        lent_fraction=lent_fraction,
    )
    assert abs(longest_blocks(pool) - pool.longest_tokens // pool.block_tokens) <= 1
    assert longest_blocks(pool, lending=False) == 0


def test_every_claim_is_checked() -> None:
    assert SYSTEM.waiting == ()
    assert {check.claim for check in SYSTEM.checks} == {claim.id for claim in SYSTEM.claims}
