"""``plimsoll plan overlap``: an answer, a plan file that runs, and one sentence for bad input."""

import json
from pathlib import Path

import pytest

from plimsoll.spec.io import read
from plimsoll.spec.plan import Nano, ServingPlan
from tests.command_line import plimsoll

ASK = ("plan", "overlap", "llama-3-8b", "--hw", "1xA100-SXM-80", "-w", "512/512", "--quiet")


def test_it_prints_times_shares_and_writes_a_plan_that_simulates(tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    done = plimsoll(*ASK, "--batch", "1024", "--out", str(file), "--json")
    assert done.code == 0, done.err
    answer = json.loads(done.out)
    assert answer["plan"]["batch_tokens"] == 1024
    assert 1.0 < answer["speedup"] < 1.5
    assert answer["overlapped_step_s"] < answer["step_s"]
    busy = answer["busy_fractions"]
    assert sum(lane["one_by_one"] for lane in busy.values()) == pytest.approx(1.0)
    assert set(busy) == {"compute", "memory"}, "one device has no network"
    policy = read(ServingPlan, file).pools[0].policy
    assert isinstance(policy, Nano) and policy.overlap is not None
    ran = plimsoll("simulate", str(file), "-w", "512/512", "--requests", "60", "--json")
    assert ran.code == 0 and json.loads(ran.out)["summary"]["status"]["finished"] == 60


def test_a_search_cut_short_warns_and_answers() -> None:
    done = plimsoll(*ASK, "--budget", "0.2s")
    assert done.code == 0
    words = " ".join(done.out.split())
    assert "Time of a step" in words
    assert "the time budget ended the search" in words or "no order" in words


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("--batch", "255"), 2, "a dense batch of 255 tokens cannot be cut"),
        (("--tp", "3"), 2, "--tp 3; expected 1 to 1"),
        (("--budget", "0s"), 2, "budget"),
    ],
)
def test_bad_input_is_one_sentence(words: tuple[str, ...], code: int, sentence: str) -> None:
    done = plimsoll(*ASK, *words)
    assert done.code == code and done.out == ""
    assert sentence in done.err and len(done.err.strip().splitlines()) == 1


def test_models_that_are_not_planned_for_say_so() -> None:
    done = plimsoll("plan", "overlap", "mixtral-8x7b", "--on", "8xA100-SXM-80")
    assert done.code == 4 and "it has a layer of attention and moe" in done.err
    small = plimsoll("plan", "overlap", "llama-2-70b", "--on", "1xA100-SXM-80")
    assert small.code == 3 and "leave no room for KV" in small.err
