"""One replica over several processes: tensor and pipeline parallel ranks that work as one worker.

Every rank gets every message and keeps its own part of weights and KV; ranks of a stage add up
their parts, a stage hands hidden states to the next. Tokens are drawn on the first rank of the
last stage, which alone answers steps. Stages work on different slots at the same time, since
messages are handled in order and sends do not wait. A rank that dies takes the others with it.
Left out: experts on different ranks, KV hand-over between groups cut differently.
Source: torch.distributed; gloo on CPUs, NCCL on GPUs.
"""

import multiprocessing
import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from plimsoll.models.context import Context
from plimsoll.models.dimensions import read_dimensions
from plimsoll.models.loading import text_config
from plimsoll.models.sharding import Shard, connect
from plimsoll.serving.executors.torch.messages import (
    Effect,
    Embedded,
    Exported,
    Failed,
    Import,
    Ready,
    StepDone,
    Work,
)
from plimsoll.serving.executors.torch.overlapped_layers import OverlappedLayers, asynchronous_sum
from plimsoll.serving.executors.torch.paged_context import PagedContext
from plimsoll.serving.executors.torch.runner import Runner
from plimsoll.serving.executors.torch.worker import WorkerSetup, make_runner, work_through
from plimsoll.spec.errors import ExecutionError

__all__ = ["GroupWorker", "RankRunner"]

_MEETING_S = 300.0
_CLOSING_S = 5.0


class RankRunner(Runner):
    """The runner of one rank. ``draws``: it has the scores and answers."""

    shard = Shard()
    hidden_size = 0
    overlapped: OverlappedLayers | None = None
    """The layers as an overlap plan runs them; None: one by one."""
    _sent: Any = None
    _work: Sequence[Work] = ()

    @property
    def draws(self) -> bool:
        """Whether this rank draws tokens."""
        return self.shard.is_last and self.shard.tp_rank == 0

    def _apply_all(self, effects: Sequence[Effect]) -> dict[int, str]:
        """See ``Runner``; what fails on one rank would leave the others in another state."""
        for effect in effects:
            self._apply(effect)
        return {}

    def _logits(self, work: Sequence[Work]) -> Tensor | None:
        self._work = work
        logits = super()._logits(work)
        return logits if self.draws else None

    def _forward(self, tokens_T: Tensor, positions_T: Tensor, context: Context) -> Tensor | None:
        """See ``Runner``: this stage's layers."""
        shard, model = self.shard, self.model
        rank = distributed.get_rank()
        if shard.is_first:
            hidden_TC = model.embed(tokens_T)
        else:
            size = (len(tokens_T), self.hidden_size)
            hidden_TC = torch.empty(size, dtype=self.store.dtype, device=self.store.device)
            distributed.recv(hidden_TC, rank - shard.tp)
        if self.overlapped is not None and isinstance(context, PagedContext):
            return model.finish(self.overlapped(hidden_TC, positions_T, self.store, self._work))
        for index in model.kv_shapes:
            hidden_TC = model.layers[index](hidden_TC, positions_T, context)
        if shard.is_last:
            return model.finish(hidden_TC)
        if self._sent is not None:
            self._sent[0].wait()
        hidden_TC = hidden_TC.contiguous()
        self._sent = distributed.isend(hidden_TC, rank + shard.tp), hidden_TC
        return None


