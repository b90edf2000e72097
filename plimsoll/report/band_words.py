"""Error bands in words: where a predicted latency falls in 8 of 10 deployments.

A band holds the P10 and the P90 of measured over predicted; the same two factors go on every
statistic of a metric. Two digits are shown: a band is not known better. Metrics without a band
(ITL, end-to-end) and predictions that have none are left as they are.
Source of the factors: plimsoll/cost/error_bands.py.
"""

from collections.abc import Mapping

from plimsoll.report.wording import METRIC_NAMES, narrow_range_text, range_text
from plimsoll.spec.origin import Band
from plimsoll.spec.summary import Distribution, Summary, TargetVerdict

__all__ = [
    "EIGHT_OF_TEN",
    "band_cell",
    "band_range",
    "percentile_band_notes",
    "verdict_band_note",
    "widened_words",
]

EIGHT_OF_TEN = "in 8 of 10 deployments (P10-P90 of measured over predicted)"


def band_range(value_s: float, band: Band) -> str:
    """Where a prediction falls: ``630 ms to 1.4 s``."""
    return range_text(value_s * band.low, value_s * band.high)


def band_cell(value_s: float | None, band: Band | None) -> str:
    """The same for a cell of a table: ``0.63-1.4 s``, or "-"."""
    if value_s is None or band is None:
        return "-"
    return narrow_range_text(value_s * band.low, value_s * band.high)


def widened_words(*bands: Band) -> str:
    """``; wider: device not measured``, each reason once, or "" for what was measured."""
    reasons = dict.fromkeys(reason for band in bands for reason in band.reasons)
    return f"; wider: {', '.join(reasons)}" if reasons else ""


def percentile_band_notes(summary: Summary, bands: Mapping[str, Band]) -> tuple[str, ...]:
    """A sentence each for TTFT and TPOT: their mean, P50 and P99 with the band applied."""
    rows: tuple[tuple[str, Distribution | None], ...] = (
        ("ttft", summary.ttft_s),
        ("tpot", summary.tpot_s),
    )
    notes: list[str] = []
    for metric, shown in rows:
        band = bands.get(metric)
        if band is None or shown is None:
            continue
        statistics = (("mean", shown.mean), ("P50", shown.p50), ("P99", shown.p99))
        ranges = ", ".join(f"{name} {band_range(value, band)}" for name, value in statistics)
        how = "likewise" if notes else EIGHT_OF_TEN
        notes.append(f"{METRIC_NAMES[metric]} {how}: {ranges}{widened_words(band)}")
    return tuple(notes)


def verdict_band_note(name: str, verdict: TargetVerdict, bands: Mapping[str, Band]) -> str:
    """A sentence where the verdict on the target ``name`` differs inside the band, else ""."""
    band, target = bands.get(verdict.target.metric), verdict.target
    if band is None or verdict.observed_s is None:
        return ""
    low_s, high_s = verdict.observed_s * band.low, verdict.observed_s * band.high
    whole = f"its P10-P90 is {range_text(low_s, high_s)}"
    if verdict.met and high_s > target.bound_s:
        return f"{name} is met as predicted but not across its error band: {whole}"
    if not verdict.met and low_s <= target.bound_s:
        return f"{name} is missed as predicted but not across its error band: {whole}"
    return ""
