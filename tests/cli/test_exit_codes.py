"""Each way to end has its code; errors are sentences on stderr, stdout stays empty."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.command_line import PLAN, START, environment, plimsoll


def test_0_answered() -> None:
    assert plimsoll("list", "workloads").code == 0
    assert plimsoll("--version").code == 0


@pytest.mark.slow
def test_1_a_claim_that_could_not_be_checked() -> None:
    done = plimsoll("reproduce", "long-context-peak", "--quick", "--quiet", "--json")
    rows = json.loads(done.out)["rows"]
    passed = all(row["verdict"] not in ("fail", "not run") for row in rows)
    assert done.code == (0 if passed else 1)
    assert any(row["verdict"] == "not run" for row in rows)
    text = plimsoll("reproduce", "long-context-peak", "--quick", "--quiet").out
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fit"], "Missing argument 'model'"),
        (["fit", "qwen3-8b", "--on", "L4", "--bogus"], "No such option: --bogus"),
        (["plna"], "Did you mean 'plan'?"),
        (["trace", "shwo", "x"], "Did you mean 'show'?"),
        (["plan", "qwen3-8b", "--on", "L4", "--seed", "x"], "Invalid value for '--seed'"),
        (["list", "modles"], "Did you mean models?"),
    ],
)
def test_2_usage(words: list[str], said: str) -> None:
    done = plimsoll(*words)
    assert done.code == 2 and done.out == ""
    assert said in done.err and "--help" in done.err or "expected" in done.err
    assert done.err.count("\n") == 1


def test_2_nothing_asked_shows_the_help() -> None:
    for words in ([], ["trace"]):
        done = plimsoll(*words)
        assert done.code == 2 and done.out == ""
        assert "Commands:" in done.err


def test_3_infeasible() -> None:
    done = plimsoll("fit", "llama-3.1-405b", "--on", "1xL4")
    assert done.code == 3 and done.out == ""
    lines = done.err.splitlines()
    assert lines[0].startswith("infeasible: llama-3.1-405b does not fit on 1xL4")
    assert [line.split(":")[0].strip() for line in lines[1:]] == [
        "what binds",
        "nearest",
        "smallest change",
    ]


def test_3_infeasible_is_an_answer_for_machines_too() -> None:
    done = plimsoll("fit", "llama-3.1-405b", "--on", "1xL4", "--json")
    assert done.code == 3
    data = json.loads(done.out)
    assert data["format_version"] == 1
    assert data["binding"] == "device memory" and data["nearest"] and data["change"]


def test_4_unsupported(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN.replace("max_num_seqs: 64", "policy: {kind: splitfuse}"))
    done = plimsoll("export", str(plan), "--to", "vllm")
    assert done.code == 4 and done.out == ""
    assert done.err.startswith("error: ") and done.err.count("\n") == 1


def test_a_closed_pipe_is_no_error() -> None:
    with subprocess.Popen(
        [*START, "list", "models"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 0


def test_an_internal_error_is_one_line_and_a_traceback_on_demand(tmp_path: Path) -> None:
    broken = (
        "import plimsoll.api.listing as m\n"
        "def listing(kind): raise ZeroDivisionError('by hand')\n"
        "m.listing = listing\n"
        "from plimsoll.cli.main import run\n"
        "run()\n"
    )
    for flag, traceback in ((), False), (("--debug",), True):
        done = subprocess.run(
            [START[0], "-c", broken, *flag, "list", "models"],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1 and done.stdout == ""
        assert ("Traceback" in done.stderr) is traceback
        assert "ZeroDivisionError: by hand" in done.stderr
        if not traceback:
            assert done.stderr.count("\n") == 1 and "--debug" in done.stderr
