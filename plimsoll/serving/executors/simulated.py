"""The simulated executor: many engines, one clock, a stream of requests.

Owns time and effects. Arrivals (open loop, closed loop, sessions), cancellations, faults,
transfers between instances and ticks are events; each engine's steps are events of its own
(``executors.engine``). At equal times what comes from outside goes first, then finished
transfers, in order of scheduling, then steps, in order of instance. Same inputs and seed,
same bytes out.
Left out: network contention beyond one transfer at a time in and out of an instance.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import Any, Literal

import numpy as np

from plimsoll.cost.clock import StepClock
from plimsoll.serving.executors.engine import STEP_RANK, Engine
from plimsoll.serving.executors.instance import SimInstance
from plimsoll.serving.executors.intake import Intake
from plimsoll.serving.executors.recorder import CANCELLED, REJECTED, UNFINISHED, Recorder
from plimsoll.serving.executors.requests import SimRequest
from plimsoll.serving.executors.transfers import Transfers
from plimsoll.serving.executors.view import RunView
from plimsoll.serving.kv.paged import PagedPool
from plimsoll.serving.policy import (
    Action,
    Admit,
    Arrive,
    Cancel,
    ClusterPolicy,
    Ended,
    Event,
    Join,
    Leave,
    Move,
    MoveDone,
    Refused,
    Reject,
    StageDone,
    StepPolicy,
    Tick,
)
from plimsoll.spec.errors import LivelockError, PolicyError, SpecError
from plimsoll.spec.record import RunRecord
from plimsoll.spec.workload import Workload

__all__ = ["Fault", "InstanceSpec", "SimulatedExecutor"]

_OUTSIDE, _TRANSFER = 0, 1  # then STEP_RANK
_NOTHING = object()
"""What the handler of an event that was called off meanwhile returns."""
_MOST_IDLE_TICKS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSpec:
    """One instance: its clock, memory, limits and policy.

    ``num_blocks`` KV blocks in all, ``blocks_per_request`` taken once by each running request,
    ``host_blocks`` of swap space. ``max_num_seqs`` bounds the requests running in all slots.
    """

    role: Literal["both", "prefill", "decode"] = "both"
    clock: StepClock
    policy: StepPolicy
    num_blocks: int
    block_tokens: int = 16
    blocks_per_request: int = 0
    host_blocks: int = 0
    max_num_seqs: int = 256
    max_model_len: int = 1 << 40
    prefix_caching: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """An instance is lost at ``down_at_s`` and back, empty, at ``up_at_s`` (inf: never)."""

    instance: int
    down_at_s: float
    up_at_s: float


class SimulatedExecutor:
    """Serves a workload on simulated instances.

    ``transfer_s(source, target, tokens)`` is the time to move KV between two instances;
    ``reach_s(prompt tokens)`` what a request takes from its arrival to the router, 0 if None.
    ``refusal_rate`` is the chance that a move or swap is refused, for testing policies.
    ``decisions`` collects (time, instance, slot, step or action) when ``log_decisions``.
    """

    def __init__(
        self,
        instances: Sequence[InstanceSpec],
        router: ClusterPolicy,
        *,
        transfer_s: Callable[[int, int, int], float] | None = None,
        reach_s: Callable[[int], float] | None = None,
        seed: int = 0,
        faults: Sequence[Fault] = (),
        refusal_rate: float = 0.0,
        fast_forward: bool = True,
        log_decisions: bool = False,
        check_books: bool = False,
    ) -> None:
        if not instances:
            raise SpecError("a simulation needs at least one instance")
        for fault in faults:
            if not 0 <= fault.instance < len(instances) or fault.up_at_s <= fault.down_at_s:
                raise SpecError(
                    f"{fault}: expected an instance below {len(instances)} and up > down"
                )
        self._specs = list(instances)
        self._router = router
        self._transfer_s = transfer_s
        self._reach_s = reach_s
        self._seed = seed
        self._faults = list(faults)
        self._refusal_rate = refusal_rate
        self._fast_forward = fast_forward
        self._log_decisions = log_decisions
        self._check_books = check_books
        self.decisions: list[tuple[float, int, int, object]] = []

    def run(
        self,
        workload: Workload,
        *,
        until_s: float = float("inf"),
        stop: Callable[[float, int], bool] | None = None,
        meta: dict[str, Any] | None = None,
    ) -> RunRecord:
        """Serve every request, or stop at ``until_s`` with the rest unfinished.

        ``stop(now_s, requests ended)`` is asked at every 256th end; True ends the run early.
        """
        run = _Run(self, workload)
        run.go(until_s, stop)
        refused = run.num_refused + sum(len(engine.refused) for engine in run.engines)
        totals = {
            "seed": self._seed,
            "workload": workload.name,
            "num_instances": len(self._specs),
            "num_blocks": [spec.num_blocks for spec in self._specs],
            "end_s": run.end_s,
            "refused": refused,
            "rejected": run.reasons,
        }
        return run.recorder.build({**totals, **(meta or {})})


class _Run:
    """The state of one run."""

    def __init__(self, executor: SimulatedExecutor, workload: Workload) -> None:
        self.now_s = 0.0
        self.end_s = 0.0
        """When the last thing happened; the clock may be further, at an event called off."""
        self.recorder = Recorder(workload)
        self.num_refused = 0
        self.num_ended = 0
        self.reasons: dict[str, int] = {}
        self._heap: list[tuple[Any, ...]] = []
        """(time, rank, serial, handler, arguments), or for steps (.., engine, slot, version)."""
        self._serials = count()
        self._router = executor._router
        self._wants = executor._router.events
        self._check_books = executor._check_books
        self._refusal_rate = executor._refusal_rate
        seeds = np.random.SeedSequence(executor._seed).spawn(len(executor._specs) + 2)
        self._luck = np.random.default_rng(seeds[-1])
        self._idle_ticks = 0
        self._requests: dict[int, SimRequest] = {}
        self._reach_s = executor._reach_s
        self._on_the_way: set[int] = set()
        """Requests that have arrived and that the router has not seen."""
        self._intake = Intake(workload, max(s.max_model_len for s in executor._specs))
        log = (lambda *row: executor.decisions.append(row)) if executor._log_decisions else None
        self._log = log
        self.engines: list[Engine] = []
        instances = []
        for i, spec in enumerate(executor._specs):
            unit = workload.prefix_block_tokens if spec.prefix_caching else 0
            if unit and unit % spec.block_tokens:
                raise SpecError(
                    f"workload {workload.name}: prefix blocks of {unit} tokens are not a multiple "
                    f"of the {spec.block_tokens}-token KV block; change block_tokens"
                )
            num_slots = spec.clock.num_stages
            pool = PagedPool(
                total=spec.num_blocks,
                block_tokens=spec.block_tokens,
                per_request=spec.blocks_per_request,
                unit_tokens=unit,
                host_blocks=spec.host_blocks,
            )
            inst = SimInstance(
                id=i,
                role=spec.role,
                clock=spec.clock,
                pool=pool,
                max_num_seqs=-(-spec.max_num_seqs // num_slots),
                max_model_len=spec.max_model_len,
                num_slots=num_slots,
            )
            instances.append(inst)
            engine = Engine(
                inst=inst,
                policy=spec.policy,
                view=RunView(instances, self._requests, seeds[i]),
                outputs=self._intake.outputs,
                recorder=self.recorder,
                heap=self._heap,
                serials=self._serials,
                on_end=self._ended,
                on_stage=self._stage_done,
                unlucky=self._unlucky if executor._refusal_rate else None,
                next_keys=self._intake.next_keys if self._intake.has_sessions and unit else None,
                log=log,
                fast_forward=executor._fast_forward,
                now=self._now,
            )
            pool.count_with([slot.counter for slot in engine.slots])
            self.engines.append(engine)
        self._view = RunView(instances, self._requests, seeds[-2])
        self._transfers = Transfers(self.engines, executor._transfer_s, self._push_transfer)
        for fault in executor._faults:
            self._push(fault.down_at_s, _OUTSIDE, self._lose, (fault.instance,))
            if fault.up_at_s < float("inf"):
                self._push(fault.up_at_s, _OUTSIDE, self._restore, (fault.instance,))
        if self._router.tick_s > 0:
            self._push(self._router.tick_s, _OUTSIDE, self._tick, ())

    def go(self, until_s: float, stop: Callable[[float, int], bool] | None) -> None:
        """Process events in order of time."""
        heap = self._heap
        intake = self._intake
        next_check = 256
        while True:
            arrival_s = intake.next_s
            if heap and (heap[0][0] < arrival_s or (heap[0][0] == arrival_s and not heap[0][1])):
                event = heappop(heap)
                now_s = event[0]
                if now_s > until_s:
                    self._settle(until_s)
                    return
                self.now_s = now_s
                if event[1] >= STEP_RANK:
                    slot = event[4]
                    if slot.version != event[5]:
                        continue
                    self.end_s = now_s
                    event[3].complete(slot, now_s)
                    if self._check_books:
                        self.check()
                elif event[3](*event[4]) is not _NOTHING:
                    self.end_s = now_s
            elif arrival_s <= until_s and arrival_s != float("inf"):
                self.now_s = self.end_s = arrival_s
                self._arrive(intake.pop())
            elif arrival_s != float("inf"):
                self._settle(until_s)
                return
            else:
                break
            if self.num_ended >= next_check:
                next_check = self.num_ended + 256
                if stop is not None and stop(self.now_s, self.num_ended):
                    self._settle(self.now_s)
                    return
        if self._requests:
            self._explain_stall()
        self._write_unfinished()

    def _settle(self, now_s: float) -> None:
        """Stop here: steps that have ended count, the rest does not."""
        for engine in self.engines:
            engine.settle(now_s)
        self._write_unfinished()

    def _write_unfinished(self) -> None:
        for request in self._requests.values():
            i = request.id
            self.recorder.status[i] = UNFINISHED
            self.recorder.output_tokens[i] = request.generated
            self.recorder.preemptions[i] = request.preemptions
            self.recorder.instance[i] = request.instance

    def _now(self) -> float:
        return self.now_s

    def _explain_stall(self) -> None:
        """Nothing but ticks is left: requests on instances that are up will never go on."""
        for engine in self.engines:
            inst = engine.inst
            if inst.up and engine.alive:
                request = next(iter(engine.alive.values()))
                raise LivelockError(
                    f"instance {inst.id} ({inst.role}) is stuck with {len(engine.alive)} requests: "
                    f"{len(inst.waiting)} wait, {inst.num_running} run, {inst.pool.free} of "
                    f"{inst.pool.total} blocks are free; the first is {request.phase.value} with "
                    f"{request.pending} pending tokens; its policy runs none of them"
                )

    # Events

    def _push(
        self, at_s: float, rank: int, handle: Callable[..., object], arguments: tuple[Any, ...]
    ) -> None:
        heappush(self._heap, (at_s, rank, next(self._serials), handle, arguments))

    def _push_transfer(self, at_s: float, arguments: tuple[Any, ...]) -> None:
        self._push(at_s, _TRANSFER, self._transferred, arguments)

    def _arrive(self, row: int) -> None:
        request = self._intake.request(row, self.now_s)
        self.recorder.arrival_s[row] = self.now_s
        self._requests[row] = request
        cancel_s = self._intake.cancel_s(row)
        if cancel_s != float("inf"):
            self._push(self.now_s + cancel_s, _OUTSIDE, self._cancel, (request,))
        if self._reach_s is None:
            self._decide(Arrive(row))
        else:
            self._on_the_way.add(row)
            reached_s = self.now_s + self._reach_s(request.prompt_tokens)
            self._push(reached_s, _OUTSIDE, self._reach, (row,))

    def _reach(self, row: int) -> object:
        if row not in self._on_the_way:
            return _NOTHING
        self._on_the_way.remove(row)
        self._decide(Arrive(row))
        return None

    def _cancel(self, request: SimRequest) -> object:
        if request.id not in self._requests:
            return _NOTHING
        if request.id in self._on_the_way:
            self._on_the_way.remove(request.id)
            self._end_unplaced(request, CANCELLED)
            return None
        if self._transfers.cancel(request, self.now_s) or request.instance < 0:
            self._end_unplaced(request, CANCELLED)
        else:
            self.engines[request.instance].remove(request, CANCELLED, self.now_s)
        if Cancel in self._wants:
            self._decide(Cancel(request.id))
        return None

    def _tick(self) -> object:
        if not self._requests and self._intake.next_s == float("inf"):
            return _NOTHING
        self._idle_ticks = (
            0 if self._heap or self._intake.next_s != float("inf") else (self._idle_ticks + 1)
        )
        if self._idle_ticks >= _MOST_IDLE_TICKS:
            self._explain_stall()
            return _NOTHING  # every instance is down for good
        self._push(self.now_s + self._router.tick_s, _OUTSIDE, self._tick, ())
        self._decide(Tick())
        return None

    def _lose(self, index: int) -> None:
        engine = self.engines[index]
        if not engine.inst.up:
            return
        back = self._transfers.lose(index)
        lost = engine.lose(self.now_s)
        self._decide(Leave(index, tuple(r.id for r in lost if r.id in self._requests)))
        for move in back:
            if Refused in self._wants:
                self._decide(Refused(move, f"instance {index} was lost"))

    def _restore(self, index: int) -> None:
        self.engines[index].inst.up = True
        if Join in self._wants:
            self._decide(Join(index))
        self.engines[index].wake(self.now_s)

    def _stage_done(self, request: SimRequest, now_s: float) -> None:
        if StageDone in self._wants:
            self._push(now_s, _TRANSFER, self._decide, (StageDone(request.id, request.instance),))

    def _transferred(self, request: SimRequest, move: Move, serial: int) -> object:
        if not self._transfers.finish(request, move, serial, self.now_s):
            return _NOTHING
        self.engines[move.source].wake(self.now_s)
        if MoveDone in self._wants:
            self._decide(MoveDone(request.id, move.source, move.target))
        return None

    def _ended(self, request: SimRequest, now_s: float) -> None:
        instance = request.instance
        self._requests.pop(request.id, None)
        self.num_ended += 1
        self._intake.ended(request.id, now_s)
        if Ended in self._wants and instance >= 0:
            self._push(now_s, _TRANSFER, self._decide, (Ended(request.id, instance),))

    def _end_unplaced(self, request: SimRequest, status: int) -> None:
        i = request.id
        self.recorder.status[i] = status
        self.recorder.output_tokens[i] = request.generated
        self.recorder.preemptions[i] = request.preemptions
        request.instance = -1
        self._ended(request, self.now_s)

    # Decisions of the cluster policy

    def _decide(self, event: Event) -> None:
        self._view.now_s = self.now_s
        for action in self._router.on(self._view, event):
            if self._log is not None:
                self._log(self.now_s, -1, -1, action)
            self._apply(action)

    def _apply(self, action: Action) -> None:
        if isinstance(action, Admit):
            self._admit(action)
        elif isinstance(action, Move):
            self._move(action)
        elif isinstance(action, Reject):
            request = self._find(action)
            if request is None:
                self._refused(action, "the request is gone")
            elif request.instance >= 0:
                raise PolicyError(f"{action}: the request was admitted to {request.instance}")
            else:
                self.reasons[action.why] = self.reasons.get(action.why, 0) + 1
                self._end_unplaced(request, REJECTED)
        else:
            raise PolicyError(f"{action} is not an action of a cluster policy")

    def _find(self, action: Admit | Move | Reject) -> SimRequest | None:
        """The request of a decision; None if it has ended."""
        i = action.request
        arrivals = self.recorder.arrival_s
        if type(i) is not int or not 0 <= i < len(arrivals) or arrivals[i] != arrivals[i]:
            raise PolicyError(f"{action}: there is no such request")
        return self._requests.get(i)

    def _admit(self, action: Admit) -> None:
        request = self._find(action)
        if request is None:
            self._refused(action, "the request is gone")
            return
        if not 0 <= action.instance < len(self.engines):
            raise PolicyError(f"{action}: there are instances 0 to {len(self.engines) - 1}")
        if request.instance >= 0:
            raise PolicyError(f"{action}: the request is on instance {request.instance} already")
        engine = self.engines[action.instance]
        inst, pool = engine.inst, engine.inst._pool
        if not inst.up:
            self._refused(action, f"instance {inst.id} is down")
            return
        tokens = request.pending + 1
        why = ""
        if tokens > inst.max_model_len:
            why = f"longer than the {inst.max_model_len:,}-token limit"
        elif -(-tokens // pool.block_tokens) + pool.per_request > pool.total:
            why = f"longer than the KV pool of {pool.total * pool.block_tokens:,} tokens"
        if why:
            self.reasons[why] = self.reasons.get(why, 0) + 1
            self._end_unplaced(request, REJECTED)
            return
        engine.admit(request, self.now_s)

    def _move(self, action: Move) -> None:
        request = self._find(action)
        if request is None:
            self._refused(action, "the request is gone")
        elif self._refusal_rate and self._unlucky():
            self._refused(action, "refused at random")
        else:
            why = self._transfers.start(request, action, self.now_s)
            if why:
                self._refused(action, why)

    def _refused(self, decision: Action, why: str) -> None:
        self.num_refused += 1
        if Refused in self._wants:
            self._push(self.now_s, _TRANSFER, self._decide, (Refused(decision, why),))
        elif isinstance(decision, Admit) and decision.request in self._requests:
            raise PolicyError(f"{decision} was refused ({why}) and the policy does not listen")

    def _unlucky(self) -> bool:
        return bool(self._luck.random() < self._refusal_rate)

    def check(self) -> None:
        """Every pool's books balance; for tests."""
        for engine in self.engines:
            if any(slot.busy and slot.accounted for slot in engine.slots):
                continue  # blocks of steps under way are taken, their tokens not yet counted
            holders = [r for r in engine.alive.values() if r.has_blocks]
            decoding = [r for i in range(engine.inst.num_slots) for r in engine.inst.decoding(i)]
            wrong = engine.inst._pool.check(
                [*self._transfers.holds(engine.inst.id), *holders], decoding
            )
            if wrong:
                raise AssertionError(f"at {self.now_s} s, instance {engine.inst.id}: {wrong}")
