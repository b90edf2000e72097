"""Tiny language models on the documentation of Python, a byte a token: one training run.

AdamW without weight decay, warm-up over a tenth of the steps, cosine down to a fixed 1e-5. The
loss reported is that of one fixed held-out text after the last step, which all runs share: runs of
a hundred steps have too few tokens for a smoothed training loss to tell a quarter of a percent.
"""

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from plimsoll.evals.tinylm_corpus import read_corpus

__all__ = [
    "LENGTH",
    "VOCAB",
    "Logits",
    "held_out",
    "init_small",
    "qwen_config",
    "text",
    "train_text",
]

VOCAB = 128
LENGTH = 32
_TEXT_BYTES = 4_000_000
_HELD_OUT = 65_536
_FINAL_LR = 1e-5

Logits = Callable[[Tensor], Tensor]
"""[B, L] tokens to [B, L, V] scores of the next."""


def qwen_config(hidden: int, layers: int = 2, ffn: int | None = None) -> dict[str, object]:
    """A Qwen2 of this width with a tied head."""
    return {
        "vocab_size": VOCAB,
        "hidden_size": hidden,
        "intermediate_size": ffn or 3 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": LENGTH,
        "tie_word_embeddings": True,
    }


@functools.cache
def text() -> tuple[Tensor, Tensor]:
    """(text to learn from, held-out windows [n, L + 1])."""
    raw = "\n".join(read_corpus().documents).encode("ascii")[:_TEXT_BYTES]
    data = torch.from_numpy(np.frombuffer(raw, dtype=np.uint8).astype(np.int64))
    span = LENGTH + 1
    count = _HELD_OUT // LENGTH
    return data[: -count * span], data[-count * span :].view(count, span)


def init_small(model: nn.Module, gen: torch.Generator) -> None:
    """Matrices normal with the root of one over their width, embeddings with 0.02."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(0, module.in_features**-0.5, generator=gen)
            elif isinstance(module, nn.Embedding):
                module.weight.normal_(0, 0.02, generator=gen)


def train_text(
    model: nn.Module, logits: Logits, *, lr: float, batch_tokens: int, tokens: int, seed: int
) -> float:
    """Held-out loss (nats a token) after ``tokens`` in batches of ``batch_tokens``."""
    data, _ = text()
    gen = torch.Generator().manual_seed(seed)
    batch = batch_tokens // LENGTH
    steps = max(1, tokens // batch_tokens)
    warm = max(1, steps // 10)
    adam = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.0)
    offsets = torch.arange(LENGTH + 1)
    for step in range(steps):
        share = (step - warm) / max(1, steps - warm)
        down = _FINAL_LR + 0.5 * (lr - _FINAL_LR) * (1 + np.cos(np.pi * share))
        adam.param_groups[0]["lr"] = lr * (step + 1) / warm if step < warm else down
        first = torch.randint(0, len(data) - LENGTH - 1, (batch, 1), generator=gen)
        window = data[first + offsets]
        loss = cross_entropy(logits(window[:, :-1]).flatten(0, 1), window[:, 1:].flatten())
        adam.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
    return held_out(logits)


@torch.no_grad()
def held_out(logits: Logits) -> float:
    """Mean loss of the held-out text, nats a token."""
    _, windows = text()
    losses = [
        cross_entropy(logits(part[:, :-1]).flatten(0, 1), part[:, 1:].flatten(), reduction="sum")
        for part in windows.split(256)
    ]
    return float(torch.stack(losses).sum()) / (len(windows) * LENGTH)
