"""Deployment tables: what is read, what passes through, what is refused in which words."""

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.spec.deployment import DeploymentRow, Prediction, Refusal, Workers
from plimsoll.spec.deployment_rows import (
    COUNT_COLUMNS,
    PREDICTION_COLUMNS,
    REQUIRED_COLUMNS,
    read_deployments,
    text_with_predictions,
    write_predictions,
)
from plimsoll.spec.errors import SpecError
from plimsoll.spec.io import from_data, plain
from tests.deployments import AGG, DISAGG, HEADER, cells, twice_the_truth, write_table

PREDICTED = Prediction(
    ttft_s=0.123456789,
    tpot_s=0.01,
    ttft_low_s=0.1,
    ttft_high_s=1234.5,
    tpot_low_s=0.009,
    tpot_high_s=0.011,
    origin="modeled",
    note="x, y",
)


def read_text(folder: Path, text: str) -> tuple[DeploymentRow, ...]:
    path = folder / "rows.csv"
    path.write_text(text, encoding="utf-8", newline="")
    return read_deployments(path).rows


def test_rows_hold_what_the_file_says(tmp_path: Path) -> None:
    one, two = read_deployments(write_table(tmp_path / "rows.csv", AGG, DISAGG)).rows
    assert one == DeploymentRow(
        line=2,
        id="a1",
        model="org/one",
        system="h100_sxm",
        backend="vllm",
        backend_version="0.9.1",
        measured_on="2026-01-02",
        precision="fp8",
        gemm_format="fp8",
        mode="agg",
        isl=1024,
        osl=128,
        concurrency=16,
        workers=Workers(count=1, tp=2, pp=1, moe_tp=1, moe_ep=1, batch=16),
        ttft_ms=200.0,
        tpot_ms=10.0,
    )
    assert (two.mode, two.concurrency, two.workers) == ("disagg", 64, None)
    assert two.prefill == Workers(count=2, tp=4, pp=1, attention_dp=1, moe_tp=1, moe_ep=4, batch=1)
    assert two.decode == Workers(count=3, tp=8, pp=1, attention_dp=1, moe_tp=1, moe_ep=8, batch=16)
    assert (one.num_devices, two.num_devices) == (2, 2 * 4 + 3 * 8)


def test_few_columns_are_enough_and_blank_is_not_named(tmp_path: Path) -> None:
    (row,) = read_text(tmp_path, "mode,osl,isl,system,model_path\nagg,5, 7 ,s,m\n")
    assert row == DeploymentRow(line=2, model="m", system="s", mode="agg", isl=7, osl=5)
    assert row.num_devices == 0
    blank = cells(DISAGG, decode_num_workers="", ttft_ms="", tpot_ms=" ", concurrency="")
    (row,) = read_deployments(write_table(tmp_path / "rows.csv", blank)).rows
    assert row.decode is not None and row.decode.count == 0
    assert (row.ttft_ms, row.tpot_ms, row.concurrency, row.num_devices) == (None, None, 0, 0)


def test_devices_count_workers_and_degrees() -> None:
    assert Workers(count=2, tp=4, pp=2, attention_dp=8).num_devices == 128
    assert Workers(count=1, tp=4).num_devices == 4
    assert Workers(tp=4).num_devices == Workers(count=3).num_devices == 0
    row = DeploymentRow(line=2, mode="disagg", isl=1, osl=1, prefill=Workers(count=1, tp=1))
    assert row.num_devices == 0
    assert replace(row, decode=Workers(count=2, tp=3)).num_devices == 7


def test_plain_data_round_trips(tmp_path: Path) -> None:
    for row in read_deployments(write_table(tmp_path / "rows.csv", AGG, DISAGG)).rows:
        assert from_data(DeploymentRow, plain(row), where="row") == row
    with pytest.raises(SpecError, match="extra"):
        from_data(Refusal, {"reason": "x", "extra": 1}, where="refusal")


