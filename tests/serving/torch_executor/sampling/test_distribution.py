"""Frequencies of drawn tokens against the exact distribution, parameter by parameter."""

import numpy as np
import pytest
import torch
from scipy import stats

from plimsoll.serving.executors.torch.sampling.draw import draw
from plimsoll.serving.executors.torch.sampling.rows import History, Row
from plimsoll.serving.generation import SamplingParams
from tests.serving.torch_executor.sampling.oracle import distribution

VOCAB = 40
NUM_DRAWS = 6000
PROMPT = (1, 2, 2, 3, 30)
GENERATED = (4, 4, 4, 2, 5)
EOS = (0,)
ALLOWED = np.arange(VOCAB) % 3 != 1
WORDS = np.packbits(np.append(ALLOWED, np.zeros(64 - VOCAB, dtype=bool)), bitorder="little").view(
    np.int32
)
LOGITS = np.random.default_rng(5).normal(size=VOCAB).astype(np.float32) * 1.5

SETTINGS: dict[str, dict[str, object]] = {
    "plain": {},
    "temperature": {"temperature": 0.6},
    "hot": {"temperature": 1.9},
    "top_k": {"top_k": 7},
    "top_p": {"top_p": 0.7},
    "min_p": {"min_p": 0.15},
    "top_k and top_p": {"top_k": 12, "top_p": 0.8},
    "all cuts": {"top_k": 15, "top_p": 0.9, "min_p": 0.1, "temperature": 1.3},
    "top_p and min_p": {"top_p": 0.9, "min_p": 0.2},
    "repetition": {"repetition_penalty": 2.0},
    "presence": {"presence_penalty": 1.5},
    "frequency": {"frequency_penalty": 0.8},
    "bias": {"logit_bias": ((3, 3.0), (9, -100.0), (3, 0.5))},
    "minimum": {"min_tokens": 9, "stop_token_ids": (int(LOGITS.argmax()),)},
    "schema": {"json_schema": "{}"},
    "everything": {
        "temperature": 0.8,
        "top_k": 20,
        "top_p": 0.95,
        "min_p": 0.02,
        "repetition_penalty": 1.2,
        "presence_penalty": 0.4,
        "frequency_penalty": 0.3,
        "logit_bias": ((7, 1.0),),
        "min_tokens": 9,
        "json_schema": "{}",
    },
}


def exact(params: SamplingParams) -> np.ndarray:
    allowed = None if params.json_schema is None else ALLOWED
    return distribution(
        LOGITS,
        params,
        index=5,
        prompt=PROMPT,
        generated=GENERATED,
        eos_ids=EOS,
        allowed=allowed,
    )


def row(params: SamplingParams) -> Row:
    allowed = None if params.json_schema is None else WORDS
    history = History(PROMPT, GENERATED)
    return Row(params=params, index=5, eos_ids=EOS, history=history, allowed=allowed)


@pytest.mark.parametrize("name", SETTINGS)
def test_frequencies_are_those_of_the_exact_distribution(name: str) -> None:
    settings = SETTINGS[name]
    rows = [row(SamplingParams(seed=seed, **settings)) for seed in range(NUM_DRAWS)]
    tokens = draw(torch.from_numpy(LOGITS).expand(NUM_DRAWS, -1), rows).tokens
    counts = np.bincount(tokens, minlength=VOCAB)
    p = exact(rows[0].params)
    assert not counts[p == 0].any()
    few = (p > 0) & (p * NUM_DRAWS < 5)
    seen = np.append(counts[(p > 0) & ~few], counts[few].sum())
    wanted = np.append(p[(p > 0) & ~few], p[few].sum()) * NUM_DRAWS
    if wanted[-1] == 0:
        seen, wanted = seen[:-1], wanted[:-1]
    assert stats.chisquare(seen, wanted).pvalue > 1e-3


@pytest.mark.parametrize("name", [name for name in SETTINGS if name != "plain"])
def test_each_setting_changes_the_exact_distribution(name: str) -> None:
    """So that frequencies would tell if it were passed over."""
    plain = exact(SamplingParams())
    assert abs(exact(SamplingParams(**SETTINGS[name])) - plain).sum() > 0.05


@pytest.mark.parametrize("name", SETTINGS)
def test_temperature_zero_takes_the_best(name: str) -> None:
    params = SamplingParams(**(SETTINGS[name] | {"temperature": 0.0}))
    tokens = draw(torch.from_numpy(LOGITS)[None], [row(params)]).tokens
    assert tokens == [int(exact(params).argmax())]


def test_the_index_gives_new_numbers_and_the_seed_too() -> None:
    x = torch.zeros(200, 1000)
    by_index = draw(x, [Row(params=SamplingParams(seed=1), index=i) for i in range(200)]).tokens
    by_seed = draw(x, [Row(params=SamplingParams(seed=i), index=1) for i in range(200)]).tokens
    assert len(set(by_index)) > 150 and len(set(by_seed)) > 150
    assert by_index[1] == by_seed[1]
