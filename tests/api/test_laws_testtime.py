"""Spending at test time, as a user asks: budgets of three kinds, votes, and what is refused."""

import json

import numpy as np
import pytest

from plimsoll.api.laws_testtime import spend_test_time
from plimsoll.spec.errors import InfeasibleError, SpecError, UnsupportedError
from tests.command_line import plimsoll

SKILLS = {"qwen3-0.6b": (-1.6, 5200), "qwen3-4b": (0.3, 4200), "qwen3-14b": (1.2, 3600)}


@pytest.fixture
def traces(tmp_path):
    rng = np.random.default_rng(0)
    rows = ["question,model,prompt_tokens,tokens,truncated,correct,answer"]
    for question in range(25):
        hard = rng.normal(0, 1.5)
        for model, (skill, typical) in SKILLS.items():
            for _ in range(8):
                tokens = int(typical * np.exp(0.15 * hard + rng.normal(0, 0.5)))
                cut = tokens > 16384
                right = not cut and rng.random() < 1 / (1 + np.exp(hard - skill))
                said = "" if cut else "x" if right else rng.choice(list("abc"))
                rows.append(f"{question},{model},180,{min(tokens, 16384)},{cut:d},{right:d},{said}")
    path = tmp_path / "traces.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_the_choice_keeps_the_budget_and_nothing_cheaper_is_as_good(traces):
    answer = spend_test_time(traces, on="H100-SXM", budget="0.001usd")
    price, one = answer.price, answer.chosen
    assert price.usd(one) <= 0.001
    assert [c.accuracy for c in answer.best] == sorted(c.accuracy for c in answer.best)
    assert all(c.accuracy <= one.accuracy for c in answer.best if price.usd(c) <= 0.001)
    same = spend_test_time(traces, on="H100-SXM", budget=f"{price.eflops(one) * 1.001:.6g}eFLOPs")
    assert same.chosen == one, "money is time of the device, and so are equivalent FLOPs"


def test_flops_alone_choose_a_smaller_model_that_costs_more(traces):
    answer = spend_test_time(traces, on="H100-SXM", budget="0.001usd")
    assert answer.by_flops.accuracy >= answer.chosen.accuracy
    assert answer.by_flops.flops < answer.chosen.flops
    assert answer.data()["overspent_ratio"] > 1.2
    assert "leaves memory traffic out costs" in answer.report().tables[1].notes[0]


def test_many_samples_are_looked_at_in_steps_of_half_a_doubling(tmp_path):
    path = tmp_path / "traces.csv"
    rows = [f"{q},qwen3-4b,180,100,0,{(q + k) % 3 == 0:d}" for q in range(5) for k in range(40)]
    path.write_text("\n".join(["question,model,prompt_tokens,tokens,truncated,correct", *rows]))
    answer = spend_test_time(path, on="H100-SXM", budget="1usd")
    assert answer.num_choices == len([*range(1, 17), 24, 32, 40]), "one limit each"


def test_latency_is_another_frontier(traces):
    """Alone on a device, weights are read for every token: small models gain."""
    money = spend_test_time(traces, on="H100-SXM", budget="0.0004usd")
    latency = spend_test_time(traces, on="H100-SXM", budget="8s")
    assert latency.price.latency_s(latency.chosen) <= 8
    size = latency.price.shapes
    assert size[latency.chosen.model].params < size[money.chosen.model].params
    assert latency.chosen.trials > money.chosen.trials, "more at once cost little time"


def test_votes_are_said_and_are_less(traces):
    passed = spend_test_time(traces, on="H100-SXM", budget="0.002usd")
    voted = spend_test_time(traces, on="H100-SXM", budget="0.002usd", select="majority")
    assert voted.chosen.accuracy < passed.chosen.accuracy
    assert "without such a selector it is no accuracy" in passed.report().assumptions[0]
    assert "majority of" in voted.report().key_numbers[0].note
    assert passed.report().next_command.endswith("--select majority")


def test_the_command_prints_what_the_answer_holds(traces, monkeypatch):
    monkeypatch.chdir(traces.parent)
    words = ("laws", "testtime", traces.name, "--on", "H100-SXM", "--budget", "0.001usd")
    done = plimsoll(*words, "--json")
    assert done.code == 0
    data = json.loads(done.out)
    assert data["chosen"]["usd"] <= 0.001 and data["flops_per_byte"] == pytest.approx(295, rel=0.01)
    text = plimsoll(*words).out
    assert "Frontier" in text and max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("options", "error", "why"),
    [
        ({"budget": "1e-9usd"}, InfeasibleError, "the cheapest choice takes"),
        ({"budget": "5"}, SpecError, "is no budget for a question"),
        ({"select": "best"}, SpecError, "expected pass or majority"),
        ({"on": "H100-SXM+L4"}, UnsupportedError, "several kinds"),
    ],
)
def test_what_cannot_be_is_refused(traces, options, error, why):
    with pytest.raises(error, match=why):
        spend_test_time(traces, **{"on": "H100-SXM", "budget": "0.01usd", **options})


def test_unknown_models_and_other_kinds_of_state_are_named(tmp_path):
    path = tmp_path / "t.csv"
    head = "question,model,prompt_tokens,tokens,truncated,correct\n"
    path.write_text(head + "a,qwen3-5b,1,3,0,1\n")
    with pytest.raises(SpecError, match=r"model 'qwen3-5b'.*qwen3-4b"):
        spend_test_time(path, on="H100-SXM", budget="1s")
    path.write_text(head + "a,gemma-3-27b,1,3,0,1\n")
    with pytest.raises(UnsupportedError, match="full attention only"):
        spend_test_time(path, on="H100-SXM", budget="1s")
    path.write_text(head + "a,llama-3.1-405b,1,3,0,1\n")
    with pytest.raises(InfeasibleError, match="fits H100-SXM with one cache"):
        spend_test_time(path, on="H100-SXM", budget="1s")
    path.write_text(head + "a,qwen3-4b,1,3,0,1\n")
    with pytest.raises(SpecError, match="no answers to vote with"):
        spend_test_time(path, on="H100-SXM", budget="1s", select="majority")


def test_a_measured_kv_budget_is_offered_and_cheaper(traces):
    head, *rows = traces.read_text().splitlines()
    sparse = [f"{row},1024,16" for row in rows if "qwen3-4b" in row]
    text = [f"{head},kv_budget,block", *(f"{row},," for row in rows), *sparse]
    traces.write_text("\n".join(text) + "\n")
    answer = spend_test_time(traces, on="H100-SXM", budget="0.0004usd")
    assert answer.chosen.kv_budget == 1024, "equally accurate here, and read with less traffic"
    assert "reading 1,024 positions a step" in answer.report().title
    assert "KV" in answer.report().tables[0].columns


def test_exit_codes(traces):
    words = ("laws", "testtime", str(traces), "--on", "H100-SXM", "--budget")
    for budget, code, said in (("1e-9usd", 3, "infeasible: --budget"), ("5", 2, "is no budget")):
        done = plimsoll(*words, budget)
        assert done.code == code and done.out == "" and said in done.err
    traces.write_text(traces.read_text().replace("qwen3-14b", "gemma-3-27b"))
    done = plimsoll(*words, "1s")
    assert done.code == 4 and "full attention only" in done.err and done.err.count("\n") == 1
