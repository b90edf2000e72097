"""Two tensor parallel ranks of a small Llama over a slow link: layers overlapped and one by one.

Two processes, gloo between them. Every sum takes a stated time more on the link than gloo takes,
one after the other, during which a rank may compute; that time is set so that the link has a stated
share of the layers run one by one. Operators are timed alone, an overlap plan is searched for these
times, and both ways run in turns in the same processes.
Leaves out: embedding, head, drawing tokens.
"""

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, distributed, nn

from plimsoll.cost.overlap_layer import layer_dependencies
from plimsoll.cost.overlap_profile import PROPORTIONAL, Curves, Lane, OpProfile, SpeedCurve
from plimsoll.evals.real_runs import VOCABULARY, random_llama
from plimsoll.models.loading import load
from plimsoll.models.packed import pack_linears
from plimsoll.models.sharding import Shard
from plimsoll.serving.executors.torch.kv_store import KvStore
from plimsoll.serving.executors.torch.messages import Work
from plimsoll.serving.executors.torch.overlap_schedule import OPERATORS
from plimsoll.serving.executors.torch.overlapped_layers import (
    OverlappedLayers,
    Pending,
    asynchronous_sum,
)
from plimsoll.serving.executors.torch.paged_context import PagedContext
from plimsoll.spec.errors import ExecutionError
from plimsoll.spec.overlap import NanoPiece, OverlapPlan

__all__ = ["BATCH", "CURVES", "DEPENDENCIES", "LAYERS", "RankTimes", "SlowLink", "run_ranks"]

HIDDEN = 1024
LAYERS = 2
CHUNK, DECODES, CONTEXT = 320, 64, 64
BATCH = CHUNK + DECODES
_MEETING_S = 120.0
_BLOCK = 16
_PROFILES = 3

DEPENDENCIES = layer_dependencies(OPERATORS)
CURVES: Curves = {
    "compute": PROPORTIONAL,
    "network": SpeedCurve(lane="network", shares=(0.0, 1e-6, 1.0), speeds=(0.0, 1.0, 1.0)),
}
"""A sleeping link takes nothing of the processor."""

Search = Callable[[tuple[OpProfile, ...]], OverlapPlan]


@dataclass(frozen=True, slots=True, kw_only=True)
class RankTimes:
    """What both ranks found; a repeat counts as long as its slower rank took.

    ``link_fraction``: share of the time one by one that ranks waited for the link. ``error``:
    largest difference of either way's outputs from one process that runs all of the model.
    """

    sequential_s: tuple[float, ...]
    overlapped_s: tuple[float, ...]
    link_fraction: float
    error: float
    pieces: int

    @property
    def gain(self) -> float:
        """The median repeat's; both ways take turns, so that other work meets them alike."""
        return float(np.median(self.gains))

    @property
    def gains(self) -> tuple[float, ...]:
        """One by one over overlapped time, repeat by repeat."""
        return tuple(a / b for a, b in zip(self.sequential_s, self.overlapped_s, strict=True))


class SlowLink:
    """``reduce`` whose sums arrive late: a message of the whole batch occupies the link for
    ``message_s``, less in proportion, one after the other. ``blocking``: each is waited for where
    it starts."""

    def __init__(self, reduce: Callable[[Tensor], Pending]) -> None:
        self._reduce = reduce
        self.message_s = 0.0
        self.blocking = False
        self.waited_s = 0.0
        self._free_s = 0.0

    def __call__(self, tensor: Tensor) -> "_Late":
        """Start a sum."""
        taken_s = self.message_s * len(tensor) / BATCH
        self._free_s = max(time.monotonic(), self._free_s) + taken_s
        late = _Late(self, self._reduce(tensor), self._free_s)
        if self.blocking:
            late.wait()
        return late


@dataclass(slots=True)
class _Late:
    link: SlowLink
    pending: Pending
    there_s: float

    def wait(self) -> None:
        """Until gloo has the sum, and the link would have it."""
        started_s = time.monotonic()
        self.pending.wait()
        left_s = self.there_s - time.monotonic()
        if left_s > 0:
            time.sleep(left_s)
        self.link.waited_s += time.monotonic() - started_s


