"""The rivals' benchmark without any rival: rows, questions, error tables, what is left out."""

import importlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

RIVALS = Path(__file__).resolve().parents[2] / "benchmarks" / "rivals"


class Rivals:
    """The modules of the folder, which import one another by their plain names."""

    def __getattr__(self, name: str) -> ModuleType:
        return importlib.import_module(name)


@pytest.fixture
def rivals(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rivals]:
    monkeypatch.syspath_prepend(str(RIVALS))
    yield Rivals()
    for path in RIVALS.glob("*.py"):
        if getattr(sys.modules.get(path.stem), "__file__", None) == str(path):
            del sys.modules[path.stem]


SIZES = ("tp_size", "pp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size")
COUNTS = ("batch_size", "num_workers", *SIZES)
BLANK = dict.fromkeys(
    [
        *("id", "model_path", "system", "backend", "backend_version", "gemm_quant_mode"),
        *("moe_quant_mode", "mode", "isl", "osl", "concurrency", "ttft_ms", "tpot_ms"),
        *("batch_size_per_attention_rank", *SIZES),
        *(f"{stage}_{name}" for stage in ("prefill", "decode") for name in COUNTS),
    ],
    "",
)
SERVED = {"model_path": "zhipuai/GLM-5", "system": "b200_sxm", "backend": "sglang"}


def row(**stated: object) -> dict[str, str]:
    common = BLANK | SERVED | {"isl": "1000", "osl": "100", "ttft_ms": "100", "tpot_ms": "10"}
    return common | {name: str(value) for name, value in stated.items()}


def agg(i: int = 0, **stated: object) -> dict[str, str]:
    sizes = {"batch_size_per_attention_rank": 4, "tp_size": 8, "pp_size": 1}
    return row(**({"id": f"a{i}", "mode": "agg", "concurrency": 4} | sizes | stated))


def disagg(i: int = 0, **stated: object) -> dict[str, str]:
    sizes = {"prefill_tp_size": 4, "decode_tp_size": 8, "decode_attention_dp_size": 2}
    return row(**({"id": f"d{i}", "mode": "disagg", "concurrency": 30} | sizes | stated))


def test_a_sample_keeps_the_shares_of_its_strata(rivals: Rivals) -> None:
    every = [agg(i) for i in range(60)] + [disagg(i) for i in range(30)]
    every += [agg(99, system="gb200")]
    chosen = rivals.rows.sample(every, 20, seed=1)
    counts = Counter((r["mode"], r["system"]) for r in chosen)
    assert len(chosen) == len({r["id"] for r in chosen}) == 20
    assert counts[("agg", "gb200")] == 1
    assert abs(counts[("agg", "b200_sxm")] - 20 * 60 / 91) <= 1
    assert [r["id"] for r in chosen] == [r["id"] for r in every if r in chosen]
    assert chosen == rivals.rows.sample(every, 20, seed=1)
    assert chosen != rivals.rows.sample(every, 20, seed=2)
    assert rivals.rows.sample(every, 1000) == every


def test_rows_without_worker_counts_stand_apart(rivals: Rivals) -> None:
    stated = disagg(1, prefill_num_workers=1, decode_num_workers=2)
    groups = [rivals.rows.group_of(r) for r in (agg(), stated, disagg(2))]
    assert groups == list(rivals.rows.GROUPS)


def test_a_row_is_read_as_it_states(rivals: Rivals) -> None:
    read = rivals.deployments.deployment
    one = read(agg(attention_dp_size=8, batch_size_per_attention_rank=16, concurrency=""))
    assert one.model == "zai-org/GLM-5"
    assert (one.concurrency, one.backend_version, one.assumed) == (128, None, "")
    assert one.workers["aggregated"].sizes == {"tp_size": 8, "pp_size": 1, "attention_dp_size": 8}
    assert one.workers["aggregated"].count == 1
    spread = read(agg(attention_dp_size=2, batch_size_per_attention_rank=13, concurrency=416))
    assert spread.workers["aggregated"].count == 16
    odd = read(agg(batch_size_per_attention_rank=0, moe_tp_size=0, concurrency=1))
    assert odd.workers["aggregated"].batch == odd.workers["aggregated"].count == 1
    assert "moe_tp_size" not in odd.workers["aggregated"].sizes
    two = read(
        disagg(
            prefill_num_workers=3, decode_num_workers=2, decode_batch_size=9, prefill_batch_size=2
        )
    )
    assert two.disaggregated and not two.assumed
    assert [(w.count, w.batch) for w in two.workers.values()] == [(3, 2), (2, 9)]


