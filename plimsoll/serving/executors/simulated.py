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
from heapq import heappop
from typing import Any

from plimsoll.serving.executors.coordinator import (
    NOTHING,
    OUTSIDE,
    TRANSFER,
    Coordinator,
    InstanceSpec,
)
from plimsoll.serving.executors.engine import STEP_RANK, Engine
from plimsoll.serving.executors.instance import SimInstance
from plimsoll.serving.executors.intake import Intake
from plimsoll.serving.executors.lent_steps import Lending, LentSteps
from plimsoll.serving.executors.loans import Loans
from plimsoll.serving.executors.recorded_links import Outside, RecordedLinks
from plimsoll.serving.executors.recorder import CANCELLED, Recorder
from plimsoll.serving.executors.requests import SimRequest
from plimsoll.serving.executors.swaps import Swaps
from plimsoll.serving.executors.transfers import Transfers
from plimsoll.serving.executors.view import RunView
from plimsoll.serving.kv.swap_manager import SwapSpec
from plimsoll.serving.policy import Arrive, ClusterPolicy, Life, Tick
from plimsoll.spec.errors import SpecError
from plimsoll.spec.record import RunRecord
from plimsoll.spec.workload import Workload

__all__ = ["Fault", "InstanceSpec", "SimulatedExecutor"]

_MOST_IDLE_TICKS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """An instance is lost at ``down_at_s`` and back, empty, at ``up_at_s`` (inf: never)."""

    instance: int
    down_at_s: float
    up_at_s: float


