"""Summaries in words: units, undefined values, and sentences that say what happened."""

from dataclasses import replace

import numpy as np
import pytest

from plimsoll.report.summary_tables import (
    class_table,
    instance_table,
    key_numbers,
    percentile_table,
    saturation_note,
    status_note,
    target_name,
    verdict_table,
)
from plimsoll.report.wording import (
    number_text,
    percent_text,
    plain_text,
    rate_text,
    seconds_text,
    ticks_1_2_5,
)
from plimsoll.serving.metrics import summarize
from plimsoll.spec.origin import Number, Origin, weakest
from plimsoll.spec.slo import Slo, SloTarget
from tests.fcfs_run import fcfs_run, poisson_run
from tests.report_pictures import SLO


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 ms"),
        (0.0405, "40.5 ms"),
        (0.00012345, "0.123 ms"),
        (0.99949, "999 ms"),
        (1.0, "1.00 s"),
        (75.5, "75.5 s"),
        (12_345.0, "12,300 s"),
        (None, "-"),
        (float("nan"), "-"),
    ],
)
def test_times(value, text):
    assert seconds_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "100 %"),
        (0.0, "0 %"),
        (0.5, "50.0 %"),
        (0.99999, "99.999 %"),
        (0.00001, "0.001 %"),
        (1 - 1e-9, "> 99.9999 %"),
        (1e-9, "< 0.0001 %"),
        (None, "-"),
    ],
)
def test_percentages_say_all_or_nothing_only_if_it_is(value, text):
    assert percent_text(value) == text


def test_numbers_keep_three_digits_and_their_unit():
    assert rate_text(12_345.6, "tokens/s") == "12,300 tokens/s"
    assert rate_text(0.01234, "req/s") == "0.0123 req/s"
    assert rate_text(None, "req/s") == "-"
    assert number_text(Number(value=8, unit="GPUs", origin=Origin.DERIVED)) == "8 GPUs"
    assert [plain_text(v) for v in (40.0, 12.5, 1250.0)] == ["40", "12.5", "1,250"]


def test_ticks_are_round_inside_and_never_many():
    assert ticks_1_2_5(0.015, 0.6) == pytest.approx([0.02, 0.05, 0.1, 0.2, 0.5])
    assert ticks_1_2_5(1e-6, 1e3) == pytest.approx([10.0**e for e in range(-6, 4)])
    assert ticks_1_2_5(0.0, 1.0) == []


def test_the_weakest_origin_wins_and_arithmetic_adds_no_doubt():
    assert weakest([Origin.DERIVED, Origin.MEASURED]) is Origin.MEASURED
    assert weakest([Origin.CALIBRATED, Origin.EXTRAPOLATED, Origin.MODELED]) is Origin.EXTRAPOLATED
    assert weakest([]) is Origin.DERIVED


def test_rows_of_a_run_name_their_statistic_unit_and_samples():
    record, _ = poisson_run(num=50, meta={"num_devices": 8, "origin": "calibrated"})
    summary = summarize(record, SLO)
    numbers = {n.name: n for n in key_numbers(summary, error_fraction=0.1)}
    assert numbers["Goodput"].number.unit == "req/s"
    assert numbers["Output per GPU"].note == "over 8 GPUs"
    assert numbers["Output per GPU"].number.value == pytest.approx(
        numbers["Output"].number.value / 8
    )
    assert all(n.number.origin is Origin.CALIBRATED for n in numbers.values())
    assert "Cost" not in numbers and "Energy" not in numbers
    table = percentile_table(summary)
    assert table.columns == ("", "mean", "P50", "P90", "P95", "P99", "samples")
    assert table.rows[0][0] == "TTFT" and table.rows[0][-1] == "50"
    assert table.rows[0][5] == seconds_text(summary.ttft_s.p99)
    assert verdict_table(summary).rows[0][:1] == ("P99 TTFT <= 500 ms",)
    instances = instance_table(summary)
    assert instances.rows[0][3].endswith("%")


def test_what_is_undefined_is_a_dash():
    record, _ = fcfs_run([0.0], [10], [1])
    table = percentile_table(summarize(record, Slo()))
    assert table.rows[2] == ("TPOT", "-", "-", "-", "-", "-", "0")
    assert "Per user" not in {n.name for n in key_numbers(summarize(record, Slo()))}


def test_a_missed_target_is_in_capitals():
    record, _ = poisson_run(num=20)
    slo = Slo(targets=(SloTarget(metric="e2e", percentile=99.9, bound_s=1e-6),))
    row = verdict_table(summarize(record, slo)).rows[0]
    assert row[0] == "P99.9 End-to-end latency <= 0.001 ms"
    assert row[-1] == "MISSED"
    named = replace(slo.targets[0], request_class="chat")
    assert target_name(named).endswith("(chat)")


def test_sentences_about_ends_and_overload():
    arrival_s = np.arange(400) / 13
    options = {"base_s": 0.1, "token_s": 0.0, "context_s": 0.0}
    record, _ = fcfs_run(arrival_s, np.full(400, 10), np.ones(400, int), **options)
    assert saturation_note(summarize(record, Slo())).startswith("demand is 1.3")
    calm, _ = poisson_run(num=50)
    assert saturation_note(summarize(calm, Slo())) == ""
    assert status_note(summarize(calm, Slo())) == "50 finished"


def test_many_instances_are_cut_to_the_busiest():
    record, _ = poisson_run(num=120, num_instances=20)
    table = instance_table(summarize(record, Slo()), most=4)
    assert len(table.rows) == 4 and table.notes == ("the 4 busiest of 20 instances",)


def test_classes_have_their_own_rows():
    record, _ = poisson_run(num=20, class_index=np.arange(20) % 2, meta={"classes": ["a", "b"]})
    assert [row[:2] for row in class_table(summarize(record, SLO)).rows] == [
        ("a", "10"),
        ("b", "10"),
    ]
