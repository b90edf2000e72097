"""Parallel streams: exact counts, one stream is the base, cached and whole passes agree."""

import pytest
import torch

from plimsoll.cost.parallel import StreamShape
from plimsoll.models.context import FullContext
from plimsoll.models.decoder_stack import parameter_count
from plimsoll.models.llama import Mistral, Qwen2
from plimsoll.models.parscale import FullStreams, GrowingStreams, ParScaleLM
from plimsoll.spec.errors import SpecError, UnsupportedError

CONFIG = {
    "vocab_size": 53,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}


def model(streams, prefix=5, seed=0, **options):
    torch.manual_seed(seed)
    return ParScaleLM(Qwen2(CONFIG), streams, prefix=prefix, **options).double().eval()


def whole(lm, tokens_BL):
    batch, length = tokens_BL.shape
    context = FullStreams(lm, batch, length)
    return lm(tokens_BL.flatten(), context.positions(), context).view(batch, length, -1)


def tokens(batch, length, seed=0):
    return torch.randint(0, 53, (batch, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("streams", [1, 2, 4])
def test_parameters_are_those_of_the_formula(streams):
    shape = StreamShape(num_layers=2, hidden=32, ffn=48, kv_width=16, vocab=53, prefix=5)
    lm = ParScaleLM(Qwen2(CONFIG), streams, prefix=5 if streams > 1 else None)
    assert parameter_count(lm) - 53 * 32 == shape.parameters(streams)


def test_one_stream_is_the_base():
    torch.manual_seed(0)
    base = Qwen2(CONFIG).double().eval()
    lm = ParScaleLM(base, 1)
    given = tokens(3, 11)
    plain = FullContext(3, 11)
    with torch.no_grad():
        expected = base(given.flatten(), plain.positions(), plain).view(3, 11, -1)
        assert torch.equal(whole(lm, given), expected)


@pytest.mark.parametrize("streams", [1, 2, 3, 4])
@torch.no_grad()
def test_cached_steps_equal_the_whole_pass(streams):
    lm, given = model(streams), tokens(2, 13)
    expected = whole(lm, given)
    run = GrowingStreams(lm)
    got = [run.step([(0, given[0, :6]), (1, given[1, :6])]).view(2, 6, -1)]
    for at in range(6, 13):
        got.append(run.step([(0, given[0, at : at + 1]), (1, given[1, at : at + 1])])[:, None])
    assert (torch.cat(got, dim=1) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("streams", [1, 2, 4])
@torch.no_grad()
def test_sequences_of_other_lengths_beside_change_nothing(streams):
    """What left padding is for: prompts of 9 and 4 tokens in one batch."""
    lm, given = model(streams), tokens(2, 12)
    run = GrowingStreams(lm)
    first = run.step([(7, given[0, :9]), (8, given[1, :4])])
    next_ = run.step([(7, given[0, 9:10]), (8, given[1, 4:5])])
    long, short = whole(lm, given[:1, :10])[0], whole(lm, given[1:, :5])[0]
    assert (first - torch.cat([long[:9], short[:4]])).abs().max() < 1e-5
    assert (next_ - torch.stack([long[9], short[4]])).abs().max() < 1e-5


@torch.no_grad()
def test_a_beam_takes_all_copies_along():
    lm, given = model(3), tokens(2, 10)
    run = GrowingStreams(lm)
    run.step([(0, given[0, :6]), (1, given[1, :6])])
    run.copy(0, to=1)
    got = run.step([(0, given[0, 6:7]), (1, given[1, 6:7])])
    forked = torch.cat([given[0, :6], given[1, 6:7]])[None]
    assert (got[0] - whole(lm, given[:1, :7])[0, -1]).abs().max() < 1e-5
    assert (got[1] - whole(lm, forked)[0, -1]).abs().max() < 1e-5
    with pytest.raises(SpecError, match="sequence 5 has no tokens"):
        run.copy(5, to=0)


@torch.no_grad()
def test_prefixes_take_no_position():
    """Tokens count from 0 behind any prefix, in both contexts, up to the longest position."""
    lm, given = model(2), tokens(1, 64)
    assert FullStreams(lm, 1, 64).positions().tolist() == list(range(64))
    seen = []
    inner = lm.base.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    run = GrowingStreams(lm)
    got = torch.cat([run.step([(0, given[0, :40])]), run.step([(0, given[0, 40:])])])
    inner.remove()
    assert [p.tolist() for p in seen] == [2 * list(range(40)), 2 * list(range(40, 64))]
    assert (got - whole(lm, given)[0]).abs().max() < 1e-5


@torch.no_grad()
def test_streams_differ_and_none_is_lost():
    lm, given = model(4), tokens(2, 6)
    prefix = lm.prefix_of(0)
    assert all((prefix[:, i] - prefix[:, j]).abs().max() > 0 for i in range(4) for j in range(i))
    one = whole(lm, given)
    lm.prefixes["0"][:, 3] += 0.5
    assert (whole(lm, given) - one).abs().max() > 1e-9, "the last stream counts"


@torch.no_grad()
def test_another_order_of_copies_is_another_answer():
    """Batch by batch in place of stream by stream: silent garbage if a path mixes them up."""
    lm, given = model(2), tokens(3, 5)
    hidden = torch.randn(2 * 15, 32, dtype=torch.double)
    swapped = hidden.view(2, 15, 32).transpose(0, 1).reshape(30, 32)
    assert (lm.merge(hidden) - lm.merge(swapped)).abs().max() > 1e-6
    assert lm.merge(hidden).shape == (15, 32)
    assert whole(lm, given).shape == (3, 5, 32)


@torch.no_grad()
def test_weights_are_smoothed_and_of_hidden_states():
    lm = model(2, epsilon=0.2)
    last = lm.weigh[2]
    last.weight.zero_()
    last.bias.copy_(torch.tensor([50.0, -50.0]))
    hidden = torch.randn(2, 4, 32, dtype=torch.double)
    merged = lm.merge(hidden.flatten(0, 1))
    assert torch.allclose(merged, 0.9 * hidden[0] + 0.1 * hidden[1], atol=1e-6)


def test_gradients_reach_every_prefix():
    lm = model(3).train()
    whole(lm, tokens(2, 6)).square().sum().backward()
    for prefix in lm.prefixes.values():
        assert (prefix.grad.abs().amax(dim=(0, 2, 3, 4)) > 0).all()


def test_a_checkpoint_of_other_streams_is_named():
    with pytest.raises(SpecError, match="the checkpoint has 4 streams, this model 2"):
        model(2).load_streams(model(4).state_dict())
    one, other = model(2, seed=0), model(2, seed=1)
    other.load_streams(one.state_dict())
    given = tokens(1, 4)
    assert torch.equal(whole(one, given), whole(other, given))


def test_what_cannot_be_is_refused():
    with pytest.raises(SpecError, match="0 streams"):
        model(0)
    with pytest.raises(SpecError, match="a prefix of 0 tokens for 2 streams"):
        model(2, prefix=0)
    windowed = ParScaleLM(Mistral({**CONFIG, "sliding_window": 4}), 2, prefix=2)
    with pytest.raises(UnsupportedError, match="plain attention only"):
        whole(windowed, tokens(1, 6))
