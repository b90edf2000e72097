"""The simulated engine of one instance: asks the policy, carries its steps out, keeps time.

A step that only decodes and that the policy calls steady becomes a run of many steps, one
event long: to the next end of a request, the next lack of blocks, or the end of the clock's
linear piece. Anything that reaches the instance meanwhile cuts the run at the next step
boundary (``interrupt``), where the policy is asked again. With ``fast_forward`` off every
step is an event; the results are the same (tests/serving/test_fast_forward.py).

A steady step that lets the next one be formed ahead is not made one event: the step after it is
formed when it begins, from what is known then, and so on until something changes.

Pipelines: stage i of a step starts when its stage i - 1 ended and the stage is free.
"""

from collections.abc import Callable, Iterator
from heapq import heappush
from typing import TYPE_CHECKING, Any

from plimsoll.serving.executors.instance import SimInstance
from plimsoll.serving.executors.recorder import FAILED, FINISHED, Recorder
from plimsoll.serving.executors.requests import SimRequest
from plimsoll.serving.executors.slots import Slot
from plimsoll.serving.executors.swap_residents import SwapResidents
from plimsoll.serving.policy import (
    Abort,
    Action,
    Park,
    Phase,
    Pin,
    Resume,
    Run,
    StepPolicy,
    Unpin,
    View,
)
from plimsoll.spec.errors import LivelockError, PolicyError

if TYPE_CHECKING:
    from plimsoll.serving.executors.loans import Loans

__all__ = ["STEP_RANK", "Engine"]

STEP_RANK = 2
"""At equal times, events of lower rank come first."""

_MOST_ROUNDS = 1000


