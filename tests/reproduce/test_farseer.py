"""The catalog entry of Farseer: its checks, and what it must not claim."""

from pathlib import Path

import pytest

from plimsoll.catalog.contract import Context
from plimsoll.catalog.farseer import SYSTEM
from plimsoll.catalog.verdicts import run_system

DATA = Path(__file__).resolve().parents[2] / "../shared/data"
CONTEXT = Context(data=DATA if DATA.exists() else None)


@pytest.mark.skipif(not DATA.exists(), reason="the measured points are not here")
def test_every_check_passes() -> None:
    rows = list(run_system(SYSTEM, CONTEXT))
    assert [f"{r.claim}: {r.what}: {r.ours}" for r in rows if r.verdict == "fail"] == []
    assert sum(r.verdict == "pass" for r in rows) >= 9


def test_the_allocation_of_the_paper_is_not_claimed() -> None:
    assert "no interior optimum" in SYSTEM.not_reproduced["allocation"]
    rows = [r for r in run_system(SYSTEM, CONTEXT, quick=True) if r.claim == "allocation"]
    assert rows and all(r.verdict not in ("pass", "fail") for r in rows)
