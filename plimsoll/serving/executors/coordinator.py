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
from plimsoll.serving.executors.lives import Lives
from plimsoll.serving.executors.loans import Loans
from plimsoll.serving.executors.recorder import CANCELLED, REJECTED, UNFINISHED, Recorder
from plimsoll.serving.executors.requests import SimRequest
from plimsoll.serving.executors.swaps import Swaps, swap_pool
from plimsoll.serving.executors.transfers import Transfers
from plimsoll.serving.executors.view import RunView
from plimsoll.serving.kv.numbered import NumberedPool
from plimsoll.serving.kv.paged import PagedPool
from plimsoll.serving.kv.swap_manager import SwapSpec
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
    Life,
    Move,
    MoveDone,
    Recall,
    Refused,
    Reject,
    Retire,
    Scale,
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
    ``at_start`` False: it is stopped until a policy starts it, which takes ``start_s`` in the
    simulator. ``swapping`` says how requests are swapped; None: each in one copy that the step
    waits for. ``block_bytes`` of KV a block, 0 if unknown; ``lent_fraction`` of the blocks may be
    lent.
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
    at_start: bool = True
    start_s: float = 0.0
    swapping: SwapSpec | None = None
    block_bytes: float = 0.0
    lent_fraction: float = 1.0

    def __post_init__(self) -> None:
        if self.swapping is not None and (self.prefix_caching or self.clock.num_stages > 1):
            raise SpecError(
                "a swap manager copies blocks of one owner on instances of one stage; set "
                "prefix_caching false and pp 1, or leave swapping out"
            )