def run_ranks(
    search: Search, *, link_fraction: float = 0.3, repeats: int = 9, blocking: bool = False
) -> RankTimes:
    """Time both ways in turns. ``search`` finds a plan for the operators as measured; ``blocking``:
    the plan's pieces with every sum waited for where it starts.

    Raises:
        ExecutionError: a rank failed.
    """
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="plimsoll-") as place:
        folder = random_llama(Path(place) / "model", hidden=HIDDEN, layers=LAYERS)
        pipes, processes = [], []
        for rank in range(2):
            ours, theirs = context.Pipe()
            options = (rank, folder, str(Path(place) / "meeting"), theirs, repeats)
            process = context.Process(target=_rank, args=options, daemon=True)
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        try:
            measured = [_receive(pipe) for pipe in pipes]
            compute_s = float(np.mean([sum(row.values()) for row, _ in measured]))
            message_s = compute_s * link_fraction / (1 - link_fraction) / 2
            plan = search(_profiles(measured, message_s))
            for pipe in pipes:
                pipe.send((plan, message_s, blocking))
            found = [_receive(pipe) for pipe in pipes]
        finally:
            for pipe in pipes:
                pipe.close()
            for process in processes:
                process.join(timeout=10)
                if process.is_alive():
                    process.kill()
                    process.join()
    times_s = np.max([times for times, _, _ in found], axis=0)
    return RankTimes(
        sequential_s=tuple(times_s[0].tolist()),
        overlapped_s=tuple(times_s[1].tolist()),
        link_fraction=float(np.mean([fraction for _, fraction, _ in found])),
        error=max(error for _, _, error in found),
        pieces=len(plan.pieces),
    )


def _receive(pipe: Any) -> Any:
    if not pipe.poll(_MEETING_S):
        raise ExecutionError("a rank does not answer")
    try:
        return pipe.recv()
    except EOFError:
        raise ExecutionError("a rank has failed") from None


def _profiles(measured: list[Any], message_s: float) -> tuple[OpProfile, ...]:
    """Operators of one layer, the slower rank's times; pieces pay again what two halves took more
    than the whole."""
    found = []
    for name in OPERATORS:
        whole_s, half_s = (max(rows[way].get(name, 0.0) for rows in measured) for way in (0, 1))
        if name.startswith("reduce"):
            whole_s, half_s = whole_s + message_s, half_s + message_s / 2
        fixed_s = min(max(2 * half_s - whole_s, 0.0), whole_s)
        lane: Lane = "network" if name.startswith("reduce") else "compute"
        whole_s = max(whole_s, 1e-9)
        found.append(OpProfile(name=name, lane=lane, best_s=whole_s, fixed_s=min(fixed_s, whole_s)))
    return tuple(found)


def _rank(rank: int, folder: Path, meeting: str, pipe: Any, repeats: int) -> None:
    """The life of one rank: time operators, hear of the plan, time both ways."""
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=_MEETING_S),
    )
    link = SlowLink(asynchronous_sum(None))
    shard = Shard(tp_rank=rank, tp=2)
    with torch.inference_mode():
        half = _Part(folder, shard, link)
        link.blocking = True  # so that an operator's time is that of the whole sum
        pipe.send(tuple(half.operator_s(cuts) for cuts in (1, 2)))
        plan, link.message_s, blocking = pipe.recv()
        ways = (half.layers(_whole(1)), half.layers(plan))
        times_s: list[list[float]] = [[], []]
        waited_s = 0.0
        for repeat in range(repeats + 1):
            for way, layers in enumerate(ways):
                distributed.barrier()
                link.blocking, link.waited_s = blocking or way == 0, 0.0
                started_s = time.perf_counter()
                half.run(layers)
                if repeat:  # the first warms up
                    times_s[way].append(time.perf_counter() - started_s)
                    waited_s += link.waited_s * (way == 0)
        outputs = [half.run(layers) for layers in ways]
        expected = _Part(folder, Shard(), _here).run(None)
        error = max(float((out - expected).abs().max()) for out in outputs)
    pipe.send((times_s, waited_s / sum(times_s[0]), error))
    distributed.destroy_process_group()