def test_blank_workers_become_one_of_each_and_say_so(rivals: Rivals) -> None:
    found = rivals.deployments.deployment(disagg())
    assert found.assumed
    assert {role: w.count for role, w in found.workers.items()} == {"prefill": 1, "decode": 1}
    assert found.workers["decode"].batch == 15  # 30 in flight over 2 attention ranks


def test_whatever_a_rival_raises_is_its_reason(rivals: Rivals, tmp_path: Path) -> None:
    def predict(asked: object) -> dict[str, object]:
        raise ZeroDivisionError("no data\nand a second line")

    path = tmp_path / "rows.csv"
    path.write_text(rivals.rows.to_csv([agg(), agg(1)]))
    found = list(rivals.deployments.predictions(str(path), predict))
    assert [f["reason"] for f in found] == ["ZeroDivisionError: no data and a second line"] * 2


def test_the_aiconfigurator_driver_states_every_size(rivals: Rivals) -> None:
    stated = disagg(prefill_num_workers=3, decode_num_workers=2, decode_batch_size=9)
    asked = rivals.deployments.deployment(stated)
    arguments = rivals.drive_aiconfigurator.arguments_of(asked)
    assert arguments["mode"] == "disagg"
    assert (arguments["prefill_num_workers"], arguments["decode_num_workers"]) == (3, 2)
    assert (arguments["decode_batch_size"], arguments["decode_attention_dp_size"]) == (9, 2)
    assert "batch_size" not in arguments


def test_a_closed_loop_draws_its_lengths_and_shares_no_block(
    rivals: Rivals, tmp_path: Path
) -> None:
    driver = rivals.drive_aisimulate
    asked = rivals.deployments.deployment(agg(concurrency=50, batch_size_per_attention_rank=50))
    requests = driver.closed_loop(asked)
    assert requests == driver.closed_loop(asked)
    assert len(requests) == 500
    prompts, outputs = (np.array([r[i] for r in requests]) for i in (1, 2))
    assert prompts.min() >= 800 and prompts.max() <= 1000 and outputs.min() >= 80
    assert prompts.mean() == pytest.approx(900, rel=0.01)
    driver.write_trace(tmp_path / "t.jsonl", requests)
    lines = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    blocks = [block for line in lines for block in line["hash_ids"]]
    assert len(blocks) == len(set(blocks))
    for line in lines:
        assert (len(line["hash_ids"]) - 1) * 512 < line["input_length"]
        assert line["input_length"] <= len(line["hash_ids"]) * 512


@pytest.mark.parametrize(
    ("in_flight", "requests"), [(1, 32), (8, 80), (512, 5120), (1024, 5120), (4096, 12288)]
)
def test_requests_of_a_closed_loop(rivals: Rivals, in_flight: int, requests: int) -> None:
    assert rivals.drive_aisimulate.num_requests(in_flight) == requests


def test_the_aisimulate_driver_leaves_room_for_all_in_flight(rivals: Rivals) -> None:
    asked = rivals.deployments.deployment(
        agg(concurrency=700, batch_size_per_attention_rank=700, gemm_quant_mode="fp8")
    )
    engine = rivals.drive_aisimulate.configuration(asked, Path("t.jsonl"))["engine"]
    assert engine["mode"] == "aggregated"
    assert engine["gemm_quant_mode"] == "fp8" and "moe_quant_mode" not in engine
    pool = engine["workers"]["aggregated"]
    assert pool["parallelism"] == {"replicas": 1, "tensor": 8, "pipeline": 1}
    assert pool["scheduler"]["max_sequences"] == 700


def test_errors_are_relative_and_percentiles_linear(rivals: Rivals) -> None:
    table = rivals.error_table
    rows = [agg(1), agg(2), agg(3)]
    times = {"a1": {"ttft_ms": 50.0, "tpot_ms": 11.0}, "a2": {"ttft_ms": 300.0, "tpot_ms": 9.0}}
    found = table.Predictions(tool="T", times=times)
    assert table.errors(rows, found, "ttft_ms") == pytest.approx([0.5, 2.0])
    assert table.errors(rows, found, "tpot_ms") == pytest.approx([0.1, 0.1])
    values = list(np.random.default_rng(0).random(37))
    for fraction in (0.0, 0.5, 0.9, 1.0):
        expected = np.percentile(values, 100 * fraction)
        assert table.percentile(values, fraction) == pytest.approx(expected)


