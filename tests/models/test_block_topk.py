"""Block top-k attention: equal to plain attention with room enough, and reading what it should."""

import pytest
import torch

from plimsoll.models.block_topk import BlockTopK
from plimsoll.models.context import FullContext
from plimsoll.models.llama import Qwen2
from plimsoll.spec.errors import SpecError, UnsupportedError

CONFIG = {
    "vocab_size": 31,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def parts():
    torch.manual_seed(0)
    return Qwen2(CONFIG).double().eval(), torch.randint(0, 31, (3, 21))


def whole(model, tokens_BL):
    context = FullContext(*tokens_BL.shape)
    return model(tokens_BL.flatten(), context.positions(), context).view(*tokens_BL.shape, -1)


def stepped(model, tokens_BL, prompt, **options):
    context = BlockTopK(len(tokens_BL), **options)
    cuts = [tokens_BL[:, :prompt], *(tokens_BL[:, i : i + 1] for i in range(prompt, 21))]
    return torch.cat(
        [
            model(cut.flatten(), context.begin(cut.shape[1]), context).view(*cut.shape, -1)
            for cut in cuts
        ],
        dim=1,
    )


@pytest.mark.parametrize("budget", [None, 24, 64])
@torch.no_grad()
def test_room_enough_is_plain_attention(budget):
    model, tokens = parts()
    got = stepped(model, tokens, 7, budget=budget, block=4)
    assert (got - whole(model, tokens)).abs().max() < 1e-5


@torch.no_grad()
def test_a_small_budget_is_not():
    model, tokens = parts()
    got = stepped(model, tokens, 7, budget=8, block=4)
    expected = whole(model, tokens)
    assert (got[:, :8] - expected[:, :8]).abs().max() < 1e-5, "the first 8 fit"
    assert (got[:, 12:] - expected[:, 12:]).abs().max() > 1e-4


@torch.no_grad()
def test_steps_and_a_whole_pass_choose_alike():
    model, tokens = parts()
    stepwise = stepped(model, tokens, 1, budget=8, block=4)
    at_once = stepped(model, tokens, 21, budget=8, block=4)
    assert (stepwise - at_once).abs().max() < 1e-9


@torch.no_grad()
def test_the_best_block_and_the_newest_are_read():
    """One head of width 1: means 0, 3, 0, 0 and a query of 1 read block 1 and the last."""
    context = BlockTopK(1, budget=4, block=2)
    keys = torch.tensor([0.0, 0, 3, 3, 0, 0, 0, 0]).view(8, 1, 1)
    values = torch.arange(8.0).view(8, 1, 1)
    context.begin(7)
    context.attend(0, keys[:7], keys[:7], values[:7], scale=1.0)
    context.begin(1)
    got = context.attend(0, torch.ones(1, 1, 1), keys[7:], values[7:], scale=1.0)
    weight = torch.tensor([3.0, 3.0, 0.0, 0.0]).softmax(dim=0)
    assert float(got) == pytest.approx(float(weight @ torch.tensor([2.0, 3.0, 6.0, 7.0])))


def test_what_cannot_be_is_refused():
    for budget, block in ((6, 4), (0, 4), (2, 4), (4, 0)):
        with pytest.raises(SpecError, match="expected a multiple of the block"):
            BlockTopK(1, budget=budget, block=block)
    context = BlockTopK(1)
    context.begin(1)
    x = torch.ones(1, 1, 1)
    with pytest.raises(UnsupportedError, match="plain attention only"):
        context.attend(0, x, x, x, scale=1.0, window=3)
    with pytest.raises(UnsupportedError, match="states of fixed size"):
        context.states(0)


@torch.no_grad()
def test_blind_blocks_are_drawn_and_with_room_all_are_read():
    model, tokens = parts()
    expected = whole(model, tokens)
    drawn = [
        stepped(model, tokens, 7, budget=8, block=4, blind=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    ]
    assert torch.equal(drawn[0], drawn[1]), "the same seed draws the same"
    assert (drawn[0] - drawn[2]).abs().max() > 1e-4
    room = stepped(model, tokens, 7, budget=24, block=4, blind=torch.Generator().manual_seed(0))
    assert (room - expected).abs().max() < 1e-5
