"""Workers: a runner behind a queue, in a thread of this process or in a process of its own.

Messages are handled in the order they were sent. Answers, and the news that a worker is gone,
go to ``answer`` from another thread. A worker process ends when its pipe does, so none outlives
the engine; SIGINT is the engine's matter.
"""

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import nn

from plimsoll.models.context import Decoder
from plimsoll.models.loading import load
from plimsoll.models.packed import pack_linears
from plimsoll.models.sharding import Shard
from plimsoll.serving.executors.torch.kv_store import KvStore
from plimsoll.serving.executors.torch.messages import (
    Embed,
    Embedded,
    Export,
    Failed,
    Host,
    Import,
    Prepare,
    Ready,
    StepWork,
    Unhost,
)
from plimsoll.serving.executors.torch.peers import Meeting, Peers
from plimsoll.serving.executors.torch.runner import Runner
from plimsoll.serving.executors.torch.sampling.grammar import Grammars
from plimsoll.spec.errors import PlimsollError
from plimsoll.spec.overlap import OverlapPlan

__all__ = ["LocalWorker", "ProcessWorker", "WorkerSetup", "make_runner", "work_through"]

AnyRunner = TypeVar("AnyRunner", bound=Runner)

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSetup:
    """What a worker builds. ``dtype`` "" keeps the checkpoint's; ``tokenizer`` is the JSON text
    of a ``tokenizer.json``, "" if no request may ask for a schema; ``max_length`` the longest
    sequence that will be run, 0 for what the configuration says; ``copy_bytes_per_s`` slows the
    copies of a swap manager down, for tests; ``meeting`` where it meets the workers that it lends
    KV memory to and borrows it from."""

    folder: Path
    num_blocks: int
    block_tokens: int
    dtype: str = ""
    device: str = "cpu"
    max_length: int = 0
    num_threads: int = 0
    eos_ids: tuple[int, ...] = ()
    tokenizer: str = ""
    host_bytes: float = float("inf")
    disk_folder: Path | None = None
    copy_bytes_per_s: float = float("inf")
    meeting: Meeting | None = None
    overlap: OverlapPlan | None = None
    """How ranks of a group overlap their layers; None: operators one by one."""
    shared_attention: bool = False
    """Decodes read a prefix that they share once a step."""


def make_runner(
    setup: WorkerSetup,
    *,
    shard: Shard | None = None,
    prepare: Callable[[Decoder], None] = lambda model: None,
    kind: type[Runner] = Runner,
) -> Runner:
    """Load the model (a rank's part of it), let it be prepared, and take the memory."""
    from tokenizers import Tokenizer

    device = torch.device(setup.device)
    wanted = _DTYPES[setup.dtype] if setup.dtype else None
    model = load(
        setup.folder, dtype=wanted, device=device, max_length=setup.max_length, shard=shard
    )
    prepare(model)
    dtype = next(model.parameters()).dtype  # type: ignore[attr-defined]
    pack_linears(cast(nn.Module, model))
    store = KvStore(
        model.kv_shapes,
        num_blocks=setup.num_blocks,
        block_tokens=setup.block_tokens,
        dtype=dtype,
        device=device,
        host_bytes=setup.host_bytes,
        disk_folder=setup.disk_folder,
    )
    grammars = None
    if setup.tokenizer and setup.eos_ids:
        grammars = Grammars(Tokenizer.from_str(setup.tokenizer), setup.eos_ids)
    runner = kind(model, store, grammars=grammars, eos_ids=setup.eos_ids)
    runner.copy_bytes_per_s = setup.copy_bytes_per_s
    if setup.meeting is not None:
        runner.peers = Peers(setup.meeting, store)
    runner.shared_attention = setup.shared_attention
    if setup.shared_attention:
        runner.graphs = None
    return runner


