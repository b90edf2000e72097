"""A real run: requests come from outside, steps run on workers, one thread keeps the books.

The thread takes what has happened (requests, cancellations, workers' answers) off one queue in
order, stamps it with a monotonic clock and lets the same coordinator decide as in the simulator.
Tokens are delivered after the next step has been sent, while it is computed. A worker that dies
is started again; requests that ran on it end with an error, those that waited go elsewhere.
With a policy that says so the next step is there before the tokens of this one are known.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from heapq import heappop
from typing import Any, Protocol

from plimsoll.serving.executors.coordinator import OUTSIDE, Coordinator, InstanceSpec
from plimsoll.serving.executors.engine import STEP_RANK, Engine
from plimsoll.serving.executors.instance import SimInstance
from plimsoll.serving.executors.loans import Loans
from plimsoll.serving.executors.recorder import CANCELLED, FAILED, FINISHED, REJECTED
from plimsoll.serving.executors.requests import SimRequest
from plimsoll.serving.executors.torch.engine import Conversation, TorchEngine
from plimsoll.serving.executors.torch.links import WorkerLinks
from plimsoll.serving.executors.torch.live_recorder import LiveRecorder
from plimsoll.serving.executors.torch.messages import (
    Embed,
    Embedded,
    Exported,
    Failed,
    Hosted,
    Prepare,
    Ready,
    StepDone,
)
from plimsoll.serving.executors.torch.worker_loans import WorkerLoans
from plimsoll.serving.executors.view import RunView
from plimsoll.serving.kv.numbered import NumberedPool
from plimsoll.serving.kv.prefix_hash import prefix_hashes
from plimsoll.serving.policy import (
    Arrive,
    ClusterPolicy,
    Leave,
    Lend,
    Move,
    MoveDone,
    Phase,
    Refused,
    Tick,
)
from plimsoll.spec.errors import ExecutionError
from plimsoll.spec.record import RunRecord
from plimsoll.spec.workload import Workload

__all__ = ["LiveRun", "Worker"]

log = logging.getLogger(__name__)
_MOST_RESTARTS = 3
_WORKER_LOST = "the worker that served this request stopped; the request can be sent again"
_STOPPING = "the server is shutting down"
_NO_WORKER = "no worker is left to serve requests"


class Worker(Protocol):
    """What serves an instance."""

    def send(self, message: Any) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Submit:
    request: int
    text: Conversation
    keys: list[int]
    priority: int
    request_class: str


class LiveRun(Coordinator):
    """``start_worker(index, answer)`` starts an instance's worker; its answers, the first of them
    ``Ready``, go to ``answer``. ``decisions`` collects (time, instance, slot, decision) with
    ``keep``, and then ``recorder`` keeps everything. ``link_bytes_per_s`` slows copies between
    workers down. ``peers``: the workers have met and attend for each other."""

    def __init__(
        self,
        specs: Sequence[InstanceSpec],
        router: ClusterPolicy,
        start_worker: Callable[[int, Callable[[Any], None]], Worker],
        *,
        eos_ids: Collection[int] = (),
        seed: int = 0,
        keep: bool = False,
        check_books: bool = False,
        link_bytes_per_s: float = float("inf"),
        peers: bool = False,
    ) -> None:
        self.texts: dict[int, Conversation] = {}
        self.decisions: list[tuple[float, int, int, object]] = []
        self.keys: dict[int, list[int]] = {}
        """Prefix keys of what an ended request left, prompt and output; only with ``keep``."""
        self.prompt_keys: dict[int, list[int]] = {}
        self.prompt_lengths: dict[int, int] = {}
        self.limits: dict[int, int] = {}
        self.failure = ""
        self.num_preempted = self.num_generated = self.num_finished = self.num_failed = 0
        self.num_prompt_tokens = self.num_cached_tokens = 0
        self._keep = keep
        self._link_bytes_per_s = link_bytes_per_s
        self._peers = peers
        self._check = check_books
        self._eos_ids = eos_ids
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._next = 0
        self._over: list[Conversation] = []
        self._embeds: dict[int, tuple[Callable[[Sequence[float] | str], None], int]] = {}
        self._start_worker = start_worker
        self._restarts = [0] * len(specs)
        self._stopping = self._over_for_good = False
        self.block_tokens = specs[0].block_tokens
        self.caches_prefixes = any(spec.prefix_caching for spec in specs)
        recorder = LiveRecorder(keep=keep)
        self.live_recorder = recorder
        super().__init__(
            specs,
            router,
            recorder=recorder,
            outputs={},
            unit_tokens=self.block_tokens if self.caches_prefixes else 0,
            seed=seed,
            log=(lambda *row: self.decisions.append(row)) if keep else None,
            name="live",
        )
        self._origin_s = time.monotonic()
        self._workers: list[Worker | None] = [None] * len(specs)
        self._idle = threading.Event()
        self._idle.set()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    # From any thread

    def start(self, timeout_s: float = 600.0) -> None:
        """Start the workers and wait until every one is ready.

        Raises:
            ExecutionError: a worker could not start.
        """
        waiting = set(range(len(self.engines)))
        for i in waiting:
            self._launch_worker(i)
        until_s = time.monotonic() + timeout_s
        while waiting:
            try:
                index, message = self._inbox.get(timeout=max(0.0, until_s - time.monotonic()))
            except queue.Empty:
                raise ExecutionError(f"workers {sorted(waiting)} did not start in time") from None
            if isinstance(message, Failed):
                self._stopping = True
                self._close_workers()
                raise ExecutionError(f"worker {index} could not start: {message.why}")
            waiting.discard(index)
        if self._router.tick_s > 0:
            self._push(self._clock() + self._router.tick_s, OUTSIDE, self._tick, ())
        self._thread.start()

    def submit(self, text: Conversation, *, priority: int = 0, request_class: str = "") -> int:
        """Queue a request; its id. Never blocks."""
        keys = prefix_hashes(text.prompt, self.block_tokens) if self.caches_prefixes else []
        with self._lock:
            request = self._next
            self._next += 1
            if not self._over_for_good:
                self._idle.clear()
                self._inbox.put((-1, _Submit(request, text, keys, priority, request_class)))
                return request
        self._end_unseen(text)
        return request

    def cancel(self, request: int) -> None:
        """The client is gone."""
        self._inbox.put((-2, request))

    def embed(self, message: Embed, deliver: Callable[[Sequence[float] | str], None]) -> None:
        """Have an instance pool a prompt; the answer comes from the run's thread."""
        with self._lock:
            if not self._over_for_good:
                self._inbox.put((-3, (message, deliver)))
                return
        deliver(self.failure or _STOPPING)

    def prepare(self, schema: str) -> None:
        """Have every instance compile a JSON schema before a request needs it."""
        self._inbox.put((-5, Prepare(schema)))

    def wait_idle(self, timeout_s: float | None = None) -> bool:
        """Wait until no request is left; whether that came in time."""
        return self._idle.wait(timeout_s)

    def close(self) -> None:
        """Stop; what is unfinished ends with an error."""
        if self._thread.is_alive():
            self._inbox.put((-4, None))
            self._thread.join(timeout=60)
        self._stopping = True
        self._close_workers()

    def record(self, workload: Workload | None = None) -> RunRecord:
        """What happened, of a run made with ``keep``; request ids are rows of ``workload``."""
        if workload is None:
            from plimsoll.serving.executors.torch.replay import recorded_workload

            workload = recorded_workload(self)
        meta = {
            "executor": "torch",
            "num_instances": len(self.engines),
            "num_blocks": [engine.inst._pool.total for engine in self.engines],
            "total_blocks": [engine.inst._pool.total for engine in self.engines],
            "busy_s": [self._real(i).busy_s for i in range(len(self.engines))],
            "rejected": self.reasons,
        }
        return self.live_recorder.build_for(workload, meta)

    @property
    def num_alive(self) -> int:
        """Requests that have come and not ended."""
        return len(self.texts)

    # The run's own thread

    def _clock(self) -> float:
        return time.monotonic() - self._origin_s

    def _work(self) -> None:
        try:
            while not self._stopping:
                self._turn()
        except Exception as error:
            log.exception("the run failed")
            self.failure = f"{type(error).__name__}: {error}"
            self._stopping = True
        try:
            self._end_all(self.failure or _STOPPING)
        except Exception:
            log.exception("the books could not be closed")
        self._flush()
        for text in self.texts.values():
            self._end_unseen(text)
        with self._lock:
            self._over_for_good = True
        while not self._inbox.empty():
            index, message = self._inbox.get()
            if index == -1:
                self._end_unseen(message.text)
            elif index == -3:
                message[1](self.failure or _STOPPING)
        self._idle.set()

    def _end_unseen(self, text: Conversation) -> None:
        """End what came when the run was over, or what its broken books no longer know."""
        text.finish, text.error = "error", self.failure or _STOPPING
        text.end(text)

    def _turn(self) -> None:
        """Wait for something, handle all that has come, deliver."""
        wait_s = self._heap[0][0] - self._clock() if self._heap else None
        try:
            message = self._inbox.get(timeout=None if wait_s is None else max(wait_s, 0.0))
        except queue.Empty:
            message = None
        while message is not None:
            self.now_s = self._clock()
            self._handle(*message)
            self._run_due()
            try:
                message = self._inbox.get_nowait()
            except queue.Empty:
                message = None
        self.now_s = max(self.now_s, self._clock())
        self._run_due()
        self._flush()
        for index in range(len(self.engines)):
            self._real(index).tidy()
        with self._lock:
            if not self.texts and not self._embeds and self._inbox.empty():
                self._idle.set()

    def _run_due(self) -> None:
        while self._heap and self._heap[0][0] <= self.now_s:
            event = heappop(self._heap)
            if event[1] < STEP_RANK:
                event[3](*event[4])
        if self._check:
            self.check()

    def _handle(self, index: int, message: Any) -> None:
        if index == -1:
            self._arrive(message)
        elif index == -2:
            request = self._requests.get(message)
            if request is not None:
                self._cancel(request)
        elif index == -3:
            self._begin_embed(*message)
        elif index == -4:
            self._stopping = True
        elif index == -5:
            for engine in self.engines:
                if engine.inst.up:
                    self._real(engine.inst.id).tell(message)
        elif isinstance(message, StepDone):
            engine = self._real(index)
            if engine.finish_step(message, self.now_s):
                engine.complete(engine.slots[message.slot], self.now_s)
        elif isinstance(message, Exported):
            self._exported(message)
        elif isinstance(message, Hosted):
            assert isinstance(self._loans, WorkerLoans)
            self._loans.hosted(message.serial, self.now_s)
        elif isinstance(message, Embedded):
            deliver, _ = self._embeds.pop(message.request, (None, 0))
            if deliver is not None:
                deliver(message.vector)
        elif isinstance(message, Failed):
            self._worker_lost(index, message.why)
        elif isinstance(message, Ready):
            worker = self._workers[index]
            assert worker is not None
            self._real(index).restarted(worker.send)
            self._restore(index)

    def _arrive(self, message: _Submit) -> None:
        text, i = message.text, message.request
        room = max(e.inst.max_model_len for e in self.engines) - len(text.prompt)
        limit = max(1, min(text.params.max_tokens, room))
        request = SimRequest(
            id=i,
            arrival_s=self.now_s,
            prompt_tokens=len(text.prompt),
            max_tokens=limit,
            prefix_keys=message.keys,
            request_class=message.request_class,
            priority=message.priority,
        )
        self.live_recorder.num_requests = max(self.live_recorder.num_requests, i + 1)
        self.recorder.arrival_s[i] = self.now_s
        self.texts[i] = text
        if self._keep:
            self.keys[i] = self.prompt_keys[i] = message.keys
            self.prompt_lengths[i], self.limits[i] = len(text.prompt), limit
        self._requests[i] = request
        assert isinstance(self._outputs, dict)
        self._outputs[i] = limit
        self.num_prompt_tokens += len(text.prompt)
        if self._all_lost():
            text.error = _NO_WORKER
            self._end_unplaced(request, FAILED)
            return
        self._decide(Arrive(i))

    def _exported(self, message: Exported) -> None:
        links = self._transfers
        assert isinstance(links, WorkerLinks)
        at_s = links.crossed_s(message, self.now_s)
        if at_s > self.now_s:
            self._push(at_s, OUTSIDE, self._delivered, (message,))
        else:
            self._delivered(message)

    def _delivered(self, message: Exported) -> None:
        if isinstance(message.tag[1], Lend):
            assert isinstance(self._loans, WorkerLoans)
            self._loans.exported(message, self.now_s)
            return
        links = self._transfers
        assert isinstance(links, WorkerLinks)
        request_id, move, _ = message.tag
        if links.arrived(message, self.now_s):
            self.engines[move.source].wake(self.now_s)
            if MoveDone in self._wants:
                self._decide(MoveDone(request_id, move.source, move.target))

    def _begin_embed(
        self, message: Embed, deliver: Callable[[Sequence[float] | str], None]
    ) -> None:
        up = [e.inst.id for e in self.engines if e.inst.up]
        if not up:
            deliver(_NO_WORKER)
            return
        index = up[message.request % len(up)]
        self._embeds[message.request] = (deliver, index)
        self._real(index).tell(message)

    def _tick(self) -> None:
        self._push(self.now_s + self._router.tick_s, OUTSIDE, self._tick, ())
        if self._requests:
            self._decide(Tick())

    # Workers

    def _launch_worker(self, index: int) -> None:
        generation = self._restarts[index]

        def answer(message: Any) -> None:
            if self._restarts[index] == generation:
                self._inbox.put((index, message))

        worker = self._start_worker(index, answer)
        self._workers[index] = worker
        self._real(index).restarted(worker.send)

    def _worker_lost(self, index: int, why: str) -> None:
        engine = self._real(index)
        if engine.inst.up:
            back: list[Move | Lend] = [*self._lose_loans(index)]
            back += self._transfers.lose(index, self.now_s)
            ran = {
                r.id for r in engine.alive.values() if r.computed or r.phase is not Phase.WAITING
            }
            lost = engine.lose(self.now_s)
            for request in lost:
                if request.id in ran and request.id in self._requests:
                    self.texts[request.id].error = _WORKER_LOST
                    self._end_unplaced(request, FAILED)
            left = tuple(r.id for r in lost if r.id in self._requests)
            self._restarts[index] += 1
            self._decide(Leave(index, left))
            for move in back:
                if Refused in self._wants:
                    self._decide(Refused(move, f"instance {index} was lost"))
        else:
            self._restarts[index] += 1
        for embed, (deliver, at) in list(self._embeds.items()):
            if at == index:
                del self._embeds[embed]
                deliver(_WORKER_LOST)
        old = self._workers[index]
        self._workers[index] = None
        if old is not None:
            threading.Thread(target=old.close, daemon=True).start()
        if self._restarts[index] <= _MOST_RESTARTS:
            self._launch_worker(index)
        elif self._all_lost():
            self._end_all(f"{_NO_WORKER} ({why})")

    def _all_lost(self) -> bool:
        """Whether no worker is there and none will be started again."""
        return all(
            self._restarts[e.inst.id] > _MOST_RESTARTS and not e.inst.up for e in self.engines
        )

    def _close_workers(self) -> None:
        for worker in self._workers:
            if worker is not None:
                worker.close()

    def _end_all(self, why: str) -> None:
        for request in list(self._requests.values()):
            self.texts[request.id].error = why
            if request.instance >= 0:
                engine = self._real(request.instance)
                engine.detach(request)
                engine.alive.pop(request.id, None)
            self._end_unplaced(request, FAILED)
        for deliver, _ in self._embeds.values():
            deliver(why)
        self._embeds.clear()

    # Deliveries

    def _gone(self, request: SimRequest, now_s: float) -> None:
        i = request.id
        text = self.texts.pop(i)
        status = self.recorder.status[i]
        self.num_preempted += request.preemptions
        text.cached_tokens = int(self.recorder.cached_tokens[i])
        self.num_cached_tokens += text.cached_tokens
        if status == FINISHED:
            text.finish = text.finish or "length"
            self.num_finished += 1
        elif status == CANCELLED:
            text.finish = "cancelled"
        elif status == REJECTED:
            text.finish, text.error = "rejected", f"the request is {self.last_reason}"
        else:
            text.finish = "error"
            text.error = text.error or "the request outgrew the KV memory"
            self.num_failed += 1
        self._over.append(text)
        assert isinstance(self._outputs, dict)
        if not self._keep:
            self._outputs.pop(i, None)
            self.live_recorder.forget(i)

    def _flush(self) -> None:
        """Tell clients what the finished steps gave them."""
        for engine in self.engines:
            assert isinstance(engine, TorchEngine)
            given, engine.deliveries = engine.deliveries, []
            self.num_generated += len(given)
            for text, token, logprobs in given:
                text.deliver(token, logprobs)
        over, self._over = self._over, []
        for text in over:
            text.end(text)

    # What the coordinator asks for

    def _real(self, index: int) -> TorchEngine:
        engine = self.engines[index]
        assert isinstance(engine, TorchEngine)
        return engine

    def _pool(self, spec: InstanceSpec, unit_tokens: int) -> NumberedPool:
        return NumberedPool(
            total=spec.num_blocks,
            block_tokens=spec.block_tokens,
            per_request=spec.blocks_per_request,
            unit_tokens=unit_tokens,
            host_blocks=spec.host_blocks,
            block_bytes=spec.block_bytes,
            most_lent=int(spec.num_blocks * spec.lent_fraction),
        )

    def _lender(self) -> Loans | None:
        if not self._peers:
            return super()._lender()
        return WorkerLoans(
            self.engines,
            self._transfers,
            None,
            later=lambda at_s, call, arguments: self._push(at_s, OUTSIDE, call, arguments),
            done=self._moved,
            failed=self._refused,
        )

    def _engine(
        self, spec: InstanceSpec, inst: SimInstance, view: RunView, unit_tokens: int
    ) -> Engine:
        return TorchEngine(
            send=lambda message: None,
            texts=self.texts,
            eos_ids=self._eos_ids,
            inst=inst,
            policy=spec.policy,
            view=view,
            outputs=self._outputs,
            recorder=self.recorder,
            heap=self._heap,
            serials=self._serials,
            on_end=self._ended,
            on_stage=self._stage_done,
            unlucky=None,
            next_keys=self._ended_keys if unit_tokens else None,
            log=self._log,
            now=self._now,
        )

    def _links(self) -> WorkerLinks:
        links = WorkerLinks(
            self.engines,
            None,
            lambda at_s, arguments: None,
            done=self._moved,
            failed=self._refused,
        )
        links.bytes_per_s = self._link_bytes_per_s
        return links

    def _ended_keys(self, request: int) -> list[int]:
        text = self.texts[request]
        keys = prefix_hashes([*text.prompt, *text.tokens], self.block_tokens)
        if self._keep:
            self.keys[request] = keys
        return keys
