"""The catalog entry of Step Law; the law is tested on its own."""

from dataclasses import replace

import pytest

from plimsoll.catalog.contract import Context
from plimsoll.catalog.step_law import SYSTEM
from plimsoll.catalog.verdicts import run_system


def test_every_check_passes_or_asks_for_its_file() -> None:
    rows = list(run_system(SYSTEM, Context(), quick=True))
    assert [f"{r.claim}: {r.what}" for r in rows if r.verdict == "fail"] == []
    assert sum(r.verdict == "pass" for r in rows) == 13
    asked = [check for check in SYSTEM.checks if check.optional]
    with pytest.raises(Exception, match=r"dense_lr_bs_loss\.csv"):
        asked[0].compute(Context())


@pytest.mark.slow
def test_rows_of_the_sweep_can_be_trained_again() -> None:
    again = replace(SYSTEM, checks=tuple(c for c in SYSTEM.checks if c.slow))
    rows = [r for r in run_system(again, Context()) if r.verdict != "not reproduced"]
    assert [r.verdict for r in rows] in (["pass", "pass"], ["not run"])
