"""The catalog entry of Farseer: its checks, and what it must not claim."""

from dataclasses import replace
from pathlib import Path

import pytest

from plimsoll.catalog.contract import Context
from plimsoll.catalog.farseer import SYSTEM
from plimsoll.catalog.verdicts import run_system

DATA = Path(__file__).resolve().parents[2] / "../shared/data"
CONTEXT = Context(data=DATA if DATA.exists() else None)


@pytest.mark.skipif(not DATA.exists(), reason="the measured points are not here")
def test_every_check_passes_that_trains_nothing() -> None:
    short = replace(
        SYSTEM, checks=tuple(c for c in SYSTEM.checks if "trained again" not in c.title)
    )
    rows = list(run_system(short, CONTEXT))
    assert [f"{r.claim}: {r.what}: {r.ours}" for r in rows if r.verdict == "fail"] == []
    assert sum(r.verdict == "pass" for r in rows) >= 11


@pytest.mark.slow
def test_rows_of_the_grid_can_be_trained_again() -> None:
    again = replace(SYSTEM, checks=tuple(c for c in SYSTEM.checks if "trained again" in c.title))
    rows = [r for r in run_system(again, CONTEXT) if r.claim == "real"]
    assert [r.verdict for r in rows] in (["pass", "pass"], ["not run"])


def test_the_allocation_of_the_paper_is_not_claimed() -> None:
    assert "no interior optimum" in SYSTEM.not_reproduced["allocation"]
    rows = [r for r in run_system(SYSTEM, CONTEXT, quick=True) if r.claim == "allocation"]
    assert rows and all(r.verdict not in ("pass", "fail") for r in rows)
