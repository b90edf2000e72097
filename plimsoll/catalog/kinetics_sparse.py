"""A tiny model that computes long sums in scratch, read densely or by block top-k at equal cost.

A problem has up to ``_LINES`` lines of four digits below 5, in shuffled order; every digit is a
token that also names its line and place, and the last digit of the last line is marked. After the
prompt the model writes the running total modulo 5 after each digit, in the order of the lines, one
token a step, and the last as its answer: each step needs the token before it and one digit
somewhere in the prompt. The cost of a generation therefore grows with the square of the number of
digits if all is read, and nearly with the number itself if a step reads two blocks of four.
A decoder of two layers is trained on whole problems with dense attention; nothing in training
knows of blocks. Tables of tokens start as sums of directions of what their parts stand for, so
that sums are learned in half a minute; a line is a block of its own, and a step needs one of them.
These settings suit block top-k and are ours, not the paper's.
Graded are generations without sampling, right if every total is, since one answer of five is right
by luck; costs are ``cost/testtime.py``'s for this shape.
"""

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from plimsoll.cost.testtime import DecodeShape
from plimsoll.laws.testtime import Traces
from plimsoll.models.block_topk import BlockTopK
from plimsoll.models.context import FullContext
from plimsoll.models.decoder_stack import parameter_count
from plimsoll.models.llama import Qwen2

__all__ = ["BLOCK", "DIGITS", "Setting", "dense_gap", "fresh", "generations", "problems", "trained"]

