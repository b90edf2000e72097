"""A real sweep of tiny models: two sizes, two token counts, five learning rates, four batches.

Grids stand around values that suit models of this size, the same for all cells, so that the sweep
knows nothing of a law. See ``catalog/tiny_text.py`` for the runs.
"""

import functools

import numpy as np
import torch

from plimsoll.catalog.tiny_text import LENGTH, init_small, qwen_config, train_text
from plimsoll.laws.table import LossTable
from plimsoll.models.context import FullContext
from plimsoll.models.decoder_stack import parameter_count
from plimsoll.models.llama import Qwen2

__all__ = ["tiny_sweep"]

_WIDTHS = (32, 64)
_TOKENS = (100_000, 300_000)
_RATES = tuple(float(r) for r in 2e-3 * 2.0 ** np.arange(5))
_BATCHES = (256, 512, 1024, 2048)


@functools.cache
def tiny_sweep(seed: int = 0) -> LossTable:
    """80 runs, each from the same start and with batches of the same seed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = [
            _run(width, tokens, lr, batch, seed)
            for width in _WIDTHS
            for tokens in _TOKENS
            for lr in _RATES
            for batch in _BATCHES
        ]
    finally:
        torch.set_num_threads(threads)
    n, d, lr, batch, loss = np.array(rows).T
    columns = {"params": n, "tokens": d, "lr": lr, "batch": batch}
    return LossTable(name=f"tiny sweep {seed}", columns=columns, loss=loss)


def _run(width: int, tokens: int, lr: float, batch: int, seed: int) -> tuple[float, ...]:
    model = Qwen2(qwen_config(width))
    init_small(model, torch.Generator().manual_seed(seed))

    def logits(given: torch.Tensor) -> torch.Tensor:
        context = FullContext(len(given), LENGTH)
        hidden = model(given.flatten(), context.positions(), context)
        return model.logits(hidden).view(len(given), LENGTH, -1)

    loss = train_text(model, logits, lr=lr, batch_tokens=batch, tokens=tokens, seed=seed)
    params = parameter_count(model) - model.embed_tokens.weight.numel()
    return float(params), float(tokens), lr, float(batch), loss
