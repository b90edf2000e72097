"""Which tokens each cut leaves, against the warpers of transformers."""

import numpy as np
import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from plimsoll.serving.executors.torch.sampling import choose as choose_module
from plimsoll.serving.executors.torch.sampling.adjust import adjust
from plimsoll.serving.executors.torch.sampling.choose import choose
from plimsoll.serving.executors.torch.sampling.draw import draw
from plimsoll.serving.executors.torch.sampling.rows import History, Row
from plimsoll.serving.generation import SamplingParams
from tests.serving.torch_executor.sampling.oracle import distribution

VOCAB = 3000
GRID = (np.arange(4000) + 0.5) / 4000


def drawn_from(x_V: torch.Tensor, params: SamplingParams) -> np.ndarray:
    """Shares of tokens over a grid of uniform numbers: the distribution itself, to 1/4000."""
    x_NV = x_V.expand(len(GRID), -1)
    best = np.full(len(GRID), float(x_V.max()))
    tokens = choose(x_NV, best, [params] * len(GRID), GRID.tolist())
    return np.bincount(tokens, minlength=x_V.numel()) / len(GRID)


WARPED = {
    "temperature": ({"temperature": 0.4}, [TemperatureLogitsWarper(0.4)]),
    "top_k": ({"top_k": 17}, [TopKLogitsWarper(17)]),
    "top_p": ({"top_p": 0.63}, [TopPLogitsWarper(0.63)]),
    "top_p hot": (
        {"top_p": 0.97, "temperature": 1.5},
        [TemperatureLogitsWarper(1.5), TopPLogitsWarper(0.97)],
    ),
    "min_p": ({"min_p": 0.04}, [MinPLogitsWarper(0.04)]),
    "all": (
        {"temperature": 0.8, "top_k": 200, "top_p": 0.9, "min_p": 0.01},
        [
            TemperatureLogitsWarper(0.8),
            TopKLogitsWarper(200),
            TopPLogitsWarper(0.9),
            MinPLogitsWarper(0.01),
        ],
    ),
}


@pytest.mark.parametrize("name", WARPED)
def test_agrees_with_transformers(name: str) -> None:
    settings, warpers = WARPED[name]
    x_V = torch.randn(VOCAB, generator=torch.Generator().manual_seed(3)) * 3
    theirs = LogitsProcessorList(warpers)(torch.zeros(1, 1, dtype=torch.long), x_V[None].clone())
    wanted = theirs.softmax(-1)[0].double().numpy()
    ours = drawn_from(x_V, SamplingParams(**settings))
    assert abs(ours - wanted).max() < 2 / len(GRID)
    assert not ours[wanted == 0].any()
    ranked = np.argsort(-wanted)
    last_kept = ranked[(wanted > 0).sum() - 1]
    assert wanted[last_kept] < 1 / len(GRID) or ours[last_kept] > 0


def test_repetition_and_minimum_length_agree_with_transformers() -> None:
    x_NV = torch.randn(2, 50, generator=torch.Generator().manual_seed(1)) * 2
    prompt, generated = (1, 2, 3), (2, 9)
    params = SamplingParams(repetition_penalty=1.7, min_tokens=4)
    history = History(prompt, generated)
    ids = torch.tensor([prompt + generated] * 2)
    theirs = LogitsProcessorList(
        [
            MinNewTokensLengthLogitsProcessor(len(prompt), 4, [7, 8], device="cpu"),
            RepetitionPenaltyLogitsProcessor(1.7),
        ]
    )(ids, x_NV.clone())
    ours = x_NV.clone()
    adjust(ours, [Row(params=params, index=2, eos_ids=(7, 8), history=history)] * 2)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)


@pytest.mark.parametrize("top_p", [0.2, 0.9, 0.999])
@pytest.mark.parametrize("scale", [0.0, 0.1, 2.0])
def test_full_sort_and_partial_sort_agree(
    monkeypatch: pytest.MonkeyPatch, top_p: float, scale: float
) -> None:
    """Flat rows and rows of tied values need the full sort; peaked rows do not."""
    x_NV = (torch.randn(24, 5000, generator=torch.Generator().manual_seed(7)) * scale).bfloat16()
    rows = [Row(params=SamplingParams(seed=i, top_p=top_p), index=0) for i in range(24)]
    tokens = draw(x_NV, rows).tokens
    monkeypatch.setattr(choose_module, "_TOP_P_WIDTH", 5000)
    assert draw(x_NV, rows).tokens == tokens
    monkeypatch.setattr(choose_module, "_TOP_P_WIDTH", 1)
    assert draw(x_NV, rows).tokens == tokens


@pytest.mark.parametrize("settings", [{"top_k": 3}, {"top_p": 0.3}, {"top_k": 2, "top_p": 0.9}])
def test_ties_go_to_smaller_ids(settings: dict[str, float]) -> None:
    x_V = torch.zeros(2000)
    x_V[::2] = 1.0
    ours = drawn_from(x_V, SamplingParams(**settings))
    wanted = distribution(x_V.double().numpy(), SamplingParams(**settings))
    assert set(np.flatnonzero(ours)) <= set(np.flatnonzero(wanted))
    assert abs(ours - wanted).max() < 2 / len(GRID)


def test_one_token_is_always_left() -> None:
    x_V = torch.tensor([0.0, 3.0, 1.0, -torch.inf])
    for settings in ({"top_p": 1e-9}, {"min_p": 1.0}, {"top_k": 1}, {"temperature": 1e-30}):
        assert drawn_from(x_V, SamplingParams(**settings)).tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("settings", [{}, {"top_k": 3}, {"top_p": 0.99}, {"min_p": 1e-6}])
@pytest.mark.parametrize("u", [0.0, 0.5, 1 - 2**-53])
def test_impossible_tokens_are_not_drawn_at_the_ends(settings: dict[str, float], u: float) -> None:
    x_V = torch.full((700,), -torch.inf)
    x_V[[300, 301, 650]] = torch.tensor([1.0, 2.0, 0.5])
    (token,) = choose(x_V[None], np.array([2.0]), [SamplingParams(**settings)], [u])
    assert token in (300, 301, 650)
