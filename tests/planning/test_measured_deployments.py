"""Predictions against the measured deployments that the engines' constants were fitted on.

Errors on these rows are in-sample, so the limits here guard against what breaks a prediction,
not its accuracy elsewhere; cross-validated errors are in docs/accuracy.md.
"""

from dataclasses import replace
from pathlib import Path
from statistics import mean, median

import pytest

from plimsoll.planning.deployed import predict_rows
from plimsoll.spec.deployment import DeploymentRow, Prediction, Refusal
from plimsoll.spec.deployment_rows import read_deployments

TABLE = Path(__file__).parents[2] / "../shared/data/silicon/silicon_train.csv"
pytestmark = pytest.mark.skipif(
    not TABLE.is_file(), reason="measured deployments are not beside the checkout"
)
Answers = list[tuple[DeploymentRow, Prediction | Refusal]]


@pytest.fixture(scope="module")
def answers() -> Answers:
    rows = read_deployments(TABLE).rows
    return list(zip(rows, predict_rows(rows), strict=True))


def aggregated(answers: Answers) -> list[tuple[DeploymentRow, Prediction]]:
    return [(r, a) for r, a in answers if r.mode == "agg" and isinstance(a, Prediction)]


def test_nearly_every_row_is_predicted(answers: Answers) -> None:
    assert len(answers) > 2000
    predicted = sum(isinstance(answer, Prediction) for _, answer in answers)
    assert predicted >= 0.97 * len(answers)


def test_what_is_refused_could_not_be_cut_as_written(answers: Answers) -> None:
    reasons = {answer.reason for _, answer in answers if isinstance(answer, Refusal)}
    assert all("\n" not in reason for reason in reasons)
    assert len(reasons) <= 20


def test_time_of_a_token_where_prefill_and_decode_share_devices(answers: Answers) -> None:
    errors = [abs(a.tpot_s * 1e3 / r.tpot_ms - 1) for r, a in aggregated(answers) if r.tpot_ms]
    assert len(errors) > 1000
    assert median(errors) <= 0.09
    assert mean(errors) <= 0.15


def test_bands_of_a_token_hold_about_the_share_they_say(answers: Answers) -> None:
    """P10 to P90 of the rows it was fitted on: 80 %, give or take."""
    inside = [
        a.tpot_low_s * 1e3 <= r.tpot_ms <= a.tpot_high_s * 1e3
        for r, a in aggregated(answers)
        if r.tpot_ms
    ]
    assert 0.7 <= mean(inside) <= 0.98


def test_measurements_are_not_read(answers: Answers) -> None:
    """Every seventh row with its times gone is answered as before."""
    some = answers[::7]
    blind = predict_rows([replace(row, ttft_ms=None, tpot_ms=None) for row, _ in some])
    assert blind == [answer for _, answer in some]
