"""Graded generations from a CSV: what is read, what is cut, and what is refused with its line."""

import numpy as np
import pytest

from plimsoll.cost.testtime import DecodeShape
from plimsoll.laws.graded import read_grades, read_traces
from plimsoll.laws.testtime import choices, limits_of
from plimsoll.spec.errors import SpecError

HEADER = "question,model,prompt_tokens,tokens,truncated,correct,answer\n"


def shape_of(name):
    return DecodeShape(name=name, params=1e6, total_params=2e6, kv_width=256.0, query_width=256.0)


def written(tmp_path, text, name="traces.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_rows_become_questions_and_trials(tmp_path):
    path = written(
        tmp_path,
        HEADER + "a,m,10,30,0,1,7\na,m,10,40,false,no,8\nb,m,12,50,1,0,\nb,m,12,20,0,0,3\n",
    )
    [one], notes = read_traces(path, shape_of)
    assert one.lengths.tolist() == [[30, 40], [50, 20]]
    assert one.right.tolist() == [[True, False], [False, False]]
    assert one.prompt_tokens.tolist() == [10, 12]
    assert one.answers[0, 0] == 0 and one.answers[1, 0] == -1, "right is 0, none is below 0"
    assert (one.answers[:, 1] > 0).all()
    assert one.kv_budget is None and "truncated: 25.0 % of m from 50 tokens on" in notes[-1]


def test_nothing_is_said_beyond_where_generations_were_cut(tmp_path):
    path = written(tmp_path, HEADER + "a,m,10,64,1,0,\na,m,10,90,0,1,5\na,m,10,20,0,1,5\n")
    [one], _ = read_traces(path, shape_of)
    assert max(limits_of(one)) == 64
    top = choices([one], trials=(1,), limits=limits_of(one))[-1]
    assert top.accuracy == pytest.approx(1 / 3), "what ran to 90 is wrong within 64"


def test_a_budget_of_positions_is_another_group(tmp_path):
    path = written(
        tmp_path,
        "question,model,tokens,truncated,correct,kv_budget,block\n"
        "a,m,400,0,1,,\na,m,400,0,1,32,16\n",
    )
    dense, sparse = read_traces(path, shape_of, prompt_tokens=8)[0]
    assert (dense.kv_budget, sparse.kv_budget, sparse.block) == (None, 32, 16)
    [a], [b] = (choices([t], trials=(1,), limits=(400,)) for t in (dense, sparse))
    assert b.bytes < a.bytes / 3


def test_uneven_trials_are_said(tmp_path):
    path = written(tmp_path, HEADER + "a,m,1,3,0,1,7\na,m,1,4,0,0,8\nb,m,1,5,0,1,2\n")
    [one], notes = read_traces(path, shape_of)
    assert one.lengths.shape == (2, 1)
    assert (
        "question b has only 1; the first of each count, as 1 of 2 questions have more trials"
        in notes[0]
    )


def test_lengths_that_look_cut_are_said(tmp_path):
    rows = "".join(f"q{i},m,1,4096,0,0,x\n" for i in range(4))
    _, notes = read_traces(written(tmp_path, HEADER + rows), shape_of)
    assert "4 generations of exactly 4,096 tokens are not marked truncated" in notes[0]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "the file is empty"),
        (HEADER, "no row below the header"),
        ("question,model,tokens,correct\na,m,3,1\n", "column truncated missing"),
        ("question,model,tokens,truncated,correct\na,m,3,0,1\n", "no column prompt_tokens"),
        (HEADER + "a,m,1,3,0,,7\n", "line 2: correct is ''; expected 1 or 0"),
        (HEADER + "a,m,1,3,maybe,1,7\n", "line 2: truncated is 'maybe'"),
        (HEADER + "a,m,1,0,0,1,7\n", "line 2: tokens is 0"),
        (HEADER + "a,m,1,-3,0,1,7\n", "line 2: tokens is '-3'"),
        (HEADER + ",m,1,3,0,1,7\n", "line 2: question is empty"),
        (HEADER + "a,m,1,3,0,1,7\na,m,1,3,0,0,7\n", "line 3: answer '7' of question a"),
        (HEADER + "a,m,1,3,0,1,\n", "line 2: graded right without an answer"),
        (HEADER + "a,m,1,3,0,1,7\na,n,1,3,0,1,7\nb,n,1,3,0,1,7\n", "m has no generation"),
    ],
)
def test_bad_traces_are_one_clear_sentence(tmp_path, text, why):
    with pytest.raises(SpecError, match=why):
        read_traces(written(tmp_path, text), shape_of)


def test_grades_are_samples_or_rounds(tmp_path):
    one = read_grades(written(tmp_path, "question,correct\na,1\nb,0\na,0\nb,1\n"))
    assert not one.rounds and one.right.tolist() == [[1, 0], [0, 1]]
    two = read_grades(written(tmp_path, "question,round,correct\na,2,1\na,1,0\nb,1,1\nb,2,0\n"))
    assert two.rounds and two.right.tolist() == [[0, 1], [1, 0]], "in the order of rounds"
    runs = "question,sample,round,correct\na,x,1,1\na,x,2,1\na,y,1,0\na,y,2,1\n"
    three = read_grades(written(tmp_path, runs))
    assert np.array_equal(three.right, [[1, 1], [0, 1]])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("question,correct\na,\n", "line 2: correct is ''"),
        ("question,round,correct\na,1,1\na,3,1\n", "line 3: round 3 of question a; expected 2"),
        ("question,round,correct\na,1,1\na,1,0\n", "expected 2: every round once"),
        ("item,correct\na,1\n", "column question missing"),
        ("question,model,correct\na,m,1\na,n,0\n", r"2 models \(m, n\); expected the samples"),
    ],
)
def test_bad_grades_are_one_clear_sentence(tmp_path, text, why):
    with pytest.raises(SpecError, match=why):
        read_grades(written(tmp_path, text))
