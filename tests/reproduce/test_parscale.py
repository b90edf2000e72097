"""The catalog entry of ParScale; its law and its costs are tested on their own."""

from plimsoll.catalog.contract import Context
from plimsoll.catalog.parscale import SYSTEM
from plimsoll.catalog.verdicts import run_system


def test_every_check_passes() -> None:
    rows = list(run_system(SYSTEM, Context(), quick=True))
    assert [f"{r.claim}: {r.what}" for r in rows if r.verdict == "fail"] == []
    assert sum(r.verdict == "pass" for r in rows) == 18