class SimulatedExecutor:
    """Serves a workload on simulated instances.

    ``transfer_s(source, target, tokens)`` is the time to move KV between two instances, ``lending``
    what attention to KV on another instance takes, None where there is no such thing;
    ``reach_s(prompt tokens)`` what a request takes from its arrival to the router, 0 if None.
    ``refusal_rate`` is the chance that a move or swap is refused, for testing policies,
    ``copy_failure_rate`` that a copy of a swap manager fails.
    ``decisions`` collects (time, instance, slot, step or action) when ``log_decisions``.
    ``ended_keys(request)`` are the prefix keys of prompt and output together, for replaying a run
    whose engine kept outputs in its prefix cache; ``outside`` is what came from outside in it,
    in place of ``transfer_s``, the router's clock and the prices of copies beside the steps.
    """

    def __init__(
        self,
        instances: Sequence[InstanceSpec],
        router: ClusterPolicy,
        *,
        transfer_s: Callable[[int, int, int], float] | None = None,
        lending: Lending | None = None,
        reach_s: Callable[[int], float] | None = None,
        seed: int = 0,
        faults: Sequence[Fault] = (),
        refusal_rate: float = 0.0,
        copy_failure_rate: float = 0.0,
        fast_forward: bool = True,
        log_decisions: bool = False,
        check_books: bool = False,
        ended_keys: Callable[[int], list[int]] | None = None,
        outside: Outside | None = None,
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
        self._lending = lending
        self._reach_s = reach_s
        self._seed = seed
        self._faults = list(faults)
        self._refusal_rate = refusal_rate
        self._copy_failure_rate = copy_failure_rate
        self._fast_forward = fast_forward
        self._log_decisions = log_decisions
        self._check_books = check_books
        self._ended_keys = ended_keys
        self._outside = outside
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
        swaps = [engine.swaps for engine in run.engines if engine.swaps is not None]
        if swaps:
            managers = [one.manager for one in swaps]
            meta = {
                "swap_out_blocks": sum(m.num_out_blocks for m in managers),
                "swap_in_blocks": sum(m.num_back_blocks for m in managers),
                "swap_out_blocks_whole": sum(m.num_whole_blocks for m in managers),
                "swap_wait_s": sum(one.wait_s for one in swaps),
                **(meta or {}),
            }
        totals = {
            "seed": self._seed,
            "workload": workload.name,
            "num_instances": len(self._specs),
            "num_blocks": [spec.num_blocks for spec in self._specs],
            "end_s": run.end_s,
            "refused": refused,
            "rejected": run.reasons,
        }
        if run.lives.changed:
            totals["up_spans"] = run.lives.spans(run.end_s)
        return run.recorder.build({**totals, **(meta or {})})


class _Run(Coordinator):
    """The state of one run."""

    def __init__(self, executor: SimulatedExecutor, workload: Workload) -> None:
        self._executor = executor
        self.end_s = 0.0
        """When the last thing happened; the clock may be further, at an event called off."""
        self._check_books = executor._check_books
        self._idle_ticks = 0
        self._reach_s = executor._reach_s
        self._on_the_way: set[int] = set()
        """Requests that have arrived and that the router has not seen."""
        self._intake = Intake(workload, max(s.max_model_len for s in executor._specs))
        super().__init__(
            executor._specs,
            executor._router,
            recorder=Recorder(workload),
            outputs=self._intake.outputs,
            unit_tokens=workload.prefix_block_tokens,
            seed=executor._seed,
            refusal_rate=executor._refusal_rate,
            copy_failure_rate=executor._copy_failure_rate,
            log=(lambda *row: executor.decisions.append(row)) if executor._log_decisions else None,
            name=workload.name,
        )
        for fault in executor._faults:
            self._push(fault.down_at_s, OUTSIDE, self._lose, (fault.instance,))
            if fault.up_at_s < float("inf"):
                self._push(fault.up_at_s, OUTSIDE, self._restore, (fault.instance,))
        outside = executor._outside
        if outside is not None:
            for tick_s in outside.ticks_s:
                self._push(tick_s, OUTSIDE, self._decide, (Tick(),))
        elif self._router.tick_s > 0:
            self._push(self._router.tick_s, OUTSIDE, self._tick, ())

    def _engine(
        self, spec: InstanceSpec, inst: SimInstance, view: RunView, unit_tokens: int
    ) -> Engine:
        next_keys = self._executor._ended_keys
        if next_keys is None and self._intake.has_sessions:
            next_keys = self._intake.next_keys
        return Engine(
            inst=inst,
            policy=spec.policy,
            view=view,
            outputs=self._outputs,
            recorder=self.recorder,
            heap=self._heap,
            serials=self._serials,
            on_end=self._ended,
            on_stage=self._stage_done,
            unlucky=self._unlucky if self._refusal_rate else None,
            next_keys=next_keys if unit_tokens or spec.swapping is not None else None,
            log=self._log,
            fast_forward=self._executor._fast_forward,
            now=self._now,
        )

    def _swaps(
        self, spec: InstanceSpec, swapping: SwapSpec, engine: Engine, key_tokens: int
    ) -> Swaps:
        swaps = super()._swaps(spec, swapping, engine, key_tokens)
        if self._executor._outside is not None:
            swaps.told = self._executor._outside.copy_ends[engine.inst.id]
        return swaps

    def _links(self) -> Transfers:
        outside = self._executor._outside
        links = (Transfers if outside is None else RecordedLinks)(
            self.engines,
            self._executor._transfer_s,
            self._push_transfer,
            done=self._moved,
            failed=self._refused,
        )
        if isinstance(links, RecordedLinks) and outside is not None:
            links.outside = outside
        return links

    def _lender(self) -> Loans | None:
        lending = self._executor._lending
        if lending is None or self._executor._transfer_s is None:
            return super()._lender()
        return Loans(
            self.engines,
            self._transfers,
            LentSteps(self.engines, lending),
            later=lambda at_s, call, arguments: self._push(at_s, TRANSFER, call, arguments),
            done=self._moved,
            failed=self._refused,
        )

    def _gone(self, request: SimRequest, now_s: float) -> None:
        self._intake.ended(request.id, now_s)

    def _start(self, index: int) -> None:
        start_s = self._specs[index].start_s
        self._push(self.now_s + start_s, OUTSIDE, self._started, (index, self.lives.starts[index]))

    def _started(self, index: int, start: int) -> object:
        starting = self.engines[index].inst.life is Life.STARTING
        if not starting or self.lives.starts[index] != start:
            return NOTHING  # it was called off
        if not self._requests and self._intake.next_s == float("inf"):
            return NOTHING  # nothing is left to serve
        self._bring_up(index)
        return None

    def _halted(self, index: int) -> None:
        """A simulated instance leaves nothing behind."""

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
                elif event[3](*event[4]) is not NOTHING:
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

    # Events

    def _arrive(self, row: int) -> None:
        request = self._intake.request(row, self.now_s)
        self.recorder.arrival_s[row] = self.now_s
        self._requests[row] = request
        cancel_s = self._intake.cancel_s(row)
        if cancel_s != float("inf"):
            self._push(self.now_s + cancel_s, OUTSIDE, self._cancel, (request,))
        if self._reach_s is None:
            self._decide(Arrive(row))
        else:
            self._on_the_way.add(row)
            reached_s = self.now_s + self._reach_s(request.prompt_tokens)
            self._push(reached_s, OUTSIDE, self._reach, (row,))

    def _reach(self, row: int) -> object:
        if row not in self._on_the_way:
            return NOTHING
        self._on_the_way.remove(row)
        self._decide(Arrive(row))
        return None

    def _cancel(self, request: SimRequest) -> object:
        if request.id in self._on_the_way:
            self._on_the_way.remove(request.id)
            self._end_unplaced(request, CANCELLED)
            return None
        return super()._cancel(request)

    def _push_transfer(self, at_s: float, arguments: tuple[Any, ...]) -> None:
        self._push(at_s, TRANSFER, self._transferred, arguments)

    def _tick(self) -> object:
        if not self._requests and self._intake.next_s == float("inf"):
            return NOTHING
        self._idle_ticks = (
            0 if self._heap or self._intake.next_s != float("inf") else (self._idle_ticks + 1)
        )
        if self._idle_ticks >= _MOST_IDLE_TICKS:
            self._explain_stall()
            return NOTHING  # every instance is down for good
        self._push(self.now_s + self._router.tick_s, OUTSIDE, self._tick, ())
        self._decide(Tick())
        return None