class Coordinator(ABC):
    """``unit_tokens``: tokens a prefix key stands for, 0 for none; ``refusal_rate`` the chance
    that a move or swap is refused, for testing policies, ``copy_failure_rate`` that a copy of the
    swap manager fails; ``log(time, instance, slot, decision)``
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
        copy_failure_rate: float = 0.0,
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
        self._copy_failure_rate = copy_failure_rate
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
            if spec.swapping is not None:
                engine.swaps = self._swaps(spec, spec.swapping, engine, unit_tokens)
            self.engines.append(engine)
        self._specs = list(specs)
        self.lives = Lives(instances, [spec.at_start for spec in specs])
        self._view = RunView(instances, self._requests, seeds[-2])
        self._transfers = self._links()
        self._loans: Loans | None = None

    # What an executor supplies

    def _pool(self, spec: InstanceSpec, unit_tokens: int) -> PagedPool:
        if spec.swapping is not None:
            return swap_pool(
                spec.swapping,
                total=spec.num_blocks,
                block_tokens=spec.block_tokens,
                per_request=spec.blocks_per_request,
                host_blocks=spec.host_blocks,
            )
        return PagedPool(
            total=spec.num_blocks,
            block_tokens=spec.block_tokens,
            per_request=spec.blocks_per_request,
            unit_tokens=unit_tokens,
            host_blocks=spec.host_blocks,
            block_bytes=spec.block_bytes,
            most_lent=int(spec.num_blocks * spec.lent_fraction),
        )

    def _swaps(
        self, spec: InstanceSpec, swapping: SwapSpec, engine: Engine, key_tokens: int
    ) -> Swaps:
        """What swaps the requests of an instance; its copies end by themselves."""
        index, pool = engine.inst.id, engine.inst._pool
        assert isinstance(pool, NumberedPool)
        return Swaps(
            swapping,
            pool,
            host_blocks=spec.host_blocks,
            longest_tokens=min(spec.max_model_len, spec.num_blocks * spec.block_tokens),
            later=lambda at_s, event: self._push(at_s, TRANSFER, self._copied, (index, event)),
            key_tokens=key_tokens,
            fails=self._copy_fails if self._copy_failure_rate else None,
        )

    def _copied(self, index: int, event: int, *, failed: bool = False) -> object:
        engine = self.engines[index]
        if not engine.copied(event, self.now_s, failed=failed):
            return NOTHING
        engine.wake(self.now_s)
        return None

    def _copy_fails(self) -> bool:
        return bool(self._luck.random() < self._copy_failure_rate)

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
        life = self.engines[index].inst.life
        if life in (Life.STOPPED, Life.LOST):
            return
        # one that was on its way out does not come back
        self._take_down(index, Life.STOPPED if life is Life.DRAINING else Life.LOST, "was lost")

    def _take_down(self, index: int, life: Life, why: str) -> None:
        """End an instance now; what it held is for the policy to place."""
        engine, lost = self.engines[index], []
        back: list[Move | Lend] = []
        if engine.inst.up:
            back = [*self._lose_loans(index), *self._transfers.lose(index, self.now_s)]
            lost = self._lost_requests(index)
        self.lives.become(index, life, self.now_s)
        self._halted(index)
        self._decide(Leave(index, tuple(r.id for r in lost if r.id in self._requests)))
        for move in back:
            if Refused in self._wants:
                self._decide(Refused(move, f"instance {index} {why}"))
        self._look_for_empty()

    def _lose_loans(self, index: int) -> list[Lend]:
        return [] if self._loans is None else self._loans.lose(index, self.now_s)

    def _lost_requests(self, index: int) -> list[SimRequest]:
        """Stop an engine; what it held, without KV."""
        return self.engines[index].lose(self.now_s)

    def _restore(self, index: int) -> object:
        if self.engines[index].inst.life is not Life.LOST:
            return NOTHING
        self._bring_up(index)
        return None

    def _bring_up(self, index: int) -> None:
        self.lives.become(index, Life.UP, self.now_s)
        if Join in self._wants:
            self._decide(Join(index))
        self.engines[index].wake(self.now_s)

    def _look_for_empty(self) -> None:
        """A request left its instance: one that drains may be empty now."""
        for index in sorted(self.lives.draining):
            self._push(self.now_s, TRANSFER, self._stop_if_empty, (index,))

    def _stop_if_empty(self, index: int) -> object:
        engine = self.engines[index]
        if engine.inst.life is not Life.DRAINING or self._holds_anything(index):
            return NOTHING
        engine.lose(self.now_s)
        self.lives.become(index, Life.STOPPED, self.now_s)
        self._halted(index)
        self._decide(Leave(index, ()))
        return None

    def _holds_anything(self, index: int) -> bool:
        return bool(self.engines[index].alive) or any(True for _ in self._transfers.holds(index))

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
        if self.lives.draining:
            self._look_for_empty()
        return None

    def _moved(self, move: Move | Lend) -> None:
        if MoveDone in self._wants:
            done = MoveDone(move.request, move.source, move.target)
            self._push(self.now_s, TRANSFER, self._decide, (done,))
        if self.lives.draining:
            self._look_for_empty()

    def _ended(self, request: SimRequest, now_s: float) -> None:
        instance = request.instance
        self._requests.pop(request.id, None)
        self.num_ended += 1
        self._gone(request, now_s)
        if Ended in self._wants and instance >= 0:
            self._push(now_s, TRANSFER, self._decide, (Ended(request.id, instance),))
        if self.lives.draining:
            self._look_for_empty()

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
        elif isinstance(action, Scale):
            self._scale(action)
        elif isinstance(action, Retire):
            self._retire(action)
        else:
            raise PolicyError(f"{action} is not an action of a cluster policy")

    def _scale(self, action: Scale) -> None:
        found = self.lives.to_start(action)
        if not found:
            self._refused(action, f"{len(self.lives.stopped())} instances are stopped")
        for index in found:
            self.lives.become(index, Life.STARTING, self.now_s)
            self._start(index)

    def _retire(self, action: Retire) -> None:
        why, index = self.lives.kept(action), action.instance
        if why:
            self._refused(action, why)
        elif action.drain and self.engines[index].inst.up:
            self.lives.become(index, Life.DRAINING, self.now_s)
            self._push(self.now_s, TRANSFER, self._stop_if_empty, (index,))
        else:
            self._take_down(index, Life.STOPPED, "was retired")

    @abstractmethod
    def _start(self, index: int) -> None:
        """Begin to start an instance."""

    @abstractmethod
    def _halted(self, index: int) -> None:
        """An instance is down: let go of what served it. The policy is told afterwards."""

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
        if not inst.admits:
            self._refused(action, f"instance {inst.id} is {inst.life}")
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
        if self.lives.draining:
            self._look_for_empty()  # a move that came to nothing held blocks there
        if Refused in self._wants:
            self._push(self.now_s, TRANSFER, self._decide, (Refused(decision, why),))
        elif isinstance(decision, Admit) and decision.request in self._requests:
            raise PolicyError(f"{decision} was refused ({why}) and the policy does not listen")

    def _unlucky(self) -> bool:
        return bool(self._luck.random() < self._refusal_rate)

    def check(self) -> None:
        """Every pool's books balance; for tests."""
        for engine in self.engines:
            pool = engine.inst._pool
            under_way = [slot for slot in engine.slots if slot.busy and slot.accounted]
            if under_way and engine.swaps is None:
                continue  # blocks of steps under way are taken, their tokens not yet counted
            ahead = sum(pool.blocks_of_steps(s.index, 0, s.accounted) for s in under_way)
            holders = [r for r in engine.alive.values() if r.has_blocks]
            decoding = [r for i in range(engine.inst.num_slots) for r in engine.inst.decoding(i)]
            pool.held -= ahead
            wrong = pool.check([*self._transfers.holds(engine.inst.id), *holders], decoding)
            pool.held += ahead
            if engine.swaps is not None:
                wrong = wrong or engine.swaps.check()
            if wrong:
                raise AssertionError(f"at {self.now_s} s, instance {engine.inst.id}: {wrong}")
