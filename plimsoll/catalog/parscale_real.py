"""Parallel streams trained from scratch at tiny size, against one stream.

The same tokens for all: one, two and four streams around one base; one stream with a prefix so
long that it has as many trained parameters as four streams add; and bases of other widths with
one stream, from whose losses one reads what size four streams are worth. Runs as in
``catalog/tiny_text.py``; the width of a layer's parts grows as the hidden size.
"""

import functools
from dataclasses import dataclass

import numpy as np
import torch

from plimsoll.catalog.tiny_text import LENGTH, VOCAB, init_small, qwen_config, train_text
from plimsoll.models.decoder_stack import parameter_count
from plimsoll.models.llama import Qwen2
from plimsoll.models.parscale import FullStreams, ParScaleLM

__all__ = ["StreamRun", "stream_runs", "worth"]

_WIDTH = 48
_LADDER = (32, 64)
_PREFIX = 4
_TOKENS = 400_000
_BATCH_TOKENS = 1024
_LR = 6e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRun:
    """``params`` without embeddings and ``loss`` (nats a byte of held-out text) of one run.
    ``kind``: "streams", "matched" or "ladder"."""

    kind: str
    streams: int
    params: int
    loss: float


@functools.cache
def stream_runs(seed: int) -> tuple[StreamRun, ...]:
    """All runs of a seed: the same start of equal bases and the same batches."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        plain = ParScaleLM(Qwen2(qwen_config(_WIDTH)), 1)
        four = ParScaleLM(Qwen2(qwen_config(_WIDTH)), 4, prefix=_PREFIX)
        added = parameter_count(four) - parameter_count(plain)
        a_token = 2 * sum(s.num_heads * s.key_dim for s in plain.base.kv_shapes.values())
        longer = round(added / a_token)
        return (
            *(_run("streams", _WIDTH, p, _PREFIX if p > 1 else 0, seed) for p in (1, 2, 4)),
            _run("matched", _WIDTH, 1, longer, seed),
            *(_run("ladder", width, 1, 0, seed) for width in _LADDER),
        )
    finally:
        torch.set_num_threads(threads)


def _run(kind: str, width: int, streams: int, prefix: int, seed: int) -> StreamRun:
    gen = torch.Generator().manual_seed(seed)
    base = Qwen2(qwen_config(width))
    init_small(base, gen)
    model = ParScaleLM(base, streams, prefix=prefix)
    with torch.no_grad():
        for part in model.prefixes.values():
            part.normal_(0, 1.0, generator=gen)  # as large as keys and values are at this width
    if model.weigh is not None:
        init_small(model.weigh, gen)

    def logits(given: torch.Tensor) -> torch.Tensor:
        context = FullStreams(model, len(given), LENGTH)
        hidden = model(given.flatten(), context.positions(), context)
        return model.logits(hidden).view(len(given), LENGTH, -1)

    loss = train_text(model, logits, lr=_LR, batch_tokens=_BATCH_TOKENS, tokens=_TOKENS, seed=seed)
    params = parameter_count(model) - VOCAB * width
    return StreamRun(kind=kind, streams=streams, params=params, loss=loss)


def worth(runs: tuple[StreamRun, ...]) -> float:
    """Times the base's parameters at which one stream has the loss of four, along the ladder."""
    one, four = (next(r for r in runs if r.kind == "streams" and r.streams == p) for p in (1, 4))
    steps = sorted([one, *(r for r in runs if r.kind == "ladder")], key=lambda r: -r.loss)
    logs = np.log([r.params for r in steps])
    at = float(np.interp(-four.loss, [-r.loss for r in steps], logs))
    return float(np.exp(at) / one.params)
