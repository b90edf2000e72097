"""A verdict is never given for a number that is none."""

import math

import pytest

from plimsoll.catalog.contract import AtLeast, AtMost, Check, Claim, Context, Measured, System
from plimsoll.catalog.verdicts import run_system


@pytest.mark.parametrize(
    ("value", "ablated", "verdicts"),
    [
        (2.0, 0.5, ["pass", "pass"]),
        (2.0, 2.0, ["pass", "fail"]),
        (0.5, 0.5, ["fail", "pass"]),
        (2.0, math.nan, ["pass", "fail"]),
        (math.nan, 0.5, ["fail", "pass"]),
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_an_ablation_passes_only_with_a_number_outside(
    value: float, ablated: float, verdicts: list[str], sign: int
) -> None:
    check = Check(
        claim="gain",
        title="gain",
        how="derived",
        band=AtLeast(1.0) if sign > 0 else AtMost(-1.0),
        compute=lambda _: Measured(value=sign * value),
        ablation=lambda _: Measured(value=sign * ablated),
    )
    assert [row.verdict for row in run_system(entry(check), Context())] == verdicts


def entry(check: Check) -> System:
    return System(
        id="toy",
        title="",
        arxiv="",
        family="",
        summary="",
        claims=(Claim(id="gain", text="a gain"),),
        rooms=(),
        checks=(check,),
    )


def test_checks_of_times_are_left_out_where_other_work_would_fail_them() -> None:
    check = Check(
        claim="gain",
        title="gain",
        how="run",
        band=AtLeast(1.0),
        compute=lambda _: Measured(value=2.0),
        timed=True,
    )
    assert [row.verdict for row in run_system(entry(check), Context())] == ["pass"]
    rows = list(run_system(entry(check), Context(), timed=False))
    assert [(row.verdict, row.detail) for row in rows] == [("not run", "compares times")]
