"""The catalog entry of Kinetics; its cost model and choices are tested on their own."""

import pytest

from plimsoll.catalog.contract import Context
from plimsoll.catalog.kinetics import SYSTEM
from plimsoll.catalog.verdicts import run_system


def test_every_check_passes() -> None:
    rows = list(run_system(SYSTEM, Context(), timed=False, quick=True))
    assert [f"{r.claim}: {r.what}" for r in rows if r.verdict == "fail"] == []
    assert sum(r.verdict == "pass" for r in rows) == 28


@pytest.mark.timing
def test_decode_steps_take_arithmetic_and_traffic() -> None:
    from plimsoll.catalog.kinetics_real import step_fit

    found = step_fit(seed=0)
    assert found.num_params[1] >= 4 * found.num_params[0]
    assert found.r2 >= 0.97 and found.worst <= 0.15
    assert found.flops_only_worst > 0.15
