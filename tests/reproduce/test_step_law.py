"""The catalog entry of Step Law; the law is tested on its own."""

import pytest

from plimsoll.catalog.contract import Context
from plimsoll.catalog.step_law import SYSTEM
from plimsoll.catalog.verdicts import run_system


def test_every_check_passes_or_asks_for_its_file() -> None:
    rows = list(run_system(SYSTEM, Context()))
    assert [f"{r.claim}: {r.what}" for r in rows if r.verdict == "fail"] == []
    assert sum(r.verdict == "pass" for r in rows) == 9
    asked = [check for check in SYSTEM.checks if check.optional]
    with pytest.raises(Exception, match=r"dense_lr_bs_loss\.csv"):
        asked[0].compute(Context())
