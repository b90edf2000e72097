"""Bad input through the command line: one sentence, the right code, nothing half-written."""

import json
import os
from pathlib import Path

import pytest

from tests.command_line import PLAN, TRACE, Done, plimsoll

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
}
GOOD_ROW = "2023-11-16 18:00:01.0,10,10\n"
REST = ["-w", "500/50", "--requests", "50"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def assert_refused(done: Done, said: str, *, code: int = 2) -> None:
    """One sentence on stderr that says ``said``, nothing on stdout."""
    assert done.code == code
    assert done.out == ""
    assert "Traceback" not in done.err
    assert done.err.count("\n") == 1 and done.err.startswith("error: "), done.err
    assert said in done.err


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not valid JSON"),
        ("hello", "not valid JSON"),
        (json.dumps(CONFIG)[:90], "not valid JSON"),
        ("[]", "config.json"),
        ("{}", "required fields are missing: hidden_size"),
        (json.dumps(CONFIG | {"num_hidden_layers": 0}), "num_hidden_layers: 0 is out of range"),
        (json.dumps(CONFIG | {"num_hidden_layers": -3}), "num_hidden_layers: -3"),
        (json.dumps(CONFIG | {"num_hidden_layers": 10**9}), "1,000,000,000 is out of range"),
        (json.dumps(CONFIG | {"num_hidden_layers": float("nan")}), "nan is not a whole number"),
        (json.dumps(CONFIG | {"num_hidden_layers": "x"}), "'x' is not a whole number"),
        (json.dumps(CONFIG | {"num_key_value_heads": 7}), "cannot share 7 KV heads"),
        (json.dumps(CONFIG | {"num_attention_heads": 31}), "31 attention heads cannot share 8"),
    ],
)
def test_config(folder: Path, text: str, said: str) -> None:
    (folder / "config.json").write_text(text)
    assert_refused(plimsoll("fit", "config.json", "--on", "8xH100-SXM"), said)
    assert_refused(plimsoll("fit", ".", "--on", "8xH100-SXM"), said)
    assert files(folder) == ["config.json"]


@pytest.mark.parametrize(
    ("model", "on", "said"),
    [
        ("lama-3.1-70b", "8xH100-SXM", "Did you mean llama-3.1-70b"),
        ("nothing-like-it.json", "8xH100-SXM", "no such file"),
        ("", "8xH100-SXM", "give a bundled name or a path"),
        ("qwen3-8b", "8xH100-SMX", "Did you mean H100-SXM"),
        ("qwen3-8b", "0xH100-SXM", "the count must be"),
        ("qwen3-8b", "2x(8xH100-SXM", "expected"),
        ("qwen3-8b", "", "no hardware given"),
    ],
)
def test_unknown_names_suggest_the_nearest(model: str, on: str, said: str) -> None:
    done = plimsoll("fit", model, "--on", on)
    assert done.code == 2 and done.out == "" and done.err.count("\n") == 1
    assert said in done.err or "character" in done.err


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (None, "the file is empty"),
        ("", "holds no request"),
        (GOOD_ROW + "2023-11-16 18:00:00.0,10,10\n", "line 3: arrives before the row above it"),
        (GOOD_ROW + "2023-11-16 18:00:02.0,-10,10\n", "line 3: ContextTokens = '-10'"),
        (GOOD_ROW + "2023-11-16 18:00:02.0,nan,10\n", "line 3: ContextTokens = 'nan'"),
        (GOOD_ROW + "2023-11-16 18:00:02.0,10\n", "line 3: has 2 columns"),
        (GOOD_ROW + "never,10,10\n", "line 3"),
    ],
)
def test_trace_rows(folder: Path, rows: str | None, said: str) -> None:
    (folder / "plan.yaml").write_text(PLAN)
    (folder / "trace.csv").write_text("" if rows is None else TRACE + rows)
    assert_refused(plimsoll("trace", "show", "trace.csv"), said)
    assert_refused(plimsoll("trace", "make", "trace.csv", "--out", "made.jsonl"), said)
    assert_refused(plimsoll("simulate", "plan.yaml", "-w", "trace.csv", "--out", "run"), said)
    assert files(folder) == ["plan.yaml", "trace.csv"]


def test_rows_out_of_order_can_be_sorted(folder: Path) -> None:
    (folder / "trace.csv").write_text(TRACE + GOOD_ROW + "2023-11-16 18:00:00.0,10,10\n")
    assert plimsoll("trace", "make", "trace.csv", "--sort", "--out", "made.jsonl").code == 0


