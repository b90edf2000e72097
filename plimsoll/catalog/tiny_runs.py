"""Training runs of tiny models for scaling-law tables: size, tokens, rate, batch, seed.

Two pre-norm blocks, 12 h^2 parameters each, as wide as they are told, with learned positions and a
tied head, learn the documentation of Python a byte a token. N counts the blocks alone.
No window of the text is seen twice, and the order of windows depends on the seed alone, so that
runs of one seed see the same text whatever their batch. AdamW without weight decay, warm-up over
a tenth of the steps, cosine down to a fixed 1e-5. Runs of one shape are trained side by side, in
one batched multiply; none sees the others. Equal numbers are promised on one machine with one
version of torch; elsewhere rounding grows over the steps.
Leaves out: text seen more than once, other depths, longer contexts.
Source: arXiv 2503.04715 for the schedule.

Legend: K runs, B windows, L their length, C width, H heads, D width of a head, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import (
    cross_entropy,
    embedding,
    gelu,
    layer_norm,
    scaled_dot_product_attention,
)

from plimsoll.catalog.tiny_text import LENGTH, VOCAB, text
from plimsoll.evals.tinylm_train import pinned

__all__ = ["MOST_TOKENS", "TinyResult", "TinyRun", "run_tiny", "size_of"]

MOST_TOKENS = 2**20
"""Of one run; the text has 1.7 times as many."""
_LAYERS = 2
_HEADS = 4
_FINAL_LR = 1e-5
_LAST = 8
_JUDGED = 256


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class TinyRun:
    """What is trained: width, tokens in all, tokens a batch, seed, peak learning rate."""

    hidden: int
    tokens: int
    batch: int
    seed: int
    lr: float

    @property
    def steps(self) -> int:
        """Optimizer steps, the last with what is left."""
        return -(-self.tokens // self.batch)

    @property
    def shape(self) -> tuple[int, int, int]:
        """What runs that are trained side by side have in common."""
        return self.hidden, self.tokens, self.batch


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyResult:
    """Nats a byte: ``loss`` of the held-out text after the last step, ``smooth_loss`` the mean
    over the last eighth of training."""

    loss: float
    smooth_loss: float


def size_of(hidden: int) -> int:
    """Parameters without embeddings of a model of that width."""
    return _LAYERS * 12 * hidden**2


def run_tiny(runs: Sequence[TinyRun]) -> list[TinyResult]:
    """Train runs of one shape, on one thread."""
    hidden, tokens, batch = runs[0].shape
    assert all(run.shape == runs[0].shape for run in runs)
    assert tokens <= MOST_TOKENS and tokens % LENGTH == batch % LENGTH == 0
    with pinned(1):
        return _train(runs, hidden, tokens // LENGTH, batch // LENGTH)


def _train(runs: Sequence[TinyRun], hidden: int, count: int, batch: int) -> list[TinyResult]:
    gens = [torch.Generator().manual_seed(run.seed) for run in runs]
    weights = [_initial(hidden, gen).requires_grad_() for gen in gens]
    learned, held_out = text()
    order_KB = torch.stack([_order(len(learned), gen)[:count] for gen in gens])
    span = torch.arange(LENGTH + 1)
    adam = torch.optim.AdamW(
        [{"params": [w], "lr": run.lr} for w, run in zip(weights, runs, strict=True)],
        betas=(0.9, 0.95),
        weight_decay=0.0,
        fused=True,
    )
    steps, losses = runs[0].steps, []
    for step, some_KB in enumerate(order_KB.split(batch, dim=1)):
        for group, run in zip(adam.param_groups, runs, strict=True):
            group["lr"] = _rate(step, steps, run.lr)
        loss_K = _losses(weights, hidden, learned[some_KB[..., None] * (LENGTH + 1) + span])
        adam.zero_grad()
        torch.autograd.backward(loss_K.sum())
        for w in weights:
            torch.nn.utils.clip_grad_norm_(w, 1.0)
        adam.step()
        losses.append(loss_K.detach())
    last = torch.stack(losses[-max(1, steps // _LAST) :]).mean(0)
    with torch.no_grad():
        judged = [
            _losses(weights, hidden, part.expand(len(runs), -1, -1)) * len(part)
            for part in held_out.split(_JUDGED)
        ]
    final = torch.stack(judged).sum(0) / len(held_out)
    return [
        TinyResult(loss=loss, smooth_loss=smooth)
        for loss, smooth in zip(final.tolist(), last.tolist(), strict=True)
    ]


def _rate(step: int, steps: int, peak: float) -> float:
    warm = max(1, steps // 10)
    if step < warm:
        return peak * (step + 1) / warm
    share = (step - warm) / max(1, steps - warm)
    return float(_FINAL_LR + 0.5 * (peak - _FINAL_LR) * (1 + np.cos(np.pi * share)))


def _order(length: int, gen: torch.Generator) -> Tensor:
    """All windows of the text that do not overlap, by number, shuffled."""
    return torch.randperm(length // (LENGTH + 1), generator=gen)


def _shapes(c: int) -> list[tuple[int, int]]:
    block = [(3 * c, c), (c, c), (4 * c, c), (c, 4 * c)]
    return [(VOCAB, c), (LENGTH, c), *(block * _LAYERS)]


def _initial(hidden: int, gen: torch.Generator) -> Tensor:
    """[P] all weights of a run: embeddings 0.02, matrices the root of one over their width."""
    parts = []
    for index, (rows, columns) in enumerate(_shapes(hidden)):
        scale = 0.02 if index < 2 else columns**-0.5
        parts.append(torch.empty(rows * columns).normal_(0, scale, generator=gen))
    return torch.cat(parts)


def _losses(weights: Sequence[Tensor], c: int, windows_KBL: Tensor) -> Tensor:
    """[K] mean nats of the next token of windows [K, B, L + 1]."""
    shapes = _shapes(c)
    flat = torch.stack(list(weights)).split([rows * columns for rows, columns in shapes], dim=1)
    tokens, places, *blocks = (
        part.unflatten(1, shape) for part, shape in zip(flat, shapes, strict=True)
    )
    num_runs, batch, length = windows_KBL.shape
    length -= 1
    rows_KBL = windows_KBL[..., :-1] + VOCAB * torch.arange(num_runs)[:, None, None]
    x = embedding(rows_KBL, tokens.flatten(0, 1)) + places[:, None]
    x = x.flatten(1, 2)  # [K, B * L, C] from here on
    for qkv, out, up, down in zip(*[iter(blocks)] * 4, strict=True):
        parts = (layer_norm(x, (c,)) @ qkv.mT).view(num_runs * batch, length, 3, _HEADS, -1)
        q_BHLD, k_BHLD, v_BHLD = parts.permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(q_BHLD, k_BHLD, v_BHLD, is_causal=True)
        x = x + mixed.transpose(1, 2).reshape(num_runs, batch * length, c) @ out.mT
        x = x + gelu(layer_norm(x, (c,)) @ up.mT) @ down.mT
    scores = layer_norm(x, (c,)) @ tokens.mT
    each = cross_entropy(scores.flatten(0, 1), windows_KBL[..., 1:].flatten(), reduction="none")
    return each.view(num_runs, -1).mean(1)