BLOCK = 4
"""Digits a line, and positions a block."""
_LINES = 12
_BASE = 5
DIGITS = BLOCK * _LINES
"""Of the longest problem."""
_GO = DIGITS * 2 * _BASE
_SCRATCH = _GO + 1
_ANSWER = _SCRATCH + DIGITS * _BASE
_VOCAB = _ANSWER + _BASE
_HIDDEN, _HEADS, _HEAD, _LAYERS = 64, 2, 32, 2
_TOKENS_A_BATCH = 1024
_STEPS = 600
_LR = 3e-3
_CONFIG = {
    "vocab_size": _VOCAB,
    "hidden_size": _HIDDEN,
    "intermediate_size": 2 * _HIDDEN,
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": _HEADS,
    "num_key_value_heads": _HEADS,
    "head_dim": _HEAD,
    "max_position_embeddings": 1024,
    "rope_theta": 1e4,
    "tie_word_embeddings": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How the cache is read: ``budget`` positions a step, None for all; ``blind`` picks blocks at
    random."""

    budget: int | None = None
    blind: bool = False


def problems(num: int, lines: int, gen: torch.Generator) -> tuple[Tensor, Tensor]:
    """(prompts [n, 4·lines + 1], what is to be written [n, 4·lines])."""
    digits = torch.randint(0, _BASE, (num, BLOCK * lines), generator=gen)
    places = torch.arange(BLOCK * lines)
    total = digits.cumsum(dim=1) % _BASE
    last = (places == places[-1]).long()
    words = (places * 2 + last) * _BASE + digits
    order = torch.rand(num, lines, generator=gen).argsort(dim=1)[:, :, None]
    shuffled = words.view(num, lines, BLOCK).gather(1, order.expand(-1, -1, BLOCK)).flatten(1)
    prompt = torch.cat([shuffled, torch.full((num, 1), _GO)], dim=1)
    written = _SCRATCH + places * _BASE + total
    written[:, -1] = _ANSWER + total[:, -1]
    return prompt, written


def _tables(gen: torch.Generator) -> tuple[Tensor, Tensor]:
    """[V, C] rows of the input and of the head: sums of directions of line, place, digit or total,
    and kind. A written total stands, as input, for the place to be read next."""
    lines, places, digits, totals, kinds = (
        torch.randn(count, _HIDDEN, generator=gen) for count in (_LINES, BLOCK, _BASE, _BASE, 5)
    )
    where = torch.arange(DIGITS)
    named = lines[where // BLOCK] + places[where % BLOCK]
    given = (named[:, None, None] + kinds[:2, None] + digits).flatten(0, 2)
    ends = kinds[4] + totals
    read_next = (named.roll(-1, dims=0)[:, None] + kinds[3] + totals).flatten(0, 1)
    read = (named[:, None] + kinds[3] + totals).flatten(0, 1)
    start = (named[0] + kinds[3] + totals[0])[None]
    inputs, head = torch.cat([given, start, read_next, ends]), torch.cat([given, start, read, ends])
    return inputs / 2, head / 2 * _HIDDEN**-0.5


def fresh(gen: torch.Generator) -> Qwen2:
    """A model before training."""
    model = Qwen2(_CONFIG)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and "layers." in name:
                weight.normal_(0, weight.shape[1] ** -0.5, generator=gen)
        inputs, head = _tables(gen)
        model.embed_tokens.weight.copy_(inputs)
        assert model.lm_head is not None
        model.lm_head.weight.copy_(head)
    return model


@functools.cache
def trained(seed: int) -> Qwen2:
    """A model; kept, since several checks ask."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # such small products are slower on more
    try:
        return _trained(seed)
    finally:
        torch.set_num_threads(threads)


def _trained(seed: int) -> Qwen2:
    gen = torch.Generator().manual_seed(seed)
    model = fresh(gen)
    adam = torch.optim.Adam(model.parameters(), lr=_LR, betas=(0.9, 0.98))
    for step in range(1, _STEPS + 1):
        done = step / _STEPS
        falling = 1.0 if done < 0.5 else (1 - done) / 0.5 + 0.02
        for group in adam.param_groups:
            group["lr"] = _LR * min(1.0, step / 50) * falling
        longest = min(_LINES, int(2 + (_LINES - 2) * min(1.0, done / 0.25)))
        lines = int(torch.randint(1, longest + 1, (2,), generator=gen).max())
        num = min(96, _TOKENS_A_BATCH // (BLOCK * lines))
        prompt, written = problems(num, lines, gen)
        tokens = torch.cat([prompt, written[:, :-1]], dim=1)
        context = FullContext(*tokens.shape)
        hidden = model(tokens.flatten(), context.positions(), context)
        hidden = hidden.view(*tokens.shape, -1)[:, prompt.shape[1] - 1 :]
        losses = cross_entropy(
            model.logits(hidden.flatten(0, 1)), written.flatten(), reduction="none"
        ).view_as(written)
        loss = (losses.sum() + 2 * losses[:, -1].sum()) / (num * (BLOCK * lines + 2))
        adam.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
    return model.eval()


def shape_of(model: nn.Module) -> DecodeShape:
    """What a step of it costs."""
    width = float(_LAYERS * _HEADS * _HEAD)
    params = float(parameter_count(model))
    return DecodeShape(
        name="tiny", params=params, total_params=params, kv_width=width, query_width=width
    )


@torch.inference_mode()
def generations(model: Qwen2, setting: Setting, *, each: int, seed: int) -> Traces:
    """``each`` problems of every number of lines, written without sampling; one that does not
    answer is cut after as many tokens as the longest problem needs."""
    gen = torch.Generator().manual_seed(seed)
    blind = torch.Generator().manual_seed(seed + 1) if setting.blind else None
    prompts, lengths, right, cut = [], [], [], []
    for lines in range(1, _LINES + 1):
        tokens, written = problems(each, lines, gen)
        prompts += [tokens.shape[1]] * each
        context = BlockTopK(each, budget=setting.budget, block=BLOCK, blind=blind)
        ended = torch.full((each,), DIGITS + 1)
        wrong = torch.zeros(each, dtype=torch.bool)
        for step in range(1, DIGITS + 1):
            hidden = model(tokens.flatten(), context.begin(tokens.shape[1]), context)
            latest = hidden.view(*tokens.shape, -1)[:, -1]
            tokens = model.logits(latest).argmax(dim=-1, keepdim=True)
            going = ended > DIGITS
            expected = written[:, step - 1] if step <= written.shape[1] else torch.full((each,), -1)
            wrong |= going & (tokens[:, 0] != expected)
            ended[going & (tokens[:, 0] >= _ANSWER)] = step
            if (ended <= DIGITS).all():
                break
        lengths += ended.clamp(max=DIGITS).tolist()
        right += (~wrong & (ended <= DIGITS)).tolist()
        cut += (ended > DIGITS).tolist()
    return Traces(
        shape=shape_of(model),
        prompt_tokens=np.array(prompts, dtype=float),
        lengths=np.array(lengths, dtype=float)[:, None],
        right=np.array(right)[:, None],
        truncated=np.array(cut)[:, None],
        kv_budget=setting.budget,
        block=BLOCK if setting.budget else 0,
    )


@torch.inference_mode()
def dense_gap(model: Qwen2, *, budget: int, seed: int) -> float:
    """Largest difference of a score by block top-k from dense attention on the longest problems,
    as a share of the largest score."""
    gen = torch.Generator().manual_seed(seed)
    prompt, written = problems(8, _LINES, gen)
    tokens = torch.cat([prompt, written[:, :-1]], dim=1)
    full = FullContext(*tokens.shape)
    dense = model.logits(model(tokens.flatten(), full.positions(), full))
    context = BlockTopK(len(tokens), budget=budget, block=BLOCK)
    first = prompt.shape[1]
    parts = [tokens[:, :first], *tokens[:, first:].split(1, dim=1)]
    steps = [
        model(part.flatten(), context.begin(part.shape[1]), context).view(*part.shape, -1)
        for part in parts
    ]
    sparse = model.logits(torch.cat(steps, dim=1).flatten(0, 1))
    return float((sparse - dense).abs().max() / dense.abs().max())
