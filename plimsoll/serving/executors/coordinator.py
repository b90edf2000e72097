"""What both executors share: instances, the cluster policy's decisions, moves, faults.

A coordinator builds the instances of a run, hands events to the cluster policy and carries its
actions out. Whoever runs it owns the clock: the simulator jumps from event to event, the real
engine waits for them. Events of the coordinator's own go into a heap in order of time.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappush
from itertools import count
from typing import Any, Literal

import numpy as np

from plimsoll.cost.clock import StepClock
from plimsoll.serving.executors.engine import Engine
from plimsoll.serving.executors.instance import SimInstance
from plimsoll.serving.executors.loans import Loans
from plimsoll.serving.executors.recorder import CANCELLED, REJECTED, UNFINISHED, Recorder
from plimsoll.serving.executors.requests import SimRequest
from plimsoll.serving.executors.transfers import Transfers
from plimsoll.serving.executors.view import RunView
from plimsoll.serving.kv.paged import PagedPool
from plimsoll.serving.policy import (
    Action,
    Admit,
    Cancel,
    ClusterPolicy,
    Ended,
    Event,
    Join,
    Leave,
    Lend,
    Move,
    MoveDone,
    Recall,
    Refused,
    Reject,
    StageDone,
    StepPolicy,
)
from plimsoll.spec.errors import LivelockError, PolicyError, SpecError

__all__ = ["NOTHING", "OUTSIDE", "TRANSFER", "Coordinator", "InstanceSpec"]

OUTSIDE = 0
TRANSFER = 1  # then come ranks from ``engine.STEP_RANK`` up
NOTHING = object()
"""What the handler of an event that was called off meanwhile returns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSpec:
    """One instance: its clock, memory, limits and policy.

    ``num_blocks`` KV blocks in all, ``blocks_per_request`` taken once by each running request,
    ``host_blocks`` of swap space. ``max_num_seqs`` bounds the requests running in all slots.
    ``block_bytes`` of KV a block, 0 if unknown; ``lent_fraction`` of the blocks may be lent.
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
    block_bytes: float = 0.0
    lent_fraction: float = 1.0


class Coordinator(ABC):
    """``unit_tokens``: tokens a prefix key stands for, 0 for none; ``refusal_rate`` the chance
    that a move or swap is refused, for testing policies; ``log(time, instance, slot, decision)``
    is told every decision, -1 for the cluster policy's."""

    def __init__(
        self,
        specs: Sequence[InstanceSpec],
        router: ClusterPolicy,
        *,
        recorder: Recorder,
        outputs: "list[int] | dict[int, int]",
        unit_tokens: int,
        seed: int,
        refusal_rate: float = 0.0,
        log: Callable[[float, int, int, object], None] | None = None,
        name: str = "",
    ) -> None:
        self.now_s = 0.0
        self.recorder = recorder
        self.num_refused = 0
        self.num_ended = 0
        self.reasons: dict[str, int] = {}
        self.last_reason = ""
        """Why the last request was turned away."""
        self._outputs = outputs
        self._heap: list[tuple[Any, ...]] = []
        """(time, rank, serial, handler, arguments), or for steps (.., engine, slot, version)."""
        self._serials = count()
        self._router = router
        self._wants = router.events
        self._refusal_rate = refusal_rate
        seeds = np.random.SeedSequence(seed).spawn(len(specs) + 2)
        self._luck = np.random.default_rng(seeds[-1])
        self._requests: dict[int, SimRequest] = {}
        self._log = log
        self.engines: list[Engine] = []
        instances: list[SimInstance] = []
        for i, spec in enumerate(specs):
            unit = unit_tokens if spec.prefix_caching else 0
            if unit and unit % spec.block_tokens:
                raise SpecError(
                    f"workload {name}: prefix blocks of {unit} tokens are not a multiple "
                    f"of the {spec.block_tokens}-token KV block; change block_tokens"
                )
            num_slots = spec.clock.num_stages
            pool = self._pool(spec, unit)
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
            engine = self._engine(spec, inst, RunView(instances, self._requests, seeds[i]), unit)
            pool.count_with([slot.counter for slot in engine.slots])
            self.engines.append(engine)
        self._view = RunView(instances, self._requests, seeds[-2])
        self._transfers = self._links()
        self._loans: Loans | None = None

    # What an executor supplies

    def _pool(self, spec: InstanceSpec, unit_tokens: int) -> PagedPool:
        return PagedPool(
            total=spec.num_blocks,
            block_tokens=spec.block_tokens,
            per_request=spec.blocks_per_request,
            unit_tokens=unit_tokens,
            host_blocks=spec.host_blocks,
            block_bytes=spec.block_bytes,
            most_lent=int(spec.num_blocks * spec.lent_fraction),
        )

    def _lender(self) -> Loans | None:
        """What instances lend each other; None: this run attends to nothing on others."""
        return None

    @abstractmethod
    def _engine(
        self, spec: InstanceSpec, inst: SimInstance, view: RunView, unit_tokens: int
    ) -> Engine:
        """The engine of an instance."""

    @abstractmethod
    def _links(self) -> Transfers:
        """What moves KV between the engines."""

    @abstractmethod
    def _gone(self, request: SimRequest, now_s: float) -> None:
        """A request left the run for good."""

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

    def _lose(self, index: int) -> None:
        engine = self.engines[index]
        if not engine.inst.up:
            return
        back: list[Move | Lend] = [*self._lose_loans(index)]
        back += self._transfers.lose(index, self.now_s)
        lost = engine.lose(self.now_s)
        self._decide(Leave(index, tuple(r.id for r in lost if r.id in self._requests)))
        for move in back:
            if Refused in self._wants:
                self._decide(Refused(move, f"instance {index} was lost"))

    def _lose_loans(self, index: int) -> list[Lend]:
        return [] if self._loans is None else self._loans.lose(index, self.now_s)

    def _restore(self, index: int) -> None:
        self.engines[index].inst.up = True
        if Join in self._wants:
            self._decide(Join(index))
        self.engines[index].wake(self.now_s)

    def _stage_done(self, request: SimRequest, now_s: float) -> None:
        if StageDone in self._wants:
            self._push(now_s, TRANSFER, self._decide, (StageDone(request.id, request.instance),))

    def _transferred(self, request: SimRequest, move: Move, serial: int) -> object:
        if move.mode == "live":
            arrived = self._transfers.live.copied(request.id, serial, self.now_s)
            return None if arrived else NOTHING
        if not self._transfers.finish(request, move, serial, self.now_s):
            return NOTHING
        self.engines[move.source].wake(self.now_s)
        if MoveDone in self._wants:
            self._decide(MoveDone(request.id, move.source, move.target))
        return None

    def _moved(self, move: Move | Lend) -> None:
        if MoveDone in self._wants:
            done = MoveDone(move.request, move.source, move.target)
            self._push(self.now_s, TRANSFER, self._decide, (done,))

    def _ended(self, request: SimRequest, now_s: float) -> None:
        instance = request.instance
        self._requests.pop(request.id, None)
        self.num_ended += 1
        self._gone(request, now_s)
        if Ended in self._wants and instance >= 0:
            self._push(now_s, TRANSFER, self._decide, (Ended(request.id, instance),))

    def _end_unplaced(self, request: SimRequest, status: int) -> None:
        i = request.id
        self.recorder.status[i] = status
        self.recorder.output_tokens[i] = request.generated
        self.recorder.preemptions[i] = request.preemptions
        request.instance = -1
        self._ended(request, self.now_s)

    def _cancel(self, request: SimRequest) -> object:
        if request.id not in self._requests:
            return NOTHING
        if self._transfers.cancel(request, self.now_s) or request.instance < 0:
            self._end_unplaced(request, CANCELLED)
        else:
            self.engines[request.instance].remove(request, CANCELLED, self.now_s)
        if Cancel in self._wants:
            self._decide(Cancel(request.id))
        return None

    def _write_unfinished(self) -> None:
        for request in self._requests.values():
            i = request.id
            self.recorder.status[i] = UNFINISHED
            self.recorder.output_tokens[i] = request.generated
            self.recorder.preemptions[i] = request.preemptions
            self.recorder.instance[i] = request.instance

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
        elif isinstance(action, Lend | Recall):
            self._lend(action)
        elif isinstance(action, Reject):
            request = self._find(action)
            if request is None:
                self._refused(action, "the request is gone")
            elif request.instance >= 0:
                raise PolicyError(f"{action}: the request was admitted to {request.instance}")
            else:
                self._turn_away(request, action.why)
        else:
            raise PolicyError(f"{action} is not an action of a cluster policy")

    def _turn_away(self, request: SimRequest, why: str) -> None:
        self.reasons[why] = self.reasons.get(why, 0) + 1
        self.last_reason = why
        self._end_unplaced(request, REJECTED)

    def _find(self, action: Admit | Move | Lend | Reject) -> SimRequest | None:
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
        elif -(-tokens // pool.block_tokens) + pool.per_request > max(pool.total, action.borrows):
            why = f"longer than the KV pool of {pool.total * pool.block_tokens:,} tokens"
        if why:
            self._turn_away(request, why)
            return
        request.borrows = action.borrows
        engine.admit(request, self.now_s)

    def _lend(self, action: Lend | Recall) -> None:
        if self._loans is None:
            self._loans = self._lender()
            if self._loans is None:
                self._refused(action, "this run attends to no KV on other instances")
                return
            for engine in self.engines:
                engine.loans = self._loans
        if isinstance(action, Recall):
            self._loans.recall(action, self.now_s)
            return
        request = self._find(action)
        if request is None:
            self._refused(action, "the request is gone")
        elif self._refusal_rate and self._unlucky():
            self._refused(action, "refused at random")
        else:
            why = self._loans.start(request, action, self.now_s)
            if why:
                self._refused(action, why)

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
            self._push(self.now_s, TRANSFER, self._decide, (Refused(decision, why),))
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
