"""A real run: requests come from outside, steps run on workers, one thread keeps the books.

The thread takes what has happened (requests, cancellations, workers' answers) off one queue in
order, stamps it with a monotonic clock and lets the same coordinator decide as in the simulator.
Tokens are delivered after the next step has been sent, while it is computed. A worker that dies
is started again; requests that ran on it end with an error, those that waited go elsewhere.
With a policy that says so the next step is there before the tokens of this one are known.
"""

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from heapq import heappop
from typing import Any, Protocol

from plimsoll.serving.executors.coordinator import OUTSIDE, InstanceSpec
from plimsoll.serving.executors.engine import STEP_RANK
from plimsoll.serving.executors.recorder import CANCELLED, FAILED, FINISHED, REJECTED
from plimsoll.serving.executors.requests import SimRequest
from plimsoll.serving.executors.torch.embeds import Embeds
from plimsoll.serving.executors.torch.engine import Conversation, TorchEngine
from plimsoll.serving.executors.torch.links import WorkerLinks
from plimsoll.serving.executors.torch.live_parts import LiveParts
from plimsoll.serving.executors.torch.live_recorder import LiveRecorder
from plimsoll.serving.executors.torch.messages import (
    Copied,
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
from plimsoll.serving.kv.prefix_hash import prefix_hashes
from plimsoll.serving.policy import (
    Arrive,
    ClusterPolicy,
    Lend,
    Life,
    MoveDone,
    Phase,
    Tick,
)
from plimsoll.spec.errors import ExecutionError
from plimsoll.spec.record import RunRecord
from plimsoll.spec.workload import Workload

__all__ = ["LiveRun", "Worker"]

log = logging.getLogger(__name__)
_MOST_RESTARTS = 3
_AWAITED = (Life.STARTING, Life.LOST)
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
    session: int


class LiveRun(LiveParts):
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
        self.ticks_s: list[float] = []
        self.landed_s: dict[tuple[int, str, int], list[float]] = {}
        """When copies of moves had arrived, as ``Outside`` has it; only with ``keep``."""
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
        self._embeds = Embeds()
        self._start_worker = start_worker
        self._restarts = [0] * len(specs)
        self._generations = [0] * len(specs)
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
        waiting = {engine.inst.id for engine in self.engines if engine.inst.up}
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

    def submit(
        self,
        text: Conversation,
        *,
        priority: int = 0,
        request_class: str = "",
        session: int = -1,
    ) -> int:
        """Queue a request; its id. Never blocks. ``session``: whose next turn it is."""
        keys = prefix_hashes(text.prompt, self.block_tokens) if self.caches_prefixes else []
        with self._lock:
            request = self._next
            self._next += 1
            if not self._over_for_good:
                self._idle.clear()
                asked = _Submit(request, text, keys, priority, request_class, session)
                self._inbox.put((-1, asked))
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
        if self.lives.changed:
            meta["up_spans"] = self.lives.spans(self.now_s)
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
            self.now_s = max(self.now_s, self._clock())
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
        """What is due. What follows from the moment goes first; a tick that is late then gets a
        moment of its own, so that a replay knows what came first."""
        late = []
        while self._heap and self._heap[0][0] <= self.now_s or late:
            if late and not (self._heap and self._heap[0][0] <= self.now_s):
                self.now_s = max(self._clock(), math.nextafter(self.now_s, math.inf))
                event = late.pop(0)
            else:
                event = heappop(self._heap)
                if event[1] == OUTSIDE and event[0] < self.now_s:
                    late.append(event)
                    continue
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
        elif isinstance(message, Copied):
            self._copied(index, message.event, failed=bool(message.why))
        elif isinstance(message, Hosted):
            assert isinstance(self._loans, WorkerLoans)
            self._loans.hosted(message.serial, self.now_s)
        elif isinstance(message, Embedded):
            self._embeds.done(message)
            self._look_for_empty()
        elif isinstance(message, Failed):
            self._worker_lost(index, message.why)
        elif isinstance(message, Ready) and self.engines[index].inst.life in _AWAITED:
            self._bring_up(index)  # else it was called off while the answer was on its way

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
            session_id=message.session,
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
        request_id, move, serial = message.tag
        if self._keep:
            key = (request_id, move.mode, serial)
            self.landed_s.setdefault(key, []).append(self.now_s)
        if links.arrived(message, self.now_s):
            self.engines[move.source].wake(self.now_s)
            if MoveDone in self._wants:
                self._decide(MoveDone(request_id, move.source, move.target))

    def _begin_embed(
        self, message: Embed, deliver: Callable[[Sequence[float] | str], None]
    ) -> None:
        up = [e.inst.id for e in self.engines if e.inst.admits]
        if not up:
            deliver(_NO_WORKER)
            return
        self._real(self._embeds.begin(message, deliver, up)).tell(message)

    def _tick(self) -> None:
        self._push(self.now_s + self._router.tick_s, OUTSIDE, self._tick, ())
        if self._requests:
            if self._keep:
                self.ticks_s.append(self.now_s)
            self._decide(Tick())

    # Workers

    def _launch_worker(self, index: int) -> None:
        self._generations[index] += 1
        generation = self._generations[index]

        def answer(message: Any) -> None:
            if self._generations[index] == generation:
                self._inbox.put((index, message))

        worker = self._start_worker(index, answer)
        self._workers[index] = worker
        self._real(index).restarted(worker.send)

    def _worker_lost(self, index: int, why: str) -> None:
        inst = self.engines[index].inst
        self._restarts[index] += 1
        again = self._restarts[index] <= _MOST_RESTARTS
        if inst.up or not again:
            self._lose(index)
        else:
            self._halted(index)
        if again and inst.life is not Life.STOPPED and self._workers[index] is None:
            self._launch_worker(index)
        elif self._all_lost():
            self._end_all(f"{_NO_WORKER} ({why})")

    def _lost_requests(self, index: int) -> list[SimRequest]:
        """What ran on a worker that is gone ends with an error."""
        engine = self._real(index)
        ran = {r.id for r in engine.alive.values() if r.computed or r.phase is not Phase.WAITING}
        lost = engine.lose(self.now_s)
        for request in lost:
            if request.id in ran and request.id in self._requests:
                self.texts[request.id].error = _WORKER_LOST
                self._end_unplaced(request, FAILED)
        return lost

    def _halted(self, index: int) -> None:
        self._embeds.end(_WORKER_LOST, index)
        old, self._workers[index] = self._workers[index], None
        self._generations[index] += 1
        if old is not None:
            threading.Thread(target=old.close, daemon=True).start()

    def _start(self, index: int) -> None:
        self._restarts[index] = 0
        self._launch_worker(index)

    def _holds_anything(self, index: int) -> bool:
        return super()._holds_anything(index) or self._embeds.on(index)

    def _all_lost(self) -> bool:
        """Whether no worker is there and none will be started again."""
        return all(
            e.inst.life is Life.STOPPED
            or (self._restarts[e.inst.id] > _MOST_RESTARTS and not e.inst.up)
            for e in self.engines
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
        self._embeds.end(why)

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
