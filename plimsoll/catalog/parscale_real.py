"""Parallel streams trained from scratch at tiny size, against one stream.

The same tokens for all: one, two and four streams around one base; one stream with a prefix so
long that it has as many trained parameters as four streams add; and bases of other widths with
one stream, from whose losses one reads what size four streams are worth. Runs as in
``catalog/tiny_text.py``; the width of a layer's parts grows as the hidden size. All runs of all
seeds take minutes and are stored by ``scripts/parscale_runs.py``; a check trains some again.
"""

import csv
import functools
import importlib.resources
from dataclasses import dataclass

import numpy as np
import torch

from plimsoll.catalog.tiny_text import LENGTH, VOCAB, init_small, qwen_config, train_text
from plimsoll.models.decoder_stack import parameter_count
from plimsoll.models.llama import Qwen2
from plimsoll.models.parscale import FullStreams, ParScaleLM
from plimsoll.spec.errors import SpecError

__all__ = [
    "SETTING",
    "StreamCell",
    "StreamRun",
    "cells",
    "stored_runs",
    "train_cell",
    "worth",
]

_WIDTH = 48
_LADDER = (32, 64)
_PREFIX = 4
_TOKENS = 400_000
_BATCH_TOKENS = 1024
_LR = 6e-3
_TABLE = "parscale_tiny.csv"
SETTING = (
    f"{_TOKENS:,} tokens of Python's documentation, a byte each, batches of {_BATCH_TOKENS:,}, "
    f"learning rate {_LR:g}; base of 2 layers {_WIDTH} wide, prefixes of {_PREFIX} tokens"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamCell:
    """One model to train. ``kind``: "streams", "matched" or "ladder"."""

    kind: str
    width: int
    streams: int
    prefix: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRun:
    """``params`` without embeddings and ``loss`` (nats a byte of held-out text) of one run."""

    cell: StreamCell
    params: int
    loss: float

    @property
    def name(self) -> str:
        """Kind and number of streams."""
        return f"{self.cell.kind} {self.cell.streams}"


@functools.cache
def cells() -> tuple[StreamCell, ...]:
    """The models of a seed, streams first."""
    plain = ParScaleLM(Qwen2(qwen_config(_WIDTH)), 1)
    four = ParScaleLM(Qwen2(qwen_config(_WIDTH)), 4, prefix=_PREFIX)
    added = parameter_count(four) - parameter_count(plain)
    a_token = 2 * sum(s.num_heads * s.key_dim for s in plain.base.kv_shapes.values())

    def cell(kind: str, width: int, streams: int, prefix: int) -> StreamCell:
        return StreamCell(kind=kind, width=width, streams=streams, prefix=prefix)

    return (
        *(cell("streams", _WIDTH, p, _PREFIX if p > 1 else 0) for p in (1, 2, 4)),
        cell("matched", _WIDTH, 1, round(added / a_token)),
        *(cell("ladder", width, 1, 0) for width in _LADDER),
    )


def train_cell(cell: StreamCell, seed: int) -> StreamRun:
    """Train one model: equal starts of equal bases and the same batches for every cell of a
    seed, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)  # biases start from it
            return _run(cell, seed)
    finally:
        torch.set_num_threads(threads)


@functools.cache
def stored_runs() -> dict[int, tuple[StreamRun, ...]]:
    """By seed, what ``scripts/parscale_runs.py`` stored, in the order of ``cells``.

    Raises:
        SpecError: the table is of other models than those of ``cells``.
    """
    path = importlib.resources.files("plimsoll") / "library" / "laws" / _TABLE
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line[0] != "#"]
    found: dict[int, list[StreamRun]] = {}
    for row in csv.DictReader(lines):
        cell = StreamCell(
            kind=row["kind"],
            width=int(row["width"]),
            streams=int(row["streams"]),
            prefix=int(row["prefix"]),
        )
        run = StreamRun(cell=cell, params=int(row["params"]), loss=float(row["loss"]))
        found.setdefault(int(row["seed"]), []).append(run)
    for seed, runs in found.items():
        if tuple(run.cell for run in runs) != cells():
            raise SpecError(
                f"{path}: seed {seed} is of other models than are trained now; run "
                "python scripts/parscale_runs.py"
            )
    return {seed: tuple(runs) for seed, runs in found.items()}


def _run(cell: StreamCell, seed: int) -> StreamRun:
    gen = torch.Generator().manual_seed(seed)
    base = Qwen2(qwen_config(cell.width))
    init_small(base, gen)
    model = ParScaleLM(base, cell.streams, prefix=cell.prefix)
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
    return StreamRun(cell=cell, params=parameter_count(model) - VOCAB * cell.width, loss=loss)


def worth(runs: tuple[StreamRun, ...]) -> float:
    """Times the base's parameters at which one stream has the loss of four, along the ladder."""
    one, four = (next(r for r in runs if r.name == f"streams {p}") for p in (1, 4))
    steps = sorted([one, *(r for r in runs if r.cell.kind == "ladder")], key=lambda r: -r.loss)
    logs = np.log([r.params for r in steps])
    at = float(np.interp(-four.loss, [-r.loss for r in steps], logs))
    return float(np.exp(at) / one.params)
