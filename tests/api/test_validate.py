"""The verb over a table with known errors: figures, files, and what is left out."""

import csv
import json
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from plimsoll.api.validate import validate
from plimsoll.api.validate_figures import LOAD_BINS, NOT_NAMED, load_bin
from plimsoll.api.validate_tables import error_text_table
from plimsoll.evals.prediction_error import ErrorRow
from plimsoll.report.terminal import make_console, print_report
from plimsoll.spec.deployment import DeploymentRow, Prediction, Refusal, Workers
from plimsoll.spec.deployment_rows import PREDICTION_COLUMNS, read_deployments
from plimsoll.spec.errors import SpecError
from tests.deployments import AGG, DISAGG, cells, twice_the_truth, write_table

UNKNOWN = cells(AGG, model_path="none/such")
BLIND = cells(AGG, ttft_ms="", tpot_ms="")


def test_known_errors(tmp_path: Path) -> None:
    path = write_table(tmp_path / "rows.csv", AGG, DISAGG, UNKNOWN, BLIND)
    answer = validate(path, predict=twice_the_truth)
    tpot, ttft = answer.tpot_errors[0], answer.ttft_errors[0]
    assert (tpot.num_rows, tpot.p90_error_fraction, tpot.covered_fraction) == (2, 0, 1)
    assert (ttft.num_rows, ttft.covered_fraction) == (2, 0)
    assert ttft.bias_fraction == ttft.median_error_fraction == pytest.approx(1)
    groups: dict[str, list[str]] = {row.by: [] for row in answer.ttft_errors}
    for row in answer.ttft_errors:
        groups[row.by].append(row.group)
    assert groups == {
        "": [""],
        "mode": ["agg", "disagg"],
        "system": ["h100_sxm", "gb200"],
        "backend": ["vllm", "trtllm"],
        "model": ["org/one", "org/two"],
        "load": ["above 1 to 4", "above 4 to 16"],
        "origin": ["calibrated"],
    }
    assert answer.origins == (("calibrated", 3),)
    assert answer.refusals == (("model none/such is not known", 1, 4),)
    assert answer.ranking is not None and answer.ranking.rows == ()
    assert dict(answer.ranking.left_out) == {
        "not measured": 1,
        "not predicted": 1,
        "no other configuration to compare with": 2,
    }


def test_the_file_is_the_input_with_predictions(tmp_path: Path) -> None:
    path = write_table(tmp_path / "rows.csv", AGG, DISAGG, UNKNOWN)
    out = tmp_path / "deep" / "predictions.csv"
    answer = validate(path, out=out, predict=twice_the_truth)
    assert answer.saved == str(out)
    with out.open(newline="", encoding="utf-8") as file:
        one, two, three = csv.DictReader(file)
    assert list(one)[-8:] == list(PREDICTION_COLUMNS)
    assert [one[name] for name in PREDICTION_COLUMNS] == [
        "400",
        "10",
        "320",
        "480",
        "9",
        "11",
        "calibrated",
        "",
    ]
    assert two["pred_ttft_ms"] == "1000" and two["note"] == "experts balanced, as assumed"
    assert [three[name] for name in PREDICTION_COLUMNS] == [""] * 7 + [
        "model none/such is not known"
    ]
    before = out.read_bytes()
    again = validate(out, out=out, predict=twice_the_truth)
    assert out.read_bytes() == before
    assert again.ttft_errors == answer.ttft_errors


def test_no_measurement_no_error_table(tmp_path: Path) -> None:
    answer = validate(write_table(tmp_path / "rows.csv", BLIND), predict=twice_the_truth)
    report = answer.report()
    assert answer.tpot_errors == () and answer.ranking is None
    assert [table.title for table in report.tables] == ["Rows", "Predicted, percentiles over rows"]
    assert report.title == "1 of 1 rows predicted"
    assert answer.data()["ranking"] is None


def test_only_one_time_measured(tmp_path: Path) -> None:
    path = write_table(tmp_path / "rows.csv", cells(AGG, ttft_ms=""))
    report = validate(path, predict=twice_the_truth).report()
    assert [table.title[:5] for table in report.tables] == ["Rows", "TPOT:"]


def test_nothing_predicted(tmp_path: Path) -> None:
    answer = validate(write_table(tmp_path / "rows.csv", UNKNOWN), predict=twice_the_truth)
    assert answer.report().title == "0 of 1 rows predicted"
    print_report(answer.report(), make_console())
    json.dumps(answer.data(), allow_nan=False)


