"""Trace loaders: published numbers, every complaint with its line, and no other exception."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.spec.errors import PlimsollError, SpecError
from plimsoll.spec.statistics import statistics_of
from plimsoll.spec.traces import (
    Slice,
    load_azure,
    load_bench_json,
    load_burstgpt,
    load_lengths,
    load_mooncake,
    load_trace,
)

TRACES = Path(__file__).resolve().parents[2] / "../shared/data/traces"
needs_traces = pytest.mark.skipif(
    not TRACES.is_dir(), reason="measured traces are not beside the checkout"
)
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
BURSTGPT = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"


def written(folder: Path, text: str, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8", newline="")
    return path


# Published: arXiv 2401.17644 reports the traces' rates; lengths and CV counted from
# Azure/AzurePublicDataset AzureLLMInferenceTrace_{conv,code}.csv.
@needs_traces
@pytest.mark.parametrize(
    ("name", "rows", "span_s", "rate", "cv", "prompt", "output"),
    [
        ("azure_llm_2023_conv.csv", 19_366, 3_502, 5.53, 1.09, 1_155, 211),
        ("azure_llm_2023_code.csv", 8_819, 3_436, 2.57, 13.15, 2_048, 27.9),
    ],
)
def test_azure_hours_have_their_published_numbers(
    name: str, rows: int, span_s: float, rate: float, cv: float, prompt: float, output: float
) -> None:
    found = statistics_of(load_azure(TRACES / name))
    assert found["requests"] == rows
    assert found["span_s"] == pytest.approx(span_s, rel=0.005)
    assert found["rate_per_s"] == pytest.approx(rate, rel=0.005)
    assert found["gap_cv"] == pytest.approx(cv, rel=0.005)
    assert found["prompt_tokens_mean"] == pytest.approx(prompt, rel=0.005)
    assert found["output_tokens_mean"] == pytest.approx(output, rel=0.005)


@needs_traces
def test_mooncake_keeps_prefix_hashes_in_order() -> None:
    path = TRACES / "mooncake_conversation.jsonl"
    workload = load_mooncake(path)
    assert len(workload) == 12_031
    assert workload.prompt_tokens.mean() == pytest.approx(12_035, rel=0.005)
    assert workload.output_tokens.mean() == pytest.approx(343, rel=0.005)
    assert workload.prefix_block_tokens == 512
    blocks = np.diff(workload.prefix_start)
    assert np.array_equal(blocks, -(-workload.prompt_tokens // 512))
    rows = path.read_text().splitlines()
    for i in (0, 17, 12_030):
        own = workload.prefix_keys[workload.prefix_start[i] : workload.prefix_start[i + 1]]
        assert own.tolist() == json.loads(rows[i])["hash_ids"]


@needs_traces
def test_length_files_without_times_say_so() -> None:
    workload = load_trace(TRACES / "nanoflow_lmsys_lengths.csv")
    assert len(workload) == 100_000
    assert workload.duration_s == 0
    assert any("no times" in note for note in workload.notes)


@needs_traces
def test_a_slice_is_the_same_as_cutting_the_whole() -> None:
    path = TRACES / "mooncake_synthetic.jsonl"
    whole = load_mooncake(path)
    part = load_mooncake(path, part=Slice(start_s=100.0, end_s=300.0, max_requests=500))
    first = int(np.searchsorted(whole.arrival_s, 100.0))
    assert len(part) == 500
    assert np.allclose(part.arrival_s, whole.arrival_s[first : first + 500] - 100.0)
    keys = whole.prefix_keys[whole.prefix_start[first] : whole.prefix_start[first + 500]]
    assert np.array_equal(part.prefix_keys, keys)


@pytest.mark.parametrize("with_sessions", [False, True])
def test_burstgpt_both_schemas(tmp_path: Path, with_sessions: bool) -> None:
    header = BURSTGPT
    if with_sessions:
        header = header.replace("Timestamp,", "Timestamp,Session ID,Elapsed time,")
    lines = []
    for i in range(2_000):
        own = f"{'' if i % 4 == 3 else i // 8},1.5," if with_sessions else ""
        answer = 0 if i % 50 == 7 else 10 + i % 300
        kind = "API log" if i % 5 == 0 else "Conversation log"
        model = "GPT-4" if i % 10 == 1 else "ChatGPT"
        lines.append(f"{i // 3},{own}{model},{100 + i},{answer},{100 + i + answer},{kind}\n")
    path = written(tmp_path, header + "".join(lines))
    workload = load_burstgpt(path)
    assert len(workload) == 2_000 - 40
    assert any("40 failed requests" in n and "2.00%" in n for n in workload.notes)
    assert workload.classes == ("API log", "Conversation log")
    assert np.all(np.diff(workload.arrival_s) > 0), "ties are spread"
    # Jitter stays inside the second of the stamp.
    answered = [i // 3 for i in range(2_000) if i % 50 != 7]
    assert np.array_equal(np.floor(workload.arrival_s), answered)
    assert np.array_equal(workload.arrival_s, load_burstgpt(path).arrival_s)
    assert not np.array_equal(workload.arrival_s, load_burstgpt(path, seed=1).arrival_s)
    if with_sessions:
        sizes = np.unique(workload.session_id, return_counts=True)[1]
        assert sizes.max() == 6 and np.sum(sizes == 1) == 500 - 20
    else:
        assert not len(workload.session_id)
    kept = load_burstgpt(path, failures="cancel")
    assert len(kept) == 2_000 and int((kept.cancel_after_s == 0).sum()) == 40
    assert len(load_burstgpt(path, model="GPT-4")) == 200
    with pytest.raises(SpecError, match="no request of model 'Claude'.*ChatGPT"):
        load_burstgpt(path, model="Claude")


def test_burstgpt_rows_out_of_order_are_sorted_and_counted(tmp_path: Path) -> None:
    rows = [f"{t},ChatGPT,10,20,30,API log\n" for t in (5, 6, 3, 9, 8)]
    path = written(tmp_path, BURSTGPT + "".join(rows))
    workload = load_trace(path)
    assert any("2 rows were out of order (first at line 4)" in n for n in workload.notes)
    assert np.all(np.diff(workload.arrival_s) >= 0)


@pytest.mark.slow
@pytest.mark.timing
def test_burstgpt_file_of_full_size_loads_fast(tmp_path: Path) -> None:
    import time

    rng = np.random.default_rng(0)
    n = 1_429_700
    times = np.cumsum(rng.gamma(0.25, 14, n)).astype(int).tolist()
    answers = np.where(rng.random(n) < 0.0178, 0, rng.integers(1, 800, n)).tolist()
    path = tmp_path / "BurstGPT_1.csv"
    with path.open("w") as file:
        file.write(BURSTGPT)
        file.writelines(
            f"{t},ChatGPT,500,{a},{500 + a},Conversation log\n"
            for t, a in zip(times, answers, strict=True)
        )
    start = time.perf_counter()
    workload = load_burstgpt(path)
    assert time.perf_counter() - start < 20
    assert len(workload) == n - answers.count(0)


def test_other_columns(tmp_path: Path) -> None:
    vidur = written(tmp_path, "num_prefill_tokens,num_decode_tokens\n100,5\n200,6\n")
    assert load_trace(vidur).prompt_tokens.tolist() == [100, 200]
    timed = written(
        tmp_path, "arrived_at,num_prefill_tokens,num_decode_tokens\n1.5,100,5\n2.5,200,6\n"
    )
    assert load_trace(timed).arrival_s.tolist() == [0.0, 1.0]
    assert load_lengths(timed).arrival_s.tolist() == [0.0, 0.0]
    splitwise = written(
        tmp_path,
        "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size\n"
        "0,2,0,0.0,1,300,20\n1,2,0,0.5,1,310,21\n",
    )
    assert load_trace(splitwise).output_tokens.tolist() == [20, 21]
    zoned = written(
        tmp_path, AZURE + "2024-05-10 00:00:00.009930+00:00,2162,5\n2024-05-10 00:00:01+00:00,9,5\n"
    )
    assert load_azure(zoned).arrival_s[1] == pytest.approx(0.99007)
    quoted = written(tmp_path, 'prompt_tokens,output_tokens\n"100",5\n"200","6"\n')
    assert load_trace(quoted).output_tokens.tolist() == [5, 6]
    windows = written(tmp_path, "prompt_tokens,output_tokens\r\n100,5\r\n200,6\r\n\r\n")
    assert load_trace(windows).output_tokens.tolist() == [5, 6]


def test_json_lines_and_reports(tmp_path: Path) -> None:
    lines = [{"timestamp": 2.0 + i, "prompt_len": 10 + i, "output_len": 5} for i in range(3)]
    path = written(tmp_path, "\n".join(json.dumps(x) for x in lines), "t.jsonl")
    assert load_trace(path).arrival_s.tolist() == [0.0, 1.0, 2.0]

    run = {"input_lens": [9, 8, 7], "output_lens": [3, 0, 4], "itls": [[0.1]], "ttfts": [1]}
    path = written(tmp_path, json.dumps(run | {"request_rate": 2.0}), "r.json")
    found = load_trace(path)
    assert found.arrival_s.tolist() == [0.0, 1.0]
    assert any("1 failed" in n for n in found.notes) and any(
        "constant gaps" in n for n in found.notes
    )
    path = written(tmp_path, json.dumps(run | {"request_rate": "inf", "max_concurrency": 64}))
    assert load_bench_json(path).num_in_flight == 64
    path = written(tmp_path, json.dumps(run | {"start_times": [7.0, 5.0, 6.5]}))
    assert load_bench_json(path).prompt_tokens.tolist() == [7, 9]
    appended = written(tmp_path, json.dumps(run) + "\n" + json.dumps(run) + "\n")
    assert any("largest of 2 runs" in n for n in load_bench_json(appended).notes)

    rows = [
        {"prompt_tokens": 50 + i, "output_tokens": 6, "request_start_time": 1e9 + 3 - i}
        for i in range(3)
    ]
    report = {"benchmarks": [{"requests": {"successful": rows, "errored": []}}]}
    path = written(tmp_path, json.dumps(report, indent=1), "g.json")
    assert load_trace(path).prompt_tokens.tolist() == [52, 51, 50]


GOOD = "2023-11-16 18:00:01.5,100,10\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("\n\n", "empty"),
        (AZURE, "holds no request"),
        ("\ufeff" + AZURE + GOOD, "line 1: .*byte-order mark"),
        (AZURE + GOOD + "2023-11-16 18:00:00,100,10\n", "line 3: arrives before.*sort=True"),
        (AZURE + GOOD + "2023-11-16 18:00:02,-5,10\n", "line 3: ContextTokens = '-5'"),
        (AZURE + GOOD + "2023-11-16 18:00:02,5,nan\n", "line 3: GeneratedTokens = 'nan'"),
        (AZURE + GOOD + "2023-11-16 18:00:02,5,x\n", "line 3: GeneratedTokens = 'x'"),
        (AZURE + GOOD + "2023-11-16 18:00:02,5,1.5\n", "line 3: GeneratedTokens = '1.5'.*whole"),
        (AZURE + GOOD + "2023-11-16 18:00:02,5\n", "line 3: has 2 columns"),
        (AZURE + GOOD + "\n" + GOOD, "line 3: is empty"),
        (AZURE + GOOD + "2023-13-16 18:00:02,5,5\n", "line 3: .*not a date"),
        (AZURE + GOOD + "now,5,5\n", "line 3: .*expected a date"),
        (AZURE + "2023-11-16 18:00:02,5,0\n", "no request left of 1 rows.*1 failed"),
        ("TIMESTAMP,ContextTokens\n" + GOOD, "no known trace"),
        (BURSTGPT.replace(",Log Type", "") + "1,ChatGPT,1,1,2\n", "line 1: column 'Log Type'"),
        (BURSTGPT + "1,ChatGPT,1,1,2,API log\n2,ChatGPT,-1,1,0,API log\n", "line 3: Request"),
        ("hello\n", "line 1: .*neither"),
        (
            "version https://git-lfs.github.com/spec/v1\noid sha256:4bb3\nsize 52283111\n",
            "this is a pointer file, fetch the real one",
        ),
        ('{"timestamp": 0, "input_length": 5, "output_length": 5}\n{"timest', "line 2: .*cut off"),
        ('{"timestamp": 0, "input_length": 5}\n', "line 1: fields"),
        (
            '{"timestamp": 0, "input_length": 5, "output_length": 5}\n\n'
            '{"timestamp": 0, "input_length": 5, "output_length": 5}\n',
            "line 2: is empty",
        ),
        ('{"timestamp": 0, "input_length": NaN, "output_length": 5}\n', "line 1: input_length"),
        ('{"timestamp": 0, "input_length": 5, "output_length": true}\n', "line 1: output_length"),
        (
            '{"timestamp": 0, "input_length": 5, "output_length": 5, "hash_ids": [1, 2]}\n',
            "line 1: 2 hash_ids for 5 input tokens",
        ),
        ('{"input_lens": [1, 2], "output_lens": [3]}', "2 input lengths, 1 output"),
        ('{"input_lens": [1, -2], "output_lens": [3, 4]}', "input_lens entry 2"),
    ],
)
def test_bad_files_are_refused_with_the_place(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(SpecError, match=message) as caught:
        load_trace(path)
    assert str(path) in str(caught.value)


def test_missing_folder_and_binary(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no such file"):
        load_trace(tmp_path / "no.csv")
    with pytest.raises(SpecError, match="folder"):
        load_trace(tmp_path)
    path = tmp_path / "b.csv"
    path.write_bytes(AZURE.encode() + b"\xff\xfe,1,2\n")
    with pytest.raises(SpecError, match="UTF-8"):
        load_trace(path)


def test_a_file_too_large_is_refused_with_its_size_or_streamed(tmp_path: Path) -> None:
    path = tmp_path / "huge.csv"
    row = "2023-11-16 18:00:01.5,100,10\n"
    with path.open("w") as file:
        file.write(AZURE + row * 60_000)
    with path.open("r+b") as file:
        file.truncate(10 * 10**9)  # sparse: takes no disk
    with pytest.raises(SpecError, match="10,000,000,000 bytes"):
        load_trace(path)
    assert len(load_trace(path, part=Slice(max_requests=50_000))) == 50_000


@pytest.mark.parametrize(
    ("start_s", "end_s", "most"), [(5.0, 5.0, 0), (-1.0, 5.0, 0), (0.0, 1.0, -1)]
)
def test_bad_slices(start_s: float, end_s: float, most: int) -> None:
    with pytest.raises(SpecError):
        Slice(start_s=start_s, end_s=end_s, max_requests=most)


CELL = st.text(st.sampled_from(list('0123456789.-e,"\n\r nainf:T+Z[]{}')), max_size=12)
HEADERS = st.sampled_from(
    [
        AZURE,
        BURSTGPT,
        "arrived_at,num_prefill_tokens,num_decode_tokens\n",
        '{"timestamp": 1, "input_length": 600, "output_length": 5, "hash_ids": [1, 2]}\n',
        '{"input_lens": [1, 2], "output_lens": [3, 4], "request_rate": ',
        '{"benchmarks": [{"requests": {"successful": [',
        "",
    ]
)


@settings(max_examples=300, deadline=None)
@given(
    header=HEADERS,
    rows=st.lists(st.lists(CELL, min_size=1, max_size=7).map(",".join), max_size=6),
    sort=st.booleans(),
)
def test_any_text_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, header: str, rows: list[str], sort: bool
) -> None:
    path = written(tmp_path_factory.getbasetemp(), header + "\n".join(rows), "fuzz.csv")
    try:
        workload = load_trace(path, part=Slice(sort=sort))
    except PlimsollError:
        return
    assert len(workload) > 0 and np.all(np.diff(workload.arrival_s) >= 0)


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.bin"
    path.write_bytes(data)
    try:
        workload = load_trace(path)
    except PlimsollError:
        return
    assert len(workload) > 0


JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=5),
    lambda x: st.lists(x, max_size=4) | st.dictionaries(st.text(max_size=5), x, max_size=3),
    max_leaves=8,
)
FIELDS = ("timestamp", "input_length", "output_length", "hash_ids", "prompt_len", "output_len")


@settings(max_examples=300, deadline=None)
@given(
    rows=st.lists(
        st.dictionaries(st.sampled_from(FIELDS), JSONISH, max_size=6), min_size=1, max_size=4
    ),
    report=st.dictionaries(
        st.sampled_from(
            ("input_lens", "output_lens", "request_rate", "max_concurrency", "start_times")
        ),
        JSONISH | st.lists(st.integers(-2, 50), max_size=4),
        max_size=5,
    ),
)
def test_any_json_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, rows: list[object], report: object
) -> None:
    folder = tmp_path_factory.getbasetemp()
    texts = ["\n".join(json.dumps(r) for r in rows), json.dumps(report)]
    texts.append(json.dumps({"benchmarks": [{"requests": {"successful": rows}}]}))
    for text in texts:
        try:
            workload = load_trace(written(folder, text, "fuzz.json"))
        except PlimsollError:
            continue
        assert len(workload) > 0