class _Here:
    """The sum over one rank."""

    def wait(self) -> None:
        """It is there."""


def _here(tensor: Tensor) -> Pending:
    return _Here()


def _whole(parts: int) -> OverlapPlan:
    """Every operator in equal parts, one by one."""
    edges = [BATCH * i // parts for i in range(parts + 1)]
    pieces = [
        NanoPiece(operator=name, first_token=first, end_token=end)
        for name in OPERATORS
        for first, end in zip(edges, edges[1:], strict=False)
    ]
    return OverlapPlan(
        batch_tokens=BATCH, layers=LAYERS, pieces=tuple(pieces), iteration_s=1.0, sequential_s=1.0
    )


class _Part:
    """A rank's part of the model, a dense batch of one prompt chunk and decodes, its KV."""

    def __init__(self, folder: Path, shard: Shard, reduce: Callable[[Tensor], Pending]) -> None:
        device = torch.device("cpu")
        self._model = load(folder, dtype=torch.float32, device=device, shard=shard)
        pack_linears(cast(nn.Module, self._model))
        self._reduce = reduce
        pages = (CONTEXT + 1 + _BLOCK - 1) // _BLOCK
        first = CHUNK // _BLOCK
        decodes = [
            Work(1 + i, [0], CONTEXT, list(range(first + i * pages, first + (i + 1) * pages)), 0)
            for i in range(DECODES)
        ]
        self._work = [Work(0, [0] * CHUNK, 0, list(range(first)), 0), *decodes]
        self._store = KvStore(
            self._model.kv_shapes,
            num_blocks=first + DECODES * pages,
            block_tokens=_BLOCK,
            dtype=torch.float32,
            device=device,
        )
        generator = torch.Generator().manual_seed(1)
        for tensor in (*self._store.keys.values(), *self._store.values.values()):
            assert tensor is not None
            heads = tensor.shape[1]
            drawn = torch.randn(
                len(tensor), heads * shard.tp, *tensor.shape[2:], generator=generator
            )
            tensor.copy_(drawn[:, shard.tp_rank * heads : (shard.tp_rank + 1) * heads])
        self._positions = torch.cat(
            [torch.arange(w.start, w.start + len(w.tokens)) for w in self._work]
        )
        tokens = torch.randint(0, VOCABULARY, (BATCH,), generator=generator)
        whole = load(folder, dtype=torch.float32, device=device)
        self._hidden_TC = whole.embed(tokens)

    def layers(self, plan: OverlapPlan, **more: Any) -> OverlappedLayers:
        """The layers as a plan runs them."""
        return OverlappedLayers(list(self._model.layers), plan, self._reduce, **more)

    def run(self, layers: OverlappedLayers | None) -> Tensor:
        """[T, C] behind the last layer; without ``layers`` as the model itself runs them."""
        if layers is not None:
            return layers(self._hidden_TC, self._positions, self._store, self._work)
        hidden_TC, context = self._hidden_TC, PagedContext(self._store, self._work)
        for layer in self._model.layers:
            hidden_TC = layer(hidden_TC, self._positions, context)
        return cast(Tensor, hidden_TC)

    def operator_s(self, parts: int) -> dict[str, float]:
        """Seconds of each operator in one layer, of ``parts`` equal parts; the middle one of a
        few passes."""
        passes: list[dict[str, list[float]]] = []

        def watch(operator: str, tokens: int, spent_s: float) -> None:
            passes[-1].setdefault(operator, []).append(spent_s)

        layers = self.layers(_whole(parts), watch=watch)
        for _ in range(_PROFILES):
            distributed.barrier()
            passes.append({})
            self.run(layers)
        sums = {name: [sum(row[name]) for row in passes] for name in passes[0]}
        return {name: float(np.median(every)) / LAYERS / parts for name, every in sums.items()}