def test_the_ranking_sees_devices(tmp_path: Path) -> None:
    """tp 1, 2 and 4 at 8 in flight; the truth per device falls, the guess follows tp 4."""
    lines = [
        cells(AGG, id=f"tp{tp}", tp_size=str(tp), concurrency="8", ttft_ms="100", tpot_ms=str(t))
        for tp, t in ((1, 20), (2, 15), (4, 10))
    ]
    other_lengths = cells(AGG, isl="99", concurrency="8")
    unnamed = cells(AGG, tp_size="", concurrency="8"), cells(AGG, concurrency="")

    def guess(rows: Sequence[DeploymentRow]) -> list[Prediction | Refusal]:
        answers: list[Prediction | Refusal] = []
        for row in rows:
            assert row.workers is not None
            time_s = 0.001 / (row.workers.tp or 1) ** 2
            answers.append(
                Prediction(
                    ttft_s=time_s,
                    tpot_s=time_s,
                    ttft_low_s=time_s,
                    ttft_high_s=time_s,
                    tpot_low_s=time_s,
                    tpot_high_s=time_s,
                    origin="modeled",
                )
            )
        return answers

    path = write_table(tmp_path / "rows.csv", *lines, other_lengths, *unnamed)
    figures = validate(path, predict=guess).ranking
    assert figures is not None
    (by, group, whole), *rest = figures.rows
    assert (by, group, whole.num_groups, whole.num_configurations) == ("", "", 1, 3)
    assert (whole.right_fraction, whole.mean_spearman) == (0, pytest.approx(-1))
    rates = [8 * 128 / (0.1 + 128 * t) / tp for tp, t in ((1, 0.02), (2, 0.015), (4, 0.01))]
    assert whole.mean_loss_fraction == pytest.approx(1 - rates[2] / rates[0])
    assert [(by, group) for by, group, _ in rest] == [
        ("mode", "agg"),
        ("system", "h100_sxm"),
        ("backend", "vllm"),
    ]
    assert dict(figures.left_out) == {
        "concurrency not named": 1,
        "number of devices not named": 1,
        "no other configuration to compare with": 1,
    }


@pytest.mark.parametrize(
    ("concurrency", "expected"),
    [(1, 0), (2, 0), (3, 1), (8, 1), (9, 2), (32, 2), (33, 3), (128, 3), (129, 4)],
)
def test_load_bins(concurrency: int, expected: int) -> None:
    two = Workers(count=1, tp=2)
    row = DeploymentRow(line=2, mode="agg", isl=1, osl=1, concurrency=concurrency, workers=two)
    assert load_bin(row) == LOAD_BINS[expected]
    assert load_bin(DeploymentRow(line=2, mode="agg", isl=1, osl=1, concurrency=8)) == NOT_NAMED


def test_the_table_reads_well_whatever_the_error() -> None:
    def row(group: str, error: float, bias: float) -> ErrorRow:
        return ErrorRow(
            by="model",
            group=group,
            num_rows=3,
            median_error_fraction=error,
            mean_error_fraction=error,
            p90_error_fraction=error,
            bias_fraction=bias,
            covered_fraction=1.0,
        )

    table = error_text_table(
        "TPOT", [row("a/same", 0.1234, -0.0001), row("b/same", 25.0, 25.0), row("c/x", 0, 0)]
    )
    assert table.rows == (
        ("model", "a/same", "3", "12.3 %", "12.3 %", "12.3 %", "+0.0 %", "100 %"),
        ("", "b/same", "3", "2,500 %", "2,500 %", "2,500 %", "+2,500 %", "100 %"),
        ("", "x", "3", "0 %", "0 %", "0 %", "+0.0 %", "100 %"),
    )


def test_a_predictor_that_fails_leaves_no_file(tmp_path: Path) -> None:
    path = write_table(tmp_path / "rows.csv", AGG)

    def fails(rows: Sequence[DeploymentRow]) -> list[Prediction | Refusal]:
        raise SpecError("no")

    with pytest.raises(SpecError):
        validate(path, out=tmp_path / "predictions.csv", predict=fails)
    assert [p.name for p in tmp_path.iterdir()] == ["rows.csv"]


@pytest.mark.timing
def test_reading_tables_and_writing_are_quick(tmp_path: Path) -> None:
    lines = [cells(AGG, id=str(k), concurrency=str(k % 99 + 1)) for k in range(2500)]
    path = write_table(tmp_path / "rows.csv", *lines)
    started = time.perf_counter()
    answer = validate(path, out=tmp_path / "predictions.csv", predict=twice_the_truth)
    json.dumps(answer.data())
    answer.report()
    assert time.perf_counter() - started < 1
    assert len(read_deployments(tmp_path / "predictions.csv").rows) == 2500
