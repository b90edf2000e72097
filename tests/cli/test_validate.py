"""The verb on the command line: what it prints and writes, and how it refuses."""

import json
from pathlib import Path

import pytest

from plimsoll.planning import deployed
from tests.command_line import plimsoll
from tests.deployments import AGG, DISAGG, HEADER, cells, twice_the_truth, write_table


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(deployed, "predict_rows", twice_the_truth)
    faster = cells(AGG, id="a2", tp_size="4", tpot_ms="9")
    unknown = cells(AGG, model_path="none/such")
    write_table(tmp_path / "rows.csv", AGG, faster, DISAGG, unknown)
    return tmp_path


def test_tables_in_80_columns() -> None:
    done = plimsoll("validate", "rows.csv")
    assert done.code == 0 and done.err == ""
    lines = done.out.splitlines()
    assert lines[0] == "3 of 4 rows predicted; median error 0 % of TPOT, 100 % of TTFT"
    assert max(map(len, lines)) <= 80 and "\x1b" not in done.out
    for title in ("Rows", "TPOT: absolute", "TTFT: absolute", "Ranking: "):
        assert any(line.startswith(title) for line in lines)
    assert "not predicted: model none/such is not known     1           5" in lines
    assert lines[-1] == "next:  plimsoll validate rows.csv --out predictions.csv"


def test_the_file_is_written_whole(folder: Path) -> None:
    done = plimsoll("validate", "rows.csv", "--out", "predictions.csv")
    assert done.code == 0
    assert done.out.startswith("Saved predictions.csv: 3 of 4 rows predicted")
    written = (folder / "predictions.csv").read_text().splitlines()
    assert written[0].endswith("pred_tpot_ms_p10,pred_tpot_ms_p90,origin,note")
    assert written[1] == AGG + ",400,10,320,480,9,11,calibrated,"
    assert sorted(p.name for p in folder.iterdir()) == ["predictions.csv", "rows.csv"]


def test_json_says_everything() -> None:
    done = plimsoll("validate", "rows.csv", "--json")
    data = json.loads(done.out)
    assert done.code == 0 and data["format_version"] == 1
    assert (data["num_rows"], data["num_predicted"]) == (4, 3)
    assert data["predicted_by_origin"] == {"calibrated": 3}
    assert data["refused"] == [
        {"reason": "model none/such is not known", "num_rows": 1, "first_line": 5}
    ]
    assert data["tpot_errors"][0]["num_rows"] == 3
    assert data["ttft_errors"][0]["median_error_fraction"] == pytest.approx(1)
    assert data["ranking"]["by_group"][0]["num_groups"] == 1
    assert data["rows"][0] == {
        "line": 2,
        "id": "a1",
        "ttft_s": 0.4,
        "ttft_p10_s": pytest.approx(0.32),
        "ttft_p90_s": pytest.approx(0.48),
        "tpot_s": 0.01,
        "tpot_p10_s": pytest.approx(0.009),
        "tpot_p90_s": pytest.approx(0.011),
        "origin": "calibrated",
        "note": "",
    }
    assert data["rows"][3]["refused"] == "model none/such is not known"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no such file"),
        (b"", "the file is empty"),
        (b"\xff\xfe\x00", "is no text"),
        (b"some words\n", "columns model_path, system, mode, isl, osl missing"),
        (f"{HEADER}\n".encode(), "found no row"),
        (f"{HEADER}\n{cells(AGG, isl='x')}\n".encode(), "line 2: column isl: found 'x'"),
        (f"{HEADER}\n{AGG}\n{AGG},1\n".encode(), "line 3: has 36 cells"),
        (f'{HEADER}\n"{AGG}\n'.encode(), "not comma-separated text"),
    ],
)
def test_bad_input_is_one_sentence(folder: Path, text: bytes | None, said: str) -> None:
    (folder / "rows.csv").unlink()
    if text is not None:
        (folder / "rows.csv").write_bytes(text)
    for words in ([], ["--json"]):
        done = plimsoll("validate", "rows.csv", "--out", "predictions.csv", *words)
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith("error: rows.csv: ") and done.err.count("\n") == 1
        assert said in done.err
    assert not (folder / "predictions.csv").exists()


def test_a_place_that_cannot_be_written_is_refused_first(folder: Path) -> None:
    for place, said in ((".", "is a folder"), ("rows.csv/x.csv", "is not a folder")):
        done = plimsoll("validate", "rows.csv", "--out", place)
        assert (done.code, done.out) == (2, "") and said in done.err
