"""The pictures of predictions against measurements are drawn from any table of predictions."""

from pathlib import Path

import pytest

from plimsoll.api.validate import validate
from plimsoll.spec.errors import SpecError
from scripts.plot_accuracy import plot_accuracy
from tests.deployments import AGG, DISAGG, cells, twice_the_truth, write_table


def test_one_picture_a_quantity(tmp_path: Path) -> None:
    unknown = cells(AGG, model_path="none/such")
    path = write_table(tmp_path / "rows.csv", AGG, cells(AGG, ttft_ms="80"), DISAGG, unknown)
    validate(path, out=path, predict=twice_the_truth)
    folder = tmp_path / "pictures"
    paths = plot_accuracy(path, folder, title="a few rows")
    assert [p.stem for p in paths] == ["accuracy-tpot", "accuracy-ttft"]
    assert sorted(folder.iterdir()) == sorted(paths)
    text = paths[1].read_text(encoding="utf-8")
    assert paths[1].suffix == ".svg", "a few points are smaller as SVG"
    for words in ("2 rows", "median 100.0 %", "left out: 1 not predicted", "left out: none"):
        assert words in text
    before = [p.read_bytes() for p in paths]
    assert [p.read_bytes() for p in plot_accuracy(path, folder, title="a few rows")] == before


def test_only_one_mode_and_nothing_measured(tmp_path: Path) -> None:
    path = write_table(tmp_path / "rows.csv", cells(DISAGG, ttft_ms=""))
    with pytest.raises(SpecError, match="column pred_tpot_ms is missing"):
        plot_accuracy(path, tmp_path)
    validate(path, out=path, predict=twice_the_truth)
    (only,) = plot_accuracy(path, tmp_path)
    assert only.stem == "accuracy-tpot"