def _handle(runner: Runner, message: Any) -> Any:
    """The answer to a message, None where there is none."""
    if isinstance(message, StepWork):
        return runner.step(message)
    if isinstance(message, Export):
        return runner.export(message)
    if isinstance(message, Import):
        return runner.take(message)
    if isinstance(message, Host):
        return runner.host(message)
    if isinstance(message, Unhost):
        return runner.unhost(message)
    if isinstance(message, Prepare):
        return runner.prepare(message)
    assert isinstance(message, Embed)
    try:
        return runner.embed(message)
    except (RuntimeError, PlimsollError):
        return Embedded(message.request, "the model cannot embed this input")


class LocalWorker:
    """A runner in a thread of this process, for tests and tries.

    Where another thread of the process has computed before, two OpenMP pools share the cores and
    neither spins any more: small products then take twice as long as in a process of their own.
    """

    def __init__(self, runner: Runner, answer: Callable[[Any], None]) -> None:
        self._runner = runner
        self._answer = answer
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._num_threads = torch.get_num_threads()
        runner.report = answer
        self._thread = threading.Thread(target=self._work, name="worker", daemon=True)
        self._thread.start()
        answer(Ready(os.getpid()))

    def send(self, message: Any) -> None:
        """Queue a message."""
        self._queue.put(message)

    def close(self) -> None:
        """Stop after what is queued."""
        self._queue.put(None)
        self._thread.join(timeout=30)
        self._runner.close()

    def _work(self) -> None:
        torch.set_num_threads(self._num_threads)  # OpenMP keeps the count thread by thread
        while (message := self._queue.get()) is not None:
            try:
                result = _handle(self._runner, message)
            except Exception as error:  # whatever it is, the engine must hear of it
                self._answer(Failed(f"{type(error).__name__}: {error}"))
                return
            if result is not None:
                self._answer(result)


class ProcessWorker:
    """A runner in a process of its own."""

    def __init__(self, setup: WorkerSetup, answer: Callable[[Any], None]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._answer = answer
        self._closed = False
        self.process = context.Process(target=_main, args=(setup, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self._thread = threading.Thread(target=self._listen, name="answers", daemon=True)
        self._thread.start()

    def send(self, message: Any) -> None:
        """Send a message; one to a worker that is gone is lost, as the news of it will say."""
        try:
            self._pipe.send(message)
        except (OSError, ValueError):
            return

    def close(self) -> None:
        """End the process."""
        self._closed = True
        self.send(None)
        self.process.join(timeout=5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join(timeout=5)
        self._thread.join(timeout=5)
        self._pipe.close()

    def _listen(self) -> None:
        while True:
            try:
                self._answer(self._pipe.recv())
            except (EOFError, OSError):
                break
        if not self._closed:
            self.process.join(timeout=5)
            self._answer(Failed(f"the worker process ended with code {self.process.exitcode}"))


def _main(setup: WorkerSetup, pipe: Connection) -> None:
    work_through(pipe, setup, make_runner, lambda runner, result: result)
    if setup.meeting is not None:
        os._exit(0)  # threads still wait for peers


def work_through(
    pipe: Connection,
    setup: WorkerSetup,
    start: Callable[[WorkerSetup], AnyRunner],
    own: Callable[[AnyRunner, Any], Any],
) -> None:
    """The life of a worker process: start a runner, handle messages in order until the pipe ends.

    ``own(runner, result)`` is what of a result is this process's to answer, None for nothing.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if setup.num_threads:
        torch.set_num_threads(setup.num_threads)
    try:
        runner = start(setup)
        lock = threading.Lock()

        def send(result: Any) -> None:
            with lock, contextlib.suppress(OSError, ValueError):  # nobody is left to hear it
                pipe.send(result)

        runner.report = send
        send(Ready(os.getpid()))
        while (message := pipe.recv()) is not None:
            result = own(runner, _handle(runner, message))
            if result is not None:
                send(result)
    except EOFError:
        return
    except PlimsollError as error:
        pipe.send(Failed(str(error)))
    except Exception as error:
        pipe.send(Failed(f"{type(error).__name__}: {error}"))
