"""Error bands in words: two digits, one unit, and what the band does to a verdict."""

import io
from dataclasses import replace

import pytest

from plimsoll.report.band_words import (
    EIGHT_OF_TEN,
    band_cell,
    percentile_band_notes,
    verdict_band_note,
    widened_words,
)
from plimsoll.report.document import Report
from plimsoll.report.html import report_html
from plimsoll.report.summary_tables import percentile_table, verdict_table
from plimsoll.report.terminal import make_console, print_report
from plimsoll.report.wording import narrow_range_text, range_text
from plimsoll.serving.metrics import summarize
from plimsoll.spec.origin import Band
from plimsoll.spec.slo import Slo, SloTarget
from plimsoll.spec.summary import Summary, TargetVerdict
from tests.fcfs_run import fcfs_run, poisson_run
from tests.report_pictures import SLO

BANDS = {
    "ttft": Band(low=0.5, high=2.0, reasons=("device not measured", "longer prompts")),
    "tpot": Band(low=0.9, high=1.1),
}


def summary() -> Summary:
    record, _ = poisson_run(num=50, meta={"num_devices": 8, "origin": "calibrated"})
    return summarize(record, SLO)


@pytest.mark.parametrize(
    ("low_s", "high_s", "wide", "narrow"),
    [
        (0.3141, 0.6982, "310 to 700 ms", "310-700 ms"),
        (0.6294, 1.402, "630 ms to 1.4 s", "0.63-1.4 s"),
        (1.1, 4.84, "1.1 to 4.8 s", "1.1-4.8 s"),
        (0.01987, 0.02849, "20 to 28 ms", "20-28 ms"),
        (0.00087, 0.0012, "0.87 to 1.2 ms", "0.87-1.2 ms"),
        (0.0, 0.5, "0 to 500 ms", "0-500 ms"),
        (123.4, 1234.0, "120 to 1,200 s", "120-1,200 s"),
    ],
)
def test_ranges(low_s: float, high_s: float, wide: str, narrow: str) -> None:
    assert range_text(low_s, high_s) == wide
    assert narrow_range_text(low_s, high_s) == narrow


def test_cells_without_a_band_are_a_dash() -> None:
    assert band_cell(0.1, BANDS["ttft"]) == "50-200 ms"
    assert band_cell(None, BANDS["ttft"]) == band_cell(0.1, None) == "-"


def test_reasons_are_said_once() -> None:
    assert widened_words(BANDS["tpot"]) == ""
    both = widened_words(BANDS["ttft"], BANDS["ttft"])
    assert both == "; wider: device not measured, longer prompts"


def test_notes_apply_the_factors_to_each_statistic() -> None:
    s = summary()
    first, second = percentile_band_notes(s, BANDS)
    assert s.ttft_s is not None and s.tpot_s is not None
    assert first.startswith(f"TTFT {EIGHT_OF_TEN}: mean ")
    assert f"P99 {range_text(0.5 * s.ttft_s.p99, 2 * s.ttft_s.p99)}; wider: " in first
    assert second.startswith("TPOT likewise: mean ")
    assert second.endswith(f"P99 {range_text(0.9 * s.tpot_s.p99, 1.1 * s.tpot_s.p99)}")


def test_without_bands_tables_are_as_they_were() -> None:
    s = summary()
    assert percentile_table(s) == percentile_table(s, {})
    assert not any("8 of 10" in note for note in percentile_table(s).notes)
    assert verdict_table(s).notes == ()


def test_what_has_no_sample_has_no_note() -> None:
    record, _ = fcfs_run([0.0], [10], [1])
    notes = percentile_band_notes(summarize(record, Slo()), BANDS)
    assert [note.split()[0] for note in notes] == ["TTFT"]


@pytest.mark.parametrize(
    ("metric", "observed_s", "words"),
    [
        ("ttft", 0.3, "met as predicted but not across its error band: its P10-P90 is"),
        ("ttft", 0.2, ""),
        ("ttft", 0.7, "missed as predicted but not across its error band: its P10-P90 is"),
        ("ttft", 1.2, ""),
        ("ttft", None, ""),
        ("e2e", 0.49, ""),
    ],
)
def test_verdicts_that_differ_inside_the_band(
    metric: str, observed_s: float | None, words: str
) -> None:
    target = replace(SloTarget(metric="ttft", percentile=99, bound_s=0.5), metric=metric)
    met = observed_s is not None and observed_s <= 0.5
    verdict = TargetVerdict(
        target=target, num_requests=9, observed_s=observed_s, within_fraction=0.9, met=met
    )
    note = verdict_band_note("P99", verdict, BANDS)
    assert words in note and bool(words) == bool(note)


def test_terminal_and_page_show_the_band_within_80_columns() -> None:
    s = summary()
    tables = (percentile_table(s, BANDS), verdict_table(s, BANDS))
    report = Report(title="A run", tables=tables)
    file = io.StringIO()
    print_report(report, make_console(file))
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "8 of 10 deployments" in " ".join(file.getvalue().split())
    page = report_html(report)
    assert EIGHT_OF_TEN in page and "wider: device not measured" in page