class GroupWorker:
    """``tp * pp`` processes behind the interface of one worker."""

    def __init__(
        self, setups: Sequence[WorkerSetup], tp: int, pp: int, answer: Callable[[Any], None]
    ) -> None:
        """``setups``: one a rank, stage by stage."""
        context = multiprocessing.get_context("spawn")
        self._answer = answer
        self._closed = False
        self._lock = threading.Lock()
        self._ready: list[int] = []
        self._exported: dict[Any, dict[int, Any]] = {}
        self._place = tempfile.TemporaryDirectory(prefix="plimsoll-ranks-")
        meeting = str(Path(self._place.name) / "meeting")
        self._pipes: list[Connection] = []
        self.processes = []
        for rank, setup in enumerate(setups):
            shard = Shard(tp_rank=rank % tp, tp=tp, stage=rank // tp, num_stages=pp)
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_main, args=(setup, shard, meeting, theirs), daemon=True
            )
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self.processes.append(process)
        self._threads = [
            threading.Thread(target=self._listen, args=(rank,), name=f"rank {rank}", daemon=True)
            for rank in range(len(setups))
        ]
        for thread in self._threads:
            thread.start()

    def send(self, message: Any) -> None:
        """Send a message to every rank; each gets its own part of another worker's KV."""
        for rank, pipe in enumerate(self._pipes):
            own = message
            if isinstance(message, Import):
                own = replace(message, payload=message.payload[rank])
            try:
                pipe.send(own)
            except (OSError, ValueError):
                return

    def close(self) -> None:
        """End the processes."""
        with self._lock:
            self._closed = True
        self.send(None)
        for process in self.processes:
            process.join(timeout=_CLOSING_S)
        self._kill()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout=_CLOSING_S)
        for pipe in self._pipes:
            pipe.close()
        self._place.cleanup()

    def _kill(self) -> None:
        for process in self.processes:
            if process.is_alive():
                process.kill()
        for process in self.processes:
            process.join(timeout=_CLOSING_S)

    def _listen(self, rank: int) -> None:
        while True:
            try:
                message = self._pipes[rank].recv()
            except (EOFError, OSError):
                self.processes[rank].join(timeout=_CLOSING_S)
                why = f"rank {rank} ended with code {self.processes[rank].exitcode}"
                break
            if isinstance(message, Failed):
                why = message.why
                break
            self._hear(rank, message)
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._kill()
        self._answer(Failed(why))

    def _hear(self, rank: int, message: Any) -> None:
        if isinstance(message, Ready):
            with self._lock:
                self._ready.append(message.process)
                if len(self._ready) < len(self.processes):
                    return
            self._answer(Ready(self._ready[0]))
        elif isinstance(message, Exported):
            with self._lock:
                parts = self._exported.setdefault(message.tag, {})
                parts[rank] = message.payload
                if len(parts) < len(self.processes):
                    return
                del self._exported[message.tag]
            self._answer(Exported(message.tag, [parts[i] for i in range(len(parts))]))
        else:
            self._answer(message)


def _main(setup: WorkerSetup, shard: Shard, meeting: str, pipe: Connection) -> None:
    work_through(pipe, setup, lambda s: _join(s, shard, meeting), _own)


def _own(runner: RankRunner, result: Any) -> Any:
    """Steps and embeddings are answered by the rank that draws; what fails here fails the group."""
    if runner.draws or not isinstance(result, StepDone | Embedded):
        return result
    if isinstance(result, Embedded) and isinstance(result.vector, str):
        raise ExecutionError(result.vector)
    return None


def _join(setup: WorkerSetup, shard: Shard, meeting: str) -> RankRunner:
    """Meet the other ranks, load this one's part."""
    on_cpu = setup.device == "cpu"
    if on_cpu:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    else:
        torch.cuda.set_device(setup.device)
    rank, world = shard.stage * shard.tp + shard.tp_rank, shard.tp * shard.num_stages
    distributed.init_process_group(
        "gloo" if on_cpu else "nccl",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=_MEETING_S),
    )
    groups = [
        distributed.new_group(list(range(s * shard.tp, (s + 1) * shard.tp)))
        for s in range(shard.num_stages)
    ]
    runner = make_runner(
        setup,
        shard=shard,
        prepare=lambda m: connect(m, shard, groups[shard.stage]),
        kind=RankRunner,
    )
    assert isinstance(runner, RankRunner)
    runner.shard = shard
    if setup.overlap is not None:
        layers = [runner.model.layers[index] for index in runner.model.kv_shapes]
        reduce = asynchronous_sum(groups[shard.stage])
        runner.overlapped = OverlappedLayers(layers, setup.overlap, reduce)
    runner.graphs = None
    runner.hidden_size = read_dimensions(text_config(runner.model.config)).hidden
    return runner
