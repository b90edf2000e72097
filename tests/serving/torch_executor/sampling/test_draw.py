"""Rows do not know each other; reports are of the raw logits; broken rows fail alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.serving.executors.torch.sampling.draw import draw
from plimsoll.serving.executors.torch.sampling.rows import History, Row
from plimsoll.serving.generation import SamplingParams

VOCAB = 1500

params_at_random = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    top_k=st.sampled_from([0, 0, 1, 5, 900, VOCAB, VOCAB + 5]),
    top_p=st.sampled_from([1.0, 0.2, 0.95]),
    min_p=st.sampled_from([0.0, 0.1]),
    presence_penalty=st.sampled_from([0.0, 0.7]),
    frequency_penalty=st.sampled_from([0.0, 0.7]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    logprobs=st.sampled_from([None, 0, 3]),
    logit_bias=st.sampled_from([(), ((3, 4.0), (VOCAB + 9, 1.0), (-1, 50.0))]),
    min_tokens=st.sampled_from([0, 5]),
    stop_token_ids=st.sampled_from([(), (4, VOCAB + 1)]),
    seed=st.integers(0, 2**64 - 1),
)
rows_at_random = st.builds(
    Row,
    params=params_at_random,
    index=st.integers(0, 8),
    eos_ids=st.just((0, 1)),
    history=st.builds(
        History,
        st.lists(st.integers(0, VOCAB - 1), max_size=30),
        st.lists(st.integers(0, 5), max_size=8),
    ),
    allowed=st.sampled_from([None, None, np.full(20, 0x55555555, dtype=np.int32)]),
)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(rows_at_random, min_size=1, max_size=12), seed=st.integers(0, 9), data=st.data()
)
def test_a_row_is_the_same_in_every_batch(rows: list[Row], seed: int, data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(seed)
    x_NV = (torch.randn(len(rows), VOCAB, generator=generator) * 3).bfloat16()
    before = x_NV.clone()
    together = draw(x_NV, rows)
    assert not together.broken
    assert torch.equal(x_NV, before)
    order = data.draw(st.permutations(range(len(rows))))
    shuffled = draw(x_NV[order], [rows[i] for i in order])
    assert shuffled.tokens == [together.tokens[i] for i in order]
    for i, row in enumerate(rows):
        alone = draw(x_NV[i : i + 1], [row])
        assert alone.tokens == [together.tokens[i]]
        mine, other = alone.logprobs[0], together.logprobs[i]
        assert (mine is None) == (other is None) == (row.params.logprobs is None)
        if mine is not None and other is not None:
            assert mine.logprob == pytest.approx(other.logprob, abs=1e-5)
            assert [token for token, _ in mine.top] == [token for token, _ in other.top]


def test_sampling_a_long_row_alone_and_in_a_batch() -> None:
    """Sums of a row do not depend on how many rows are summed beside it."""
    x_NV = torch.randn(16, 40_001, generator=torch.Generator().manual_seed(0))
    for settings_ in ({}, {"top_p": 0.9}, {"min_p": 0.01}):
        rows = [Row(params=SamplingParams(seed=i, **settings_), index=0) for i in range(16)]
        alone = [draw(x_NV[i : i + 1], rows[i : i + 1]).tokens[0] for i in range(16)]
        assert draw(x_NV, rows).tokens == alone


def test_greedy_ties_go_to_the_smallest_id() -> None:
    x_NV = torch.zeros(3, 5000)
    x_NV[1, [4000, 77, 2000]] = 2.0
    greedy = Row(params=SamplingParams(temperature=0), index=0)
    biased = Row(params=SamplingParams(temperature=0, logit_bias=((4000, 0.0),)), index=0)
    assert draw(x_NV, [greedy] * 3).tokens == [0, 77, 0]
    assert draw(x_NV, [biased] * 3).tokens == [0, 77, 0]


def test_logprobs_are_of_the_raw_logits() -> None:
    x_NV = torch.randn(2, 300, generator=torch.Generator().manual_seed(2))
    x_NV[0, [9, 5, 200]] = 6.0
    x_NV[1, 2:] = -torch.inf
    params = SamplingParams(
        temperature=0.3, logprobs=4, top_k=2, logit_bias=((8, 90.0),), repetition_penalty=2.0
    )
    drawn = draw(x_NV, [Row(params=params, index=0, history=History([5, 9]))] * 2)
    wanted_NV = x_NV.double().log_softmax(-1)
    first, second = drawn.logprobs
    assert first is not None and second is not None
    assert first.logprob == pytest.approx(float(wanted_NV[0, drawn.tokens[0]]), abs=1e-5)
    assert [token for token, _ in first.top][:3] == [5, 9, 200]
    for token, value in first.top:
        assert value == pytest.approx(float(wanted_NV[0, token]), abs=1e-5)
    assert len(first.top) == 4 and len(second.top) == 2
    none = draw(x_NV[:1], [Row(params=SamplingParams(logprobs=0), index=0)]).logprobs[0]
    assert none is not None and none.top == ()


def test_many_tied_alternatives_are_the_smallest_ids() -> None:
    report = draw(torch.zeros(1, 400), [Row(params=SamplingParams(logprobs=3), index=0)])
    assert report.logprobs[0] is not None
    assert [token for token, _ in report.logprobs[0].top] == [0, 1, 2]


@pytest.mark.parametrize("kind", [{"temperature": 0}, {}, {"top_p": 0.5}, {"top_k": 3}])
def test_broken_rows_fail_alone(kind: dict[str, float]) -> None:
    x_NV = torch.randn(5, 64, generator=torch.Generator().manual_seed(4))
    x_NV[1, 3] = torch.nan
    x_NV[2] = -torch.inf
    x_NV[3, 5] = torch.inf
    rows = [Row(params=SamplingParams(**kind, logprobs=1), index=0)] * 5
    drawn = draw(x_NV, rows)
    assert drawn.broken == (1, 2, 3)
    assert drawn.tokens[::4] == draw(x_NV[::4].contiguous(), rows[:2]).tokens
    assert [report is None for report in drawn.logprobs] == [False, True, True, True, False]


def test_nothing_allowed_is_broken_and_minimum_length_gives_way_to_the_grammar() -> None:
    x_NV = torch.zeros(2, 64)
    nothing, only_eos = np.zeros(2, dtype=np.int32), np.array([4, 0], dtype=np.int32)
    params = SamplingParams(min_tokens=5)
    rows = [
        Row(params=params, index=0, eos_ids=(2,), allowed=nothing),
        Row(params=params, index=0, eos_ids=(2,), allowed=only_eos),
    ]
    drawn = draw(x_NV, rows)
    assert drawn.broken == (0,) and drawn.tokens[1] == 2


def test_minimum_length_holds_until_reached_and_spares_an_ignored_end() -> None:
    x_NV = torch.zeros(1, 8)
    x_NV[0, 2] = 50.0
    params = SamplingParams(min_tokens=2, temperature=0)
    ignoring = SamplingParams(min_tokens=2, temperature=0, ignore_eos=True)
    tokens = [draw(x_NV, [Row(params=params, index=i, eos_ids=(2,))]).tokens[0] for i in range(3)]
    assert tokens == [0, 0, 2]
    assert draw(x_NV, [Row(params=ignoring, index=0, eos_ids=(2,))]).tokens == [2]


def test_history_counts_as_it_grows() -> None:
    grown, given_ = History([5, 5, 7]), History([5, 5, 7], [7, 9, 9])
    for token in (7, 9, 9):
        grown.push(token)
    for history in (grown, given_):
        ids, counts = history.tokens()
        assert dict(zip(ids.tolist(), counts.tolist(), strict=True)) == {5: 0, 7: 1, 9: 2}


def test_no_rows() -> None:
    assert draw(torch.zeros(0, 4), []).tokens == []
