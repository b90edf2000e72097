"""The catalog entry of BatchLLM: its checks, and the setting they are computed in."""

from dataclasses import replace

import pytest

from plimsoll.catalog.batchllm import SYSTEM
from plimsoll.catalog.batchllm_setting import Case, serve
from plimsoll.catalog.contract import Context
from plimsoll.catalog.verdicts import run_system

SMALL = Case(groups=30)


def verdicts(system=SYSTEM, **options):
    rows = list(run_system(system, Context(), timed=False, **options))
    assert [f"{r.claim}: {r.what} ({r.detail})" for r in rows if r.verdict == "fail"] == []
    return rows


def test_quick_checks_pass():
    claims = ("one-level", "planner", "order", "lifetime")
    some = tuple(check for check in SYSTEM.checks if check.claim in claims)
    rows = verdicts(replace(SYSTEM, checks=some), quick=True)
    assert sum(r.verdict == "pass" for r in rows) >= 9


@pytest.mark.slow
def test_every_check_passes():
    rows = verdicts()
    assert {r.detail for r in rows if r.verdict == "not run"} == {"compares times"}
    assert sum(r.verdict == "pass" for r in rows) >= 28


def test_the_first_version_is_not_given_the_latest_versions_number():
    claims = {claim.id: claim for claim in SYSTEM.claims}
    assert claims["throughput"].value == 1.1
    assert "latest" in SYSTEM.not_reproduced
    assert not [check for check in SYSTEM.checks if check.claim == "latest"]


def test_gains_are_over_a_cache_and_over_none():
    """A gain over no cache at all alone would be easy: the sheet of the system warns of it."""
    ours = serve(SMALL)
    cache, none = serve(replace(SMALL, policy="lru")), serve(replace(SMALL, share=False))
    assert ours.tokens_per_s > cache.tokens_per_s > none.tokens_per_s
    assert ours.prefill_tokens == ours.plan.prefill_tokens < cache.prefill_tokens
    assert cache.prefill_tokens < none.prefill_tokens


def test_setting_is_the_stated_one():
    served = serve(SMALL)
    requests = served.record.requests
    assert len(requests) == 30 * 16
    assert set(requests.prompt_tokens) == {2200}
    assert requests.output_tokens.mean() == pytest.approx(100, rel=0.05)
    assert requests.output_tokens.std() == pytest.approx(50, rel=0.1)
    assert served.plan.saved_fraction == pytest.approx(15 / 16 * 2000 / 2200)
    assert requests.ok.all()


def test_memory_stays_below_its_fraction():
    record = serve(SMALL).record
    blocks = record.meta["num_blocks"][0]
    assert 0.85 * blocks < record.steps.used_blocks.max() <= 0.97 * blocks
