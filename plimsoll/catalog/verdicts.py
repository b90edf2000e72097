"""Runs the checks of catalog entries and says what came of each claim."""

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from plimsoll.catalog.contract import (
    AtLeast,
    AtMost,
    Band,
    Between,
    Check,
    Claim,
    Context,
    Measured,
    Report,
    System,
    Within,
)
from plimsoll.spec.errors import PlimsollError, UnsupportedError
from plimsoll.spec.io import PLAIN

__all__ = ["Row", "band_text", "rows_of", "run_system"]

Verdict = Literal["pass", "fail", "shown", "not reproduced", "not run", "left out", "waiting"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the scoreboard. ``ours`` None: nothing was computed, ``detail`` says why."""

    __pydantic_config__: ClassVar = PLAIN
    system: str
    claim: str
    what: str
    paper: float | None
    ours: float | None
    low: float | None
    high: float | None
    unit: str
    band: str
    how: str
    verdict: Verdict
    detail: str
    seconds: float


def run_system(
    system: System, context: Context, *, quick: bool = False, timed: bool = True
) -> Iterator[Row]:
    """Rows of one system as they are computed.

    ``quick`` leaves slow checks out, ``timed=False`` those that need a machine to themselves.
    """
    claims = {claim.id: claim for claim in system.claims}
    for check in system.checks:
        claim = claims[check.claim]
        if quick and check.slow:
            yield _empty(
                system, claim, check.title, check.how, "not run", "slow; run without --quick"
            )
            continue
        if check.timed and not timed:
            yield _empty(system, claim, check.title, check.how, "not run", "compares times")
            continue
        yield from rows_of(system, claim, check, context)
    for claim_id, reason in system.not_reproduced.items():
        claim = claims[claim_id]
        yield _empty(system, claim, claim.text, "", "not reproduced", reason)
    for line in system.waiting:
        yield Row(
            system=system.id,
            claim="",
            what=line,
            paper=None,
            ours=None,
            low=None,
            high=None,
            unit="",
            band="",
            how="",
            verdict="waiting",
            detail="",
            seconds=0.0,
        )


def rows_of(system: System, claim: Claim, check: Check, context: Context) -> Iterator[Row]:
    """The row of one check, and the row of its ablation."""
    runs = [(check.compute, check.title, False)]
    if check.ablation is not None:
        runs.append((check.ablation, check.ablation_title or f"{check.title}, turned off", True))
    for compute, title, is_ablation in runs:
        started = time.perf_counter()
        try:
            measured = compute(context)
        except UnsupportedError as error:
            verdict: Verdict = "left out" if check.optional else "not run"
            yield _empty(system, claim, title, check.how, verdict, str(error))
            return
        except PlimsollError as error:
            yield _empty(system, claim, title, check.how, "fail", str(error))
            return
        judged = _verdict(check.band, claim, measured, is_ablation)
        values = measured.values or (measured.value,)
        band = band_text(check.band, claim)
        yield Row(
            system=system.id,
            claim=claim.id,
            what=title,
            paper=None if is_ablation else claim.value,
            ours=measured.value,
            low=min(values) if len(values) > 1 else None,
            high=max(values) if len(values) > 1 else None,
            unit=check.unit or claim.unit,
            band=f"must miss {band}" if is_ablation else band,
            how=check.how,
            verdict=judged,
            detail="; ".join(
                filter(None, (measured.detail, check.fitted_on and f"fitted on {check.fitted_on}"))
            ),
            seconds=time.perf_counter() - started,
        )


def _empty(system: System, claim: Claim, what: str, how: str, verdict: Verdict, detail: str) -> Row:
    return Row(
        system=system.id,
        claim=claim.id,
        what=what,
        paper=claim.value,
        ours=None,
        low=None,
        high=None,
        unit=claim.unit,
        band="",
        how=how,
        verdict=verdict,
        detail=detail,
        seconds=0.0,
    )


def _verdict(band: Band, claim: Claim, measured: Measured, is_ablation: bool) -> Verdict:
    if isinstance(band, Report):
        return "shown"
    if math.isnan(measured.value):  # misses every band, which must not pass an ablation
        return "fail"
    inside = _inside(band, claim, measured.value)
    return "pass" if inside != is_ablation else "fail"


def _inside(band: Band, claim: Claim, value: float) -> bool:
    if isinstance(band, Within):
        if claim.value is None:
            raise UnsupportedError(f"claim {claim.id} has no number to be within a fraction of")
        return abs(value - claim.value) <= band.fraction * abs(claim.value)
    if isinstance(band, AtLeast):
        return value >= band.bound
    if isinstance(band, AtMost):
        return value <= band.bound
    assert isinstance(band, Between)
    return band.low <= value <= band.high


def band_text(band: Band, claim: Claim) -> str:
    """What a check accepts, in words."""
    if isinstance(band, Within):
        return f"within {band.fraction:.3g} of the claim"
    if isinstance(band, AtLeast):
        return f">= {band.bound:g}"
    if isinstance(band, AtMost):
        return f"<= {band.bound:g}"
    if isinstance(band, Between):
        return f"{band.low:g} to {band.high:g}"
    return "shown"


def counts(rows: Iterable[Row]) -> dict[str, int]:
    """How many rows ended in each verdict."""
    found: dict[str, int] = {}
    for row in rows:
        found[row.verdict] = found.get(row.verdict, 0) + 1
    return found
