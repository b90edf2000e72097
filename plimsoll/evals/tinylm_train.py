"""Training of the small language model: 400 steps on a CPU, the same weights every time.

A Llama of 8 layers, 96 wide, learns a stream of tokens cut into windows of 128; every window is
seen once an epoch, in an order drawn from the seed. Muon moves the matrices of the layers, AdamW
the embedding and the gains; the rate warms up over 30 steps and falls to zero over the last 40 %.
The sequence length offered to users (2,048) is longer than any the model has learned from; what it
says beyond position 128 rests on rotary positions alone. Equal weights are promised for the same
machine and the same number of threads. Left out: dropout, mixed precision, checkpoints on the way.
Source: arXiv:2302.13971 (layout), arXiv:1608.05859 (tied embedding); the optimizer: ``muon``.

Legend: T tokens of a batch, B sequences, N windows.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from plimsoll.evals.muon import Muon
from plimsoll.models.context import Decoder, FullContext
from plimsoll.models.loading import build

__all__ = [
    "LENGTH_TOKENS",
    "MAX_POSITIONS",
    "NUM_HELDOUT",
    "Progress",
    "config_of",
    "heldout_loss",
    "pinned",
    "split",
    "train",
]

LENGTH_TOKENS = 128
MAX_POSITIONS = 2048
NUM_HELDOUT = 160
_BATCH = 16
_WARM_UP_STEPS = 30
_DECAY_FRACTION = 0.4
_MATRIX_RATE = 0.02
_OTHER_RATE = 3e-3

Progress = Callable[[int, int, float], None]
"""Told (steps done, steps in all, loss of the latest)."""


def config_of(vocab_size: int, end_id: int) -> dict[str, object]:
    """The model as a Hugging Face ``config.json``."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab_size,
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 24,
        "hidden_act": "silu",
        "max_position_embeddings": MAX_POSITIONS,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": end_id,
        "eos_token_id": end_id,
        "torch_dtype": "float32",
    }


@contextmanager
def pinned(threads: int) -> Iterator[None]:
    """Deterministic arithmetic on a fixed number of threads; both are restored."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])


def split(stream: np.ndarray) -> tuple[Tensor, Tensor]:
    """Windows [N, 129] to learn from, one token shared by neighbors; the held-out last 160."""
    span = LENGTH_TOKENS + 1
    cut = len(stream) - NUM_HELDOUT * span
    num_windows = (cut - 1) // LENGTH_TOKENS
    if num_windows < 1:
        raise ValueError(f"{len(stream)} tokens leave nothing to learn from")
    tokens = torch.from_numpy(stream)
    learned = tokens[: num_windows * LENGTH_TOKENS + 1].unfold(0, span, LENGTH_TOKENS)
    return learned, tokens[cut:].view(NUM_HELDOUT, span)


def train(
    config: dict[str, object],
    windows: Tensor,
    *,
    seed: int,
    steps: int,
    progress: Progress | None = None,
) -> Decoder:
    """A model of ``config`` after ``steps`` batches of 16 windows."""
    generator = torch.Generator().manual_seed(seed)
    model = build(config, dtype=torch.float32, device="cpu")
    matrices, others = _initialized(model, generator)
    muon = Muon(matrices)
    adamw = torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0)
    batches = _batches(windows, generator)
    for step in range(steps):
        rate = _rate(step, steps)
        muon.lr = _MATRIX_RATE * rate
        adamw.param_groups[0]["lr"] = _OTHER_RATE * rate
        loss = _losses(model, next(batches)).mean()
        adamw.zero_grad()
        for parameter in matrices:
            parameter.grad = None
        loss.backward()
        muon.step()
        adamw.step()
        if progress is not None:
            progress(step + 1, steps, loss.item())
    return model


def _initialized(
    model: Decoder, generator: torch.Generator
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Draw the weights; the matrices of the layers and the rest, each in the order of the file.

    A matrix that writes to the residual stream starts at zero, so every layer starts as nothing.
    """
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            nn.init.ones_(parameter)
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            nn.init.zeros_(parameter)
        else:
            deviation = 0.02 if "embed" in name else parameter.shape[1] ** -0.5
            nn.init.normal_(parameter, std=deviation, generator=generator)
        parameter.requires_grad_(True)
        is_matrix = parameter.ndim == 2 and "embed" not in name
        (matrices if is_matrix else others).append(parameter)
    return matrices, others


def _batches(windows: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
    """[16, 129] tokens without end; every window once an epoch."""
    while True:
        order = torch.randperm(len(windows), generator=generator)
        if len(order) < _BATCH:
            order = order.repeat(math.ceil(_BATCH / len(order)))
        for first in range(0, len(order) - _BATCH + 1, _BATCH):
            yield windows[order[first : first + _BATCH]]


def _rate(step: int, steps: int) -> float:
    """The share of the full rate: up over the warm-up, flat, down over the last 40 %."""
    warm = (step + 1) / min(_WARM_UP_STEPS, steps)
    left = (steps - step) / max(1.0, _DECAY_FRACTION * steps)
    return min(1.0, warm, left)


def _losses(model: Decoder, tokens: Tensor) -> Tensor:
    """[B * 128] nats of each next token of [B, 129]."""
    batch = len(tokens)
    context = FullContext(batch, LENGTH_TOKENS)
    hidden_TC = model(tokens[:, :-1].flatten(), context.positions(), context)
    return functional.cross_entropy(
        model.logits(hidden_TC), tokens[:, 1:].flatten(), reduction="none"
    )


@torch.no_grad()
def heldout_loss(model: Decoder, windows: Tensor) -> float:
    """Mean nats a token over windows of 129."""
    return float(torch.cat([_losses(model, part) for part in windows.split(_BATCH)]).mean())