def test_predictions_are_appended_in_milliseconds(tmp_path: Path) -> None:
    table = read_deployments(write_table(tmp_path / "rows.csv", AGG, DISAGG))
    text = text_with_predictions(table, [PREDICTED, Refusal(reason="no, never")])
    header, one, two = csv.reader(io.StringIO(text))
    assert header == [*HEADER.split(","), *PREDICTION_COLUMNS]
    width = len(HEADER.split(","))
    assert one[:width] == AGG.split(",") and two[:width] == DISAGG.split(",")
    assert one[width:] == ["123.456789", "10", "100", "1234500", "9", "11", "modeled", "x, y"]
    assert two[width:] == [""] * 7 + ["no, never"]


def test_writing_is_all_or_nothing(tmp_path: Path) -> None:
    path = write_table(tmp_path / "rows.csv", AGG)
    table = read_deployments(path)
    write_predictions(table, [PREDICTED], path)
    once = path.read_text()
    write_predictions(read_deployments(path), [PREDICTED], path)
    assert path.read_text() == once, "its own columns are replaced"
    with pytest.raises(ValueError):
        write_predictions(table, [], path)
    assert path.read_text() == once
    assert [p.name for p in tmp_path.iterdir()] == ["rows.csv"]


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0\ufeff"), min_size=1, max_size=8)
CELL = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whatever_else_is_in_the_file_passes_through(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Unknown columns, odd texts, quotes and line breaks: same cells, same order, twice."""
    known = {*HEADER.split(","), *PREDICTION_COLUMNS}
    others = data.draw(
        st.lists(NAMES.filter(lambda n: n.strip() not in known), max_size=4, unique_by=str.strip)
    )
    header = data.draw(st.permutations([*HEADER.split(","), *others]))
    rows = []
    for line in data.draw(st.lists(st.sampled_from([AGG, DISAGG]), min_size=1, max_size=4)):
        row = dict(zip(HEADER.split(","), line.split(","), strict=True))
        rows.append([row[name] if name in row else data.draw(CELL) for name in header])
    text = io.StringIO(newline="")
    end = data.draw(st.sampled_from(["\n", "\r\n"]))
    csv.writer(text, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([header, *rows])
    path = tmp_path_factory.mktemp("tables") / "rows.csv"
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    table = read_deployments(path)
    written = path.with_name("written.csv")
    write_predictions(table, twice_the_truth(table.rows), written)
    again = list(csv.reader(io.StringIO(written.read_bytes().decode(), newline="")))
    # The header's names are trimmed, cells are not.
    assert [row[: len(header)] for row in again] == [[name.strip() for name in header], *rows]
    before = written.read_bytes()
    table = read_deployments(written)
    write_predictions(table, twice_the_truth(table.rows), written)
    assert written.read_bytes() == before


@settings(max_examples=50, deadline=None)
@given(
    counts=st.dictionaries(st.sampled_from(COUNT_COLUMNS), st.integers(1, 10**6)),
    style=st.sampled_from(["{}", "{}.0", " {} ", "+{}", "{}.", "{}e0"]),
)
def test_whole_numbers_in_any_spelling(
    tmp_path_factory: pytest.TempPathFactory, counts: dict[str, int], style: str
) -> None:
    folder = tmp_path_factory.mktemp("tables")
    spelled = {name: style.format(value) for name, value in counts.items()}
    plainly = {name: str(value) for name, value in counts.items()}
    for line in (AGG, DISAGG):
        one = read_deployments(write_table(folder / "one.csv", cells(line, **spelled))).rows
        two = read_deployments(write_table(folder / "two.csv", cells(line, **plainly))).rows
        assert one == two


@pytest.mark.parametrize(
    ("column", "cell", "expected"),
    [
        ("mode", "disag", "found 'disag'; expected agg or disagg. Did you mean disagg"),
        ("mode", "", "found a blank cell"),
        ("model_path", " ", "found a blank cell"),
        ("isl", "", "found a blank cell"),
        ("isl", "0", "expected a whole number from 1"),
        ("isl", "1k", "found '1k'; expected a whole number"),
        ("osl", "12.5", "found '12.5'; expected a whole number"),
        ("tp_size", "-2", "found '-2'; expected a whole number from 0"),
        ("tp_size", "two", "or a blank cell where it is not named"),
        ("concurrency", "1e99", "expected a whole number"),
        ("concurrency", "nan", "found 'nan'"),
        ("concurrency", "1_000", "found '1_000'"),
        ("decode_num_workers", "x", "found 'x'"),
        ("ttft_ms", "0", "expected milliseconds above 0"),
        ("ttft_ms", "-3", "found '-3'"),
        ("tpot_ms", "inf", "found 'inf'"),
        ("tpot_ms", "1e999", "expected milliseconds above 0"),
        ("tpot_ms", "10 ms", "or a blank cell where it was not measured"),
    ],
)
def test_bad_cells_name_line_and_column(
    tmp_path: Path, column: str, cell: str, expected: str
) -> None:
    path = write_table(tmp_path / "rows.csv", DISAGG, cells(AGG, **{column: cell}))
    with pytest.raises(SpecError) as error:
        read_deployments(path)
    assert str(error.value).startswith(f"{path}: line 3: column {column}: ")
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "the file is empty; expected a CSV file"),
        (" \n\n", "the file is empty"),
        (HEADER, "found no row below the header"),
        (HEADER + "\n\n\n", "found no row below the header"),
        ("hello world\n", f"columns {', '.join(REQUIRED_COLUMNS)} missing"),
        (HEADER.replace(",", ";") + "\n", "Its separator looks like ';'"),
        (HEADER.replace("isl", "ISL") + "\n" + AGG, "column isl missing; found id,"),
        (HEADER.replace("isl", "ISL") + "\n" + AGG, "Did you mean ISL"),
        (HEADER + ",isl\n" + AGG + ",8", "column 'isl' is there twice (columns 11 and 36)"),
        (HEADER + "\n" + AGG + ",8\n", "line 2: has 36 cells; expected 35"),
        (HEADER + "\n" + DISAGG + "\nx\n", "line 3: has 1 cells; expected 35"),
        (HEADER + "\n" + AGG + "\n\n" + AGG, "line 3: is empty, with more rows below it"),
        (HEADER + '\n"' + AGG + "\n" + AGG, "line 2: not comma-separated text"),
        (HEADER + "\n" + AGG + "\0\n", "line 2: byte"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(SpecError) as error:
        read_text(tmp_path, text)
    assert expected in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "rows.csv"))


def test_lines_are_counted_over_quoted_breaks(tmp_path: Path) -> None:
    two = cells(AGG, id='"b\nc"'), cells(AGG, mode="both")
    with pytest.raises(SpecError, match="line 4: column mode"):
        read_deployments(write_table(tmp_path / "rows.csv", *two))


def test_no_table_at_all(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no such file"):
        read_deployments(tmp_path / "gone.csv")
    with pytest.raises(SpecError, match="is a folder"):
        read_deployments(tmp_path)
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(SpecError, match="line 1: byte 0 is no text"):
        read_deployments(tmp_path / "x.png")


def test_a_byte_order_mark_and_blank_lines_at_the_end_do_no_harm(tmp_path: Path) -> None:
    rows = read_text(tmp_path, "\ufeff" + HEADER + "\r\n" + AGG + "\r\n\r\n")
    assert len(rows) == 1 and rows[0].id == "a1"


@settings(max_examples=150, deadline=None)
@given(
    cut=st.integers(0, len(HEADER) + len(AGG) + len(DISAGG) + 2),
    gone=st.integers(0, 3),
    junk=st.one_of(
        st.binary(max_size=6), st.sampled_from([b'"', b",", b"\r", b"\n", b"-", b"nan"])
    ),
)
def test_a_damaged_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, cut: int, gone: int, junk: bytes
) -> None:
    whole = "\n".join((HEADER, AGG, DISAGG)).encode()
    path = tmp_path_factory.mktemp("tables") / "rows.csv"
    path.write_bytes(whole[:cut] + junk + whole[cut + gone :])
    try:
        table = read_deployments(path)
    except SpecError as error:
        assert str(error).startswith(f"{path}: ")
    else:
        assert all(row.isl >= 1 and row.mode in ("agg", "disagg") for row in table.rows)
