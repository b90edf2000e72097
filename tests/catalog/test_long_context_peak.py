"""The catalog entry: every quick check passes, every ablation shows, and nothing is hidden."""

import pytest

from plimsoll.catalog.contract import Context
from plimsoll.catalog.long_context_peak import SYSTEM
from plimsoll.catalog.verdicts import run_system

pytest.importorskip("torch")


def test_quick_checks_pass_and_ablations_flip() -> None:
    rows = list(run_system(SYSTEM, Context(), quick=True))
    failed = [row for row in rows if row.verdict == "fail"]
    assert not failed, failed
    assert sum(row.verdict == "pass" for row in rows) >= 20
    assert {row.claim for row in rows if row.verdict == "not reproduced"} == {"prefill-50k"}


def test_every_claim_has_a_check() -> None:
    assert {check.claim for check in SYSTEM.checks} == {claim.id for claim in SYSTEM.claims}