def test_a_huge_trace_is_refused_with_its_size_or_read_in_part(folder: Path) -> None:
    path = folder / "huge.csv"
    times = (f"{k // 3600:02d}:{k // 60 % 60:02d}:{k % 60:02d}" for k in range(80_000))
    rows = "".join(f"2023-11-16 {time}.0,10,10\n" for time in times)
    path.write_text(TRACE + rows)
    os.truncate(path, 5 * 10**9)
    assert_refused(
        plimsoll("trace", "show", "huge.csv"), "5,000,000,000 bytes is more than is read"
    )
    done = plimsoll("trace", "make", "huge.csv", "--first", "20", "--out", "part.jsonl", "--json")
    assert done.code == 0 and json.loads(done.out)["statistics"]["requests"] == 20


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rate", "-5req/s"], "zero or more"),
        (["--rate", "0req/s"], "must be above zero"),
        (["--rate", "nanreq/s"], "is not a quantity"),
        (["--rate", "5"], "has no unit"),
        (["--rate", "5ms"], "unknown unit"),
        (["--requests", "-1"], "expected zero or more"),
        (["--in-flight", "-1"], "expected zero or more"),
        (["--ttft-p99", "2"], "has no unit"),
        (["--ttft-p99", "0s"], "must be above zero"),
        (["--slo", "itl:p95"], "is not of the form"),
        (["--slo", "speed:p95=2s"], "unknown metric 'speed'"),
        (["--slo", "ttft:p101=2s"], "percentile 101"),
        (["--sweep", "--out", "run"], "--sweep: takes no --out"),
    ],
)
def test_options_of_simulate(folder: Path, words: list[str], said: str) -> None:
    (folder / "plan.yaml").write_text(PLAN)
    assert_refused(plimsoll("simulate", "plan.yaml", "-w", "500/50", *words), said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--power", "5"], "has no unit"),
        (["--power", "0W"], "zero carries nothing"),
        (["--budget", "40"], "has no unit"),
        (["--objective", "best"], "expected goodput, cost, energy, latency"),
        (["--jobs", "-1"], "expected 0 (every core) or more"),
        (["--set", "foo=1"], "--set foo: unknown; expected weights"),
        (["--set", "weights"], "expected name=value"),
        (["--set", "weights=fp9"], "unknown number format 'fp9'"),
        (["--workload", "chta"], "Did you mean chat?"),
    ],
)
def test_options_of_plan(words: list[str], said: str) -> None:
    assert_refused(plimsoll("plan", "qwen3-8b", "--on", "1xL4", *words), said)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("replicas: 2", "replicas: 1, parallel: {tp: 3}", "use one of 1, 2, 4, 8"),
        ("format_version: 1", "format_version: 2", "format_version 2 is newer"),
        ("replicas: 2", "replicas: 5", "pools need 5 x H100-SXM"),
        ("replicas: 2", "replicas: -2", "pools.0.replicas"),
        ("model: llama-3.1-8b", "model: llama-9", "Did you mean"),
        ("model:", "modle:", "modle: Unexpected keyword argument"),
        ("percentile: 99.0", "percentile: .nan", "percentile"),
        ("kind: serving", "kind: serving\nkind: serving", "duplicate key"),
        ("pools:", "pools: [", "not valid YAML"),
    ],
)
def test_plan_file(folder: Path, old: str, new: str, said: str) -> None:
    text = PLAN.replace("2xH100", "8xH100") if "tp: 3" in new else PLAN
    (folder / "plan.yaml").write_text(text.replace(old, new, 1))
    assert_refused(plimsoll("simulate", "plan.yaml", *REST, "--out", "run"), said)
    assert files(folder) == ["plan.yaml"]


def test_a_plan_that_memory_does_not_hold(folder: Path) -> None:
    (folder / "plan.yaml").write_text(PLAN.replace("llama-3.1-8b", "llama-3.1-405b"))
    done = plimsoll("simulate", "plan.yaml", *REST, "--out", "run")
    assert done.code == 3 and done.out == "" and "what binds: device memory" in done.err
    assert files(folder) == ["plan.yaml"]


def test_an_slo_that_no_plan_meets(folder: Path) -> None:
    asked = ["plan", "qwen3-8b", "--on", "1xH100-SXM", "--workload", "4000/50", "--jobs", "1"]
    done = plimsoll(*asked, "--ttft-p99", "1ms", "--out", "plan.yaml")
    assert done.code == 3 and done.out == ""
    assert done.err.startswith("infeasible: ")
    assert "what binds: " in done.err and "nearest: " in done.err
    assert files(folder) == []


@pytest.mark.parametrize(
    "words",
    [
        ["peak", "qwen3-8b", "--on", "1xL4", "--context", "0"],
        ["peak", "qwen3-8b", "--on", "1xL4", "--context", "4k,,5k"],
        ["peak", "qwen3-8b", "--on", "1xL4", "--attention", "some"],
        ["peak", "qwen3-8b", "--on", "1xL4+1xL40S"],
        ["trace", "make", "chat", "--out", "x.csv"],
        ["trace", "make", "chat", "--out", "x.npz", "--requests", "9", "--duration", "5s"],
        ["trace", "fit", "batch"],
        ["trace", "fit", "chat", "--out", "model.json"],
        ["trace", "show", "nothing.csv"],
        ["export", "nothing.yaml", "--to", "vllm"],
        ["compare", "one.yaml"],
        ["reproduce"],
        ["reproduce", "nothing"],
        ["reproduce", "burstgpt", "--data", "nowhere"],
        ["fit", "qwen3-8b", "--on", "1xL4", "--context", "9999k"],
        ["fit", "qwen3-8b", "--on", "1xL4", "--memory-fraction", "nan"],
        ["fit", "qwen3-8b", "--on", "1xL4", "--weights", "fp9"],
    ],
    ids=" ".join,
)
def test_the_other_verbs(folder: Path, words: list[str]) -> None:
    assert_refused(plimsoll(*words), "")
    assert files(folder) == []