class Engine(SwapResidents):
    """Runs one instance.

    Ends of its steps go into ``heap`` as (time, rank, serial, engine, slot, version), ``rank``
    from ``STEP_RANK`` up by instance. ``now()`` is the run's time, for readers of the instance
    between its steps; ``log(time, instance, slot, step)`` is told every step decided. The rest
    is as in ``Residents``.
    """

    def __init__(
        self,
        *,
        inst: SimInstance,
        policy: StepPolicy,
        view: View,
        outputs: list[int] | dict[int, int],
        recorder: Recorder,
        heap: list[tuple[Any, ...]],
        serials: Iterator[int],
        on_end: Callable[[SimRequest, float], None],
        on_stage: Callable[[SimRequest, float], None],
        unlucky: Callable[[], bool] | None,
        next_keys: Callable[[int], list[int]] | None,
        log: Callable[[float, int, int, object], None] | None,
        fast_forward: bool,
        now: Callable[[], float],
    ) -> None:
        super().__init__(
            inst=inst,
            view=view,
            outputs=outputs,
            recorder=recorder,
            on_end=on_end,
            on_stage=on_stage,
            unlucky=unlucky,
            next_keys=next_keys,
        )
        self._policy = policy
        self._heap = heap
        self._serials = serials
        self._rank = STEP_RANK + inst.id
        self._log = log
        self._fast = fast_forward and inst.num_slots == 1
        self._policy_resumes = getattr(policy, "resumes_prompts", False)
        self._stage_free_s = [0.0] * inst.num_slots
        self._now = now
        self.num_wasted = 0
        """Tokens of steps formed ahead that came for requests which had ended."""
        self.loans: Loans | None = None
        """What instances lend each other, once the first does."""
        inst._catch_up = self._catch_up
        inst._held_tokens = self._held_now

    # What reaches the instance from outside

    def admit(self, request: SimRequest, now_s: float) -> None:
        """Queue a request behind all of its priority; a run is cut at the next boundary."""
        request.instance = self.inst.id
        request.phase = Phase.WAITING
        self.alive[request.id] = request
        if self.swaps is not None and self._policy_resumes and self.begin_parked(request):
            self.wake(now_s)
            return
        waiting = self.inst.waiting
        if waiting and waiting[-1].priority < request.priority:
            place = next(i for i, r in enumerate(waiting) if r.priority < request.priority)
            waiting.insert(place, request)
        else:
            waiting.append(request)
        self.inst.outstanding_tokens += request.pending
        self.wake(now_s)

    def held_tokens(self, request: SimRequest, now_s: float) -> int:
        """Tokens of a request whose KV has been written by now."""
        if request.phase is not Phase.DECODE:
            return request.computed
        slot = self.slots[request.slot]
        done = slot.steps_done(now_s) if slot.busy and slot.num_decodes else 0
        return request.computed + done

    def _held_now(self, request: SimRequest) -> int:
        return self.held_tokens(request, self._now())

    def depart(self, request: SimRequest, then: Callable[[float], None], now_s: float) -> None:
        """Stop a decoding request between two steps; ``then(time)`` is told, when its phase is
        ``MOVING``, or when it ended in the step before."""
        slot = self.slots[request.slot]
        if not slot.busy:
            self.stop_for_move(request, slot)
            then(now_s)
            self.wake(now_s)
            return
        slot.departing.append((request, then))
        slot.changed = True
        if slot.steps > 1:
            self._interrupt(slot, now_s)

    def wake(self, now_s: float) -> None:
        """Something changed: start idle slots, cut long runs at the next step boundary."""
        if len(self.slots) > 1:
            self._begin_idle(now_s)
            return
        slot = self.slots[0]
        slot.changed = True
        if not slot.busy:
            self.begin(slot, now_s)
        elif slot.steps > 1:
            self._interrupt(slot, now_s)

    def sync(self, now_s: float) -> None:
        """Count the blocks of steps begun by now, so that a reader sees them."""
        for slot in self.slots:
            if slot.busy and slot.num_decodes:
                done = slot.steps_until(now_s)
                if done > slot.accounted:
                    pool = self.inst._pool
                    pool.take(pool.blocks_of_steps(slot.index, slot.accounted, done))
                    slot.accounted = done

    def _catch_up(self) -> None:
        for slot in self.slots:
            if slot.busy:
                self.sync(self._now())
                return

    def remove(self, request: SimRequest, status: int, now_s: float) -> None:
        """The request is wanted no more: now, or at the next step boundary if it decodes."""
        self.sync(now_s)
        if self._drop(request, status, now_s):
            self.wake(now_s)

    def _drop(self, request: SimRequest, status: int, now_s: float) -> bool:
        """Whether the request is gone; one in a step under way leaves when the step ends."""
        slot = self.slots[request.slot] if request.slot >= 0 else None
        if slot is not None and slot.busy and request.phase is Phase.DECODE:
            slot.leaving.append((request, status))
            slot.changed = True
            if slot.steps > 1:
                self._interrupt(slot, now_s)
            return False
        self.detach(request)
        self.close(request, status, now_s)
        return True

    def settle(self, now_s: float) -> None:
        """The run stops here: account for the decode steps that have ended."""
        for slot in self.slots:
            if slot.busy:
                self._finish_until(slot, now_s)
                slot.busy = False
                slot.version += 1

    def _finish_until(self, slot: Slot, now_s: float) -> None:
        """Finish the steps of a run that ended by ``now_s``; drop the rest."""
        done = slot.steps_done(now_s) if slot.num_decodes and not slot.chunks else 0
        if slot.accounted > done:
            pool = self.inst._pool
            pool.take(-pool.blocks_of_steps(slot.index, done, slot.accounted))
            slot.accounted = done
        slot.formed = 0
        if done:
            slot.steps = done
            slot.end_s = slot.end_of(done)
            self._finish_run(slot)
        else:
            slot.chunks = []

    def lose(self, now_s: float) -> list[SimRequest]:
        """The instance fails: its requests without KV, tokens of finished steps delivered."""
        self.inst.up = self.inst.admits = False
        for slot in self.slots:
            if slot.busy:
                self._finish_until(slot, now_s)
            slot.busy = False
            slot.formed = 0
            slot.version += 1
            slot.wake_s = -1.0
            for request, status in slot.leaving:
                if request.id in self.alive:
                    self.detach(request)
                    self.close(request, status, now_s)
            slot.leaving.clear()
            slot.departing.clear()
        self.landed.clear()
        if self.swaps is not None:
            self.swaps.clear()
        lost = list(self.alive.values())
        for request in lost:
            self.detach(request)
            request.drop_kv()
            request.phase = Phase.WAITING
            request.instance = -1
        self.alive.clear()
        self.inst._pool.clear()
        self.inst.outstanding_tokens = 0
        self._stage_free_s = [now_s] * self.inst.num_slots
        return lost

    # Steps

    def begin(self, slot: Slot, now_s: float) -> bool:
        """Ask the policy what to run in an idle slot, and start it; whether anything changed."""
        inst = self.inst
        if not inst.up:
            return False
        if self._stage_free_s[0] > now_s:
            if slot.wake_s < self._stage_free_s[0]:
                slot.wake_s = self._stage_free_s[0]
                self._push(slot.wake_s, slot)
            return False
        if self.landed:
            self.seat_landed(slot)
        stall_s = 0.0
        slot.rounds = 0
        view = self._view
        while True:
            view.now_s = now_s
            step = self._policy.step(view, inst, slot.index)
            if self._log is not None:
                self._log(now_s, inst.id, slot.index, step)
            refused = len(self.refused)
            for action in step.actions:
                stall_s += self._apply(action, slot, now_s)
            pairs: list[tuple[int, int]] = []
            num = 0
            if self.swaps is not None and self.swaps.lost:
                self.redo_lost(now_s)
            if len(self.refused) == refused:  # otherwise the step rests on a wrong premise
                if step.runs:
                    self._start_chunks(step.runs, slot, now_s, pairs)
                num = len(inst._decoding[slot.index]) if step.decode_all else 0
                if pairs or num:
                    break
                if not step.actions and not step.runs:
                    return slot.rounds > 0
            slot.rounds += 1
            if slot.rounds > _MOST_ROUNDS:
                raise LivelockError(
                    f"instance {inst.id}: {_MOST_ROUNDS} steps without a token, the last "
                    f"{step}; {len(inst.waiting)} requests wait, "
                    f"{inst._pool.free} of {inst._pool.total} blocks are free"
                )
        pool = inst._pool
        loans = self.loans if pool.lent or pool.away else None
        slot.start_s = now_s
        slot.stall_s = stall_s
        slot.num_decodes = num
        slot.accounted = 0
        slot.growth_s = 0.0
        slot.steps = 1
        context = slot.context + num - step.read_once
        if step.read_once and not 0 < step.read_once <= slot.context * (num > 0):
            raise PolicyError(
                f"read_once {step.read_once} on instance {inst.id}: the decodes hold "
                f"{slot.context} tokens"
            )
        if num:
            need = pool.decode_blocks(slot.index)
            if need > pool.total - pool.held:
                raise PolicyError(
                    f"decode_all on instance {inst.id} takes {need} blocks, {pool.free} are "
                    "free; park requests first"
                )
            plain = loans is None and self.swaps is None
            if step.steady and self._fast and not pairs and not step.ahead and plain:
                base, slope, limit = inst.clock.decode_line(num, context)
                most = slot.next_end() - slot.counter.tick
                if limit < context + num * most:
                    most = min(most, (limit - context) // num + 1)
                spared = pool.cached if inst.waiting else 0  # what waits may count on them
                slot.steps = pool.steps_that_fit(slot.index, most, spared)
                slot.step_s = base + slope * context
                slot.growth_s = slope * num
                self._schedule(slot, slot.end_of(slot.steps))
                return True
        if self.swaps is not None:
            stall_s = slot.stall_s = self.wait_for_copies(slot, now_s)
        if loans is None:
            slot.step_s = inst.clock.step_s(pairs, num, context)
        else:
            slot.step_s, more_s = loans.step_s(self, slot, pairs, context)
            slot.stall_s = stall_s = stall_s + more_s
        if inst.num_slots == 1:
            self._schedule(slot, now_s + stall_s + slot.step_s)
            formed = step.ahead and step.steady and loans is None and self.swaps is None
            slot.changed = not formed or bool(pairs)
            if not slot.changed:
                left = min(r.max_tokens - r.generated for r in inst._decoding[0].values())
                slot.limit = slot.counter.tick + left
                pool.take(pool.blocks_of_steps(slot.index, slot.accounted, 1))
                slot.accounted = 1
                self._look_ahead(slot)
            return True
        end_s = self._through_stages(now_s + stall_s, slot.step_s)
        slot.step_s = end_s - now_s - stall_s
        if num:  # other slots look at the pool before this step ends
            pool.take(pool.blocks_of_steps(slot.index, 0, 1))
            slot.accounted = 1
        self._schedule(slot, end_s)
        return True

    def _begin_idle(self, now_s: float) -> None:
        """Ask for every idle slot, and again while an answer changes what others may do."""
        again = True
        while again:
            again = False
            for slot in self.slots:
                if not slot.busy and self.begin(slot, now_s):
                    again = True

    def _schedule(self, slot: Slot, end_s: float) -> None:
        slot.busy = True
        slot.end_s = end_s
        slot.version += 1
        self._push(end_s, slot)

    def _push(self, at_s: float, slot: Slot) -> None:
        event = (at_s, self._rank, next(self._serials), self, slot, slot.version)
        heappush(self._heap, event)

    def complete(self, slot: Slot, now_s: float) -> None:
        """The run of a slot ended, or the first pipeline stage is free for it."""
        if slot.busy:
            slot.busy = False
            self._finish_run(slot)
        self._go_on(slot, now_s)

    def _go_on(self, slot: Slot, now_s: float) -> None:
        """What a slot does when its step is accounted for."""
        if slot.formed:
            self._follow(slot, now_s)
            return
        self.begin(slot, now_s)
        if self.inst.num_slots > 1:  # the others may have waited for blocks
            self._begin_idle(now_s)

    # Steps formed ahead

    def _look_ahead(self, slot: Slot) -> None:
        """Form the step after the one that begins, unless something known speaks against it."""
        pool, tick = self.inst._pool, slot.counter.tick
        if slot.changed or slot.limit <= tick + 1:
            return
        spared = pool.cached if self.inst.waiting else 0  # what waits may count on them
        taken = pool.blocks_of_steps(slot.index, 0, 1)
        pool.take(-taken)
        if pool.steps_that_fit(slot.index, 2, spared) < 2:
            pool.take(taken)
            return
        slot.accounted = 2
        pool.take(pool.blocks_of_steps(slot.index, 0, 2))
        slot.formed = slot.num_decodes
        slot.formed_context = slot.context + 2 * slot.num_decodes
        self._form(slot)

    def _form(self, slot: Slot) -> None:
        """The step after the one under way is formed; a simulated one needs nothing more."""

    def _follow(self, slot: Slot, now_s: float) -> None:
        """The step formed ahead begins; rows of requests that are gone run for nothing."""
        pool = self.inst._pool
        formed, slot.formed = slot.formed, 0
        num = len(self.inst._decoding[slot.index])
        self.num_wasted += formed - num
        slot.start_s, slot.stall_s, slot.growth_s = now_s, 0.0, 0.0
        slot.steps, slot.num_decodes = 1, num
        pool.take(pool.blocks_of_steps(slot.index, 0, 1))
        slot.accounted = 1
        whole_s = self.inst.clock.step_s((), formed, slot.formed_context)
        slot.step_s = max(whole_s - self.inst.clock.host_s(formed), 0.0)
        self._schedule(slot, now_s + slot.step_s)
        self._look_ahead(slot)

    def _through_stages(self, start_s: float, stage_s: float) -> float:
        end = start_s
        for i, free in enumerate(self._stage_free_s):
            end = max(end, free) + stage_s
            self._stage_free_s[i] = end
        return end

    def _interrupt(self, slot: Slot, now_s: float) -> None:
        steps = max(slot.steps_until(now_s), slot.accounted, 1)
        if steps < slot.steps:
            slot.steps = steps
            self._schedule(slot, slot.end_of(steps))

    def _start_chunks(
        self, runs: tuple[Run, ...], slot: Slot, now_s: float, pairs: list[tuple[int, int]]
    ) -> None:
        inst, pool = self.inst, self.inst._pool
        prefilling = inst._prefilling[slot.index]
        found: list[tuple[Run, SimRequest]] = []
        for run in runs:  # all prefixes are attached before any run takes blocks
            request = self.alive.get(run.request)
            if request is None:
                self.absent(run)
                continue
            if request.phase is Phase.WAITING:
                self.start(run, request, slot, now_s)
            elif request.phase is not Phase.PREFILL or request.slot != slot.index:
                raise PolicyError(f"{run}: the request is {request.phase.value}, it cannot run")
            found.append((run, request))
        for run, request in found:
            tokens = run.num_tokens
            computed = request.computed
            pending = request.pending
            if request.phase is not Phase.PREFILL or any(r is request for r, _ in slot.chunks):
                raise PolicyError(f"{run}: the request runs twice in one step")
            if not 0 < tokens <= pending:
                raise PolicyError(f"{run}: {pending} tokens are pending; run 1 to as many")
            if pool.blocks_for(request, tokens) > pool.free:
                raise PolicyError(
                    f"{run} takes {pool.blocks_for(request, tokens)} blocks, {pool.free} are free"
                )
            if pending == 1 and computed and request.generated:
                pool.grow(request, computed)
                del prefilling[request.id]
                self.end_park(request, now_s)
                self.join(request, slot)  # all its KV is here: it decodes with the others
                continue
            pool.grow(request, computed + tokens)
            slot.chunks.append((request, tokens))
            pairs.append((tokens, computed))

    def _finish_run(self, slot: Slot) -> None:
        """Account for the steps of the run that ended: tokens, blocks, gaps, the record."""
        inst, pool, recorder = self.inst, self.inst._pool, self._recorder
        index, num, steps, end_s = slot.index, slot.num_decodes, slot.steps, slot.end_s
        if slot.accounted > steps:  # the step formed ahead takes its own when it begins
            pool.take(-pool.blocks_of_steps(index, steps, slot.accounted))
            slot.accounted = steps
        prefill_tokens = prefill_context = 0
        for request, tokens in slot.chunks:
            prefill_tokens += tokens
            prefill_context += request.computed
        first_context = slot.context + num
        if num:
            tick = slot.counter.tick
            pool.take(pool.blocks_of_steps(index, slot.accounted, steps))
            first_end_s = slot.start_s + slot.stall_s + slot.step_s
            slot.context += num * steps
            slot.counter.tick = tick + steps
            settled = num
            if slot.joiners:
                settled -= len(slot.joiners)
                for request in slot.joiners:
                    gap_s = first_end_s - request.last_token_s
                    request.first_gap_s = gap_s
                    request.join_tick = tick + 1
                    recorder.gap((gap_s, 1))
                slot.joiners.clear()
            if settled:
                gap_s = first_end_s - slot.last_decode_s
                recorder.gap((gap_s, settled))
                slot.note_gap(tick + 1, gap_s)
            if steps > 1:
                slot.note_gap(tick + steps, slot.step_s + slot.growth_s * (steps - 1))
            slot.last_decode_s = end_s
            while slot.next_end() <= slot.counter.tick:
                request = slot.ends[0][3]
                self.stop_decoding(request, slot)
                pool.publish(request)
                self.close(request, FINISHED, end_s)
        chunks, slot.chunks = slot.chunks, []
        for request, tokens in chunks:
            if request.phase is Phase.PREFILL and request.id in inst._prefilling[index]:
                request.add_computed(tokens)
                inst.outstanding_tokens -= tokens
                pool.publish(request)
                if request.pending == 0:
                    self.sample(request, slot, end_s)
        if slot.leaving:
            for request, status in slot.leaving:
                if request.phase is Phase.DECODE and request.slot == index:
                    self.stop_decoding(request, slot)
                    self.close(request, status, end_s)
            slot.leaving.clear()
        departing, slot.departing = slot.departing, []
        for request, then in departing:
            self.stop_for_move(request, slot)
            then(end_s)
        recorder.step(
            (
                slot.start_s,
                slot.step_s,
                slot.growth_s,
                slot.stall_s,
                inst.id,
                index,
                steps,
                num,
                first_context if num else 0,
                prefill_tokens,
                len(chunks),
                prefill_context,
                pool.held,
                len(inst.waiting),
            )
        )

    # Actions of a step

    def _apply(self, action: Action, slot: Slot, now_s: float) -> float:
        """Carry an action out; the seconds the step is held up by it."""
        if isinstance(action, Unpin):
            self.unpin(action)
            return 0.0
        if not isinstance(action, Park | Resume | Abort | Pin):
            raise PolicyError(f"{action} is not an action of a step")
        request = self.alive.get(action.request)
        if request is None:
            self.absent(action)
        elif isinstance(action, Park):
            return self.park(action, request, slot, now_s)
        elif isinstance(action, Resume):
            return self.resume(action, request, slot, now_s)
        elif isinstance(action, Pin):
            self.pin(action, request)
        else:
            self._drop(request, FAILED, now_s)
        return 0.0