def test_what_is_summed_up_leaves_guesses_out(rivals: Rivals) -> None:
    table = rivals.error_table
    rows = [agg(1), agg(2), disagg(1)]
    exact = {"ttft_ms": 100.0, "tpot_ms": 10.0}
    far = {"ttft_ms": 900.0, "tpot_ms": 90.0}
    one = table.Predictions(tool="one", times={"a1": exact, "a2": exact, "d1": far})
    two = table.Predictions(tool="two", times={"a1": far})
    lines = table.table(rows, [one, two])
    together = [line.split() for line in lines if "these together" in line]
    assert [line[2:5] for line in together] == [["2", "2", "0.0%"], ["2", "1", "800.0%"]]
    shared = lines[-2:]
    assert [line.split()[1:4] for line in shared] == [["1", "1", "0.0%"], ["1", "1", "800.0%"]]
    assert all(len(line) <= 88 for line in lines)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("ValueError: x: MoE data missing for MoeKey", "no timing data"),
        ("RuntimeError: OOM: the model does not fit", "weights do not fit"),
        ("AssertionError: num_heads 128 should be divisible by tp_size 72", "heads do not divide"),
        ("KeyError: something else", "KeyError: something else"),
    ],
)
def test_reasons_are_few(rivals: Rivals, message: str, reason: str) -> None:
    assert rivals.error_table.reason_of(message).startswith(reason)


def test_given_predictions_are_read_with_their_gaps(rivals: Rivals, tmp_path: Path) -> None:
    path = tmp_path / "pred.csv"
    path.write_text("id,pred_ttft_ms,pred_tpot_ms,note\na1,5,6,\na2,,,no such device\nzz,1,1,\n")
    found = rivals.ours.read_predictions("T", path, [agg(1), agg(2), agg(3)])
    assert found.times == {"a1": {"ttft_ms": 5.0, "tpot_ms": 6.0}}
    assert found.reasons == {"a2": "no such device", "a3": "not in the file"}


def test_the_hour_starts_at_its_first_request(rivals: Rivals, tmp_path: Path) -> None:
    path = tmp_path / "hour.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:59:59.7500000,374,44\n2023-11-16 19:00:01.0000000,396,0\n"
    )
    hour = rivals.hour_question.read_hour(path)
    assert hour.requests == [(0.0, 374, 44), (1.25, 396, 1)]
    assert len(rivals.hour_question.read_hour(path, limit=1).requests) == 1


def test_a_failed_process_is_one_line(rivals: Rivals) -> None:
    script = "import sys; print('so\\nlast', file=sys.stderr); sys.exit(3)"
    with pytest.raises(rivals.venvs.Unavailable, match=r"^[^\n]*last$"):
        rivals.venvs.run([sys.executable, "-c", script], timeout_s=30)
    with pytest.raises(rivals.venvs.Unavailable, match="no-such-program"):
        rivals.venvs.run(["no-such-program"], timeout_s=30)


def test_the_cost_of_a_process_is_its_own(rivals: Rivals) -> None:
    script = "import time\nwhile time.process_time() < 0.3: pass\nprint('done')"
    printed, cost = rivals.venvs.run([sys.executable, "-c", script], timeout_s=60)
    assert printed == "done\n"
    assert 0.25 < cost.cpu_s < 2.0


def test_an_environment_is_made_once(rivals: Rivals, tmp_path: Path) -> None:
    (tmp_path / "tool").mkdir()
    (tmp_path / "tool" / "made-for.json").write_text('["tool==1"]')
    assert rivals.venvs.python_of(tmp_path, "tool", ["tool==1"]) == tmp_path / "tool/bin/python"


@pytest.mark.parametrize("files", [(), ("vidur/main.py", "requirements.txt")])
def test_vidur_says_what_is_missing(rivals: Rivals, tmp_path: Path, files: tuple[str, ...]) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    missing = "attention.csv" if files else "vidur/main.py"
    with pytest.raises(rivals.venvs.Unavailable, match=f"{missing}.*--vidur"):
        rivals.vidur.check(tmp_path)
    with pytest.raises(rivals.venvs.Unavailable, match="--vidur"):
        rivals.vidur.check(None)


@pytest.mark.parametrize("what", ["accuracy", "hour"])
def test_missing_data_is_one_line_and_no_failure(what: str, tmp_path: Path) -> None:
    options = ["--data", str(tmp_path), "--cache", str(tmp_path / "cache")]
    done = subprocess.run(
        [sys.executable, str(RIVALS / "run.py"), what, *options],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"{what} left out" in done.stdout
    assert "--data" in done.stdout
