"""The simulated engine of one instance: asks the policy, carries its steps out, keeps time.

A step that only decodes and that the policy calls steady becomes a run of many steps, one
event long: to the next end of a request, the next lack of blocks, or the end of the clock's
linear piece. Anything that reaches the instance meanwhile cuts the run at the next step
boundary (``interrupt``), where the policy is asked again. With ``fast_forward`` off every
step is an event; the results are the same (tests/serving/test_fast_forward.py).

Pipelines: stage i of a step starts when its stage i - 1 ended and the stage is free.
"""

from collections.abc import Callable

from plimsoll.serving.executors.instance import SimInstance
from plimsoll.serving.executors.recorder import CANCELLED, FAILED, FINISHED, Recorder
from plimsoll.serving.executors.requests import SimRequest
from plimsoll.serving.executors.slots import Slot
from plimsoll.serving.policy import (
    Abort,
    Action,
    Park,
    Phase,
    Refused,
    Resume,
    Run,
    StepPolicy,
    View,
)
from plimsoll.spec.errors import LivelockError, PolicyError

__all__ = ["Engine"]

_MOST_ROUNDS = 1000


class Engine:
    """Runs one instance. ``outputs`` are the true lengths; no policy can reach them.

    ``push(time, engine, slot, version)`` schedules the end of a run; ``on_end(request, time)``
    is told when a request leaves for good, ``on_stage(request, time)`` when a prompt has run on
    an instance that only prefills. ``unlucky()`` says whether to refuse a swap for the sake of
    testing; ``next_keys(id)`` are the prefix keys of the same session's next turn.
    """

    def __init__(
        self,
        *,
        inst: SimInstance,
        policy: StepPolicy,
        view: View,
        outputs: list[int],
        recorder: Recorder,
        push: Callable[[float, "Engine", Slot, int], None],
        on_end: Callable[[SimRequest, float], None],
        on_stage: Callable[[SimRequest, float], None],
        unlucky: Callable[[], bool] | None,
        next_keys: Callable[[int], list[int]] | None,
        log: Callable[[float, int, int, object], None] | None,
        fast_forward: bool,
    ) -> None:
        self.inst = inst
        self.slots = [Slot(i) for i in range(inst.num_slots)]
        self.alive: dict[int, SimRequest] = {}
        """Everything admitted here and not gone."""
        self._policy = policy
        self._view = view
        self._outputs = outputs
        self._recorder = recorder
        self._push = push
        self._on_end = on_end
        self._on_stage = on_stage
        self._unlucky = unlucky
        self._next_keys = next_keys
        self.refused: list[Refused] = []
        """Decisions of this instance's policy that came too late."""
        self._log = log
        self._fast = fast_forward and inst.num_slots == 1
        self._stage_free_s = [0.0] * inst.num_slots

    # What reaches the instance from outside

    def admit(self, request: SimRequest, now_s: float) -> None:
        """Queue a request; running steps are cut at the next boundary."""
        request.instance = self.inst.id
        request.phase = Phase.WAITING
        self.alive[request.id] = request
        self.inst.waiting.append(request)
        self.inst.outstanding_tokens += request.pending
        self.wake(now_s)

    def wake(self, now_s: float) -> None:
        """Something changed: start idle slots, cut long runs at the next step boundary."""
        for slot in self.slots:
            if slot.busy:
                if slot.steps > 1:
                    self._interrupt(slot, now_s)
            else:
                self.begin(slot, now_s)

    def sync(self, now_s: float) -> None:
        """Count the blocks of steps begun by now, so that a reader sees them."""
        for slot in self.slots:
            if slot.busy and slot.num_decodes:
                done = slot.steps_until(now_s)
                if done > slot.accounted:
                    pool = self.inst.pool
                    pool.take(pool.blocks_of_steps(slot.index, slot.accounted, done))
                    slot.accounted = done

    def remove(self, request: SimRequest, status: int, now_s: float) -> None:
        """The request is wanted no more: now, or at the next step boundary if it decodes."""
        slot = self.slots[request.slot] if request.slot >= 0 else None
        if slot is not None and slot.busy and request.phase is Phase.DECODE:
            slot.leaving.append(request)
            if slot.steps > 1:
                self._interrupt(slot, now_s)
            return
        self._detach(request)
        self._close(request, status, now_s)
        self.wake(now_s)

    def lose(self, now_s: float) -> list[SimRequest]:
        """The instance fails: its requests without KV, tokens of finished steps delivered."""
        self.inst.up = False
        for slot in self.slots:
            if slot.busy:
                done = 0
                if slot.num_decodes and not slot.chunks:
                    done = slot.steps_done(now_s)
                if done:
                    slot.steps = done
                    slot.end_s = slot.end_of(done)
                    self._finish_run(slot)
                else:
                    slot.chunks = []
                slot.busy = False
                slot.version += 1
            for request in slot.leaving:
                if request.id in self.alive:
                    self._detach(request)
                    self._close(request, CANCELLED, now_s)
            slot.leaving.clear()
        lost = list(self.alive.values())
        for request in lost:
            self._detach(request)
            request.drop_kv()
            request.phase = Phase.WAITING
            request.instance = -1
        self.alive.clear()
        self.inst.pool.clear()
        self.inst.outstanding_tokens = 0
        self._stage_free_s = [now_s] * self.inst.num_slots
        return lost

    # Steps

    def begin(self, slot: Slot, now_s: float) -> None:
        """Ask the policy what to run in an idle slot, and start it."""
        inst = self.inst
        if not inst.up:
            return
        if self._stage_free_s[0] > now_s:
            if slot.wake_s < self._stage_free_s[0]:
                slot.wake_s = self._stage_free_s[0]
                self._push(slot.wake_s, self, slot, slot.version)
            return
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
            if len(self.refused) == refused:  # otherwise the step rests on a wrong premise
                if step.runs:
                    self._start_chunks(step.runs, slot, now_s, pairs)
                num = len(inst._decoding[slot.index]) if step.decode_all else 0
                if pairs or num:
                    break
                if not step.actions and not step.runs:
                    return
            slot.rounds += 1
            if slot.rounds > _MOST_ROUNDS:
                raise LivelockError(
                    f"instance {inst.id}: {_MOST_ROUNDS} steps without a token, the last "
                    f"{step}; {len(inst.waiting)} requests wait, "
                    f"{inst.pool.free} of {inst.pool.total} blocks are free"
                )
        pool = inst.pool
        slot.start_s = now_s
        slot.stall_s = stall_s
        slot.num_decodes = num
        slot.accounted = 0
        slot.growth_s = 0.0
        slot.steps = 1
        context = slot.context + num
        if num:
            if pool.decode_blocks(slot.index) > pool.free:
                raise PolicyError(
                    f"decode_all on instance {inst.id} takes {pool.decode_blocks(slot.index)} "
                    f"blocks, {pool.free} are free; park requests first"
                )
            if step.steady and self._fast and not pairs:
                base, slope, limit = inst.clock.decode_line(num, context)
                most = slot.next_end() - slot.counter.tick
                if slope and limit < context + num * most:
                    most = min(most, (limit - context) // num + 1)
                slot.steps = pool.steps_that_fit(slot.index, most)
                slot.step_s = base + slope * context
                slot.growth_s = slope * num
                self._schedule(slot, slot.end_of(slot.steps))
                return
        slot.step_s = inst.clock.step_s(pairs, num, context)
        if inst.num_slots == 1:
            self._schedule(slot, now_s + stall_s + slot.step_s)
            return
        end_s = self._through_stages(now_s + stall_s, slot.step_s)
        slot.step_s = end_s - now_s - stall_s
        if num:  # other slots look at the pool before this step ends
            pool.take(pool.blocks_of_steps(slot.index, 0, 1))
            slot.accounted = 1
        self._schedule(slot, end_s)

    def _schedule(self, slot: Slot, end_s: float) -> None:
        slot.busy = True
        slot.end_s = end_s
        slot.version += 1
        self._push(end_s, self, slot, slot.version)

    def complete(self, slot: Slot, now_s: float) -> None:
        """The run of a slot ended."""
        if not slot.busy:  # a delayed start of a pipeline slot
            self.begin(slot, now_s)
            return
        slot.busy = False
        self._finish_run(slot)
        self.begin(slot, now_s)

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
        inst, pool = self.inst, self.inst.pool
        prefilling = inst._prefilling[slot.index]
        for run in runs:
            request = self.alive.get(run.request)
            if request is None:
                self.refused.append(Refused(run, "the request is not on this instance"))
                continue
            if request.phase is Phase.WAITING:
                self._start(request, slot, now_s)
            elif request.phase is not Phase.PREFILL or request.slot != slot.index:
                raise PolicyError(f"{run}: the request is {request.phase.value}, it cannot run")
            tokens = run.num_tokens
            computed = request.computed
            if not 0 < tokens <= request.pending or any(r is request for r, _ in slot.chunks):
                raise PolicyError(f"{run}: {request.pending} tokens are pending; run 1 to as many")
            if pool.blocks_for(request, tokens) > pool.free:
                raise PolicyError(
                    f"{run} takes {pool.blocks_for(request, tokens)} blocks, {pool.free} are free"
                )
            if request.pending == 1 and request.generated and computed:
                del prefilling[request.id]
                self._end_park(request, now_s)
                self._join(request, slot)  # all its KV is here: it decodes with the others
                continue
            pool.grow(request, computed + tokens)
            slot.chunks.append((request, tokens))
            pairs.append((tokens, computed))

    def _start(self, request: SimRequest, slot: Slot, now_s: float) -> None:
        """Waiting to running: attach the cached prefix."""
        inst, pool, recorder = self.inst, self.inst.pool, self._recorder
        waiting = inst.waiting
        if waiting[0] is request:
            waiting.popleft()
        else:
            waiting.remove(request)
        if not request.has_blocks:
            if pool.per_request > pool.free:
                raise PolicyError(f"request {request.id}: no blocks for its fixed-size state")
            cached = pool.attach(request)
            if cached:
                request.add_computed(cached)
                inst.outstanding_tokens -= cached
                if request.preemptions == 0:
                    recorder.cached_tokens[request.id] = cached
        request.phase = Phase.PREFILL
        request.slot = slot.index
        inst._prefilling[slot.index][request.id] = request
        if request.generated == 0 and request.preemptions == 0:
            recorder.scheduled_s[request.id] = now_s
            recorder.prefill_instance[request.id] = inst.id

    def _finish_run(self, slot: Slot) -> None:
        """Account for the steps of the run that ended: tokens, blocks, gaps, the record."""
        inst, pool, recorder = self.inst, self.inst.pool, self._recorder
        index, num, steps, end_s = slot.index, slot.num_decodes, slot.steps, slot.end_s
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
            settled = num - len(slot.joiners)
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
                self._stop_decoding(request, slot)
                pool.publish(request)
                self._close(request, FINISHED, end_s)
        chunks, slot.chunks = slot.chunks, []
        for request, tokens in chunks:
            if request.phase is Phase.PREFILL and request.id in inst._prefilling[index]:
                request.add_computed(tokens)
                inst.outstanding_tokens -= tokens
                pool.publish(request)
                if request.pending == 0:
                    self._sample(request, slot, end_s)
        for request in slot.leaving:
            if request.phase is Phase.DECODE and request.slot == index:
                self._stop_decoding(request, slot)
                self._close(request, CANCELLED, end_s)
        slot.leaving.clear()
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

    def _sample(self, request: SimRequest, slot: Slot, now_s: float) -> None:
        """A prompt (or recomputation) is through: one token comes out of it."""
        inst, recorder = self.inst, self._recorder
        if request.generated == 0:
            recorder.first_token_s[request.id] = now_s
        else:
            gap_s = now_s - request.last_token_s
            recorder.gap((gap_s, 1))
            self._end_park(request, now_s)
            request.worst_gap_s = max(request.worst_gap_s, gap_s)
        request.last_token_s = now_s
        request.add_generated()
        inst.outstanding_tokens += 1
        if request.generated >= self._outputs[request.id]:
            del inst._prefilling[slot.index][request.id]
            self._close(request, FINISHED, now_s)
        elif inst.role == "prefill":
            del inst._prefilling[slot.index][request.id]
            request.phase = Phase.HANDED
            self._on_stage(request, now_s)
        else:
            del inst._prefilling[slot.index][request.id]
            self._join(request, slot)

    def _join(self, request: SimRequest, slot: Slot) -> None:
        """Start decoding with the others of the slot."""
        computed = request.computed
        request.phase = Phase.DECODE
        request.slot = slot.index
        request.serial += 1
        self.inst._decoding[slot.index][request.id] = request
        self.inst.pool.join(slot.index, computed)
        slot.context += computed
        left = self._outputs[request.id] - request.generated
        request.start_decoding(slot.counter)
        slot.will_end(request, slot.counter.tick + left)
        slot.joiners.append(request)

    def _stop_decoding(self, request: SimRequest, slot: Slot) -> None:
        """Take a request out of the decoding set; its counts stand still."""
        computed = request.computed
        request.stop_decoding()
        request.num_blocks = max(request.num_blocks, -(-computed // self.inst.pool.block_tokens))
        request.serial += 1
        del self.inst._decoding[slot.index][request.id]
        self.inst.pool.leave(slot.index, computed)
        slot.context -= computed
        if request in slot.joiners:
            slot.joiners.remove(request)
        else:
            request.last_token_s = slot.last_decode_s
            worst = max(request.first_gap_s, slot.worst_gap_after(request.join_tick))
            request.worst_gap_s = max(request.worst_gap_s, worst)
        request.first_gap_s = 0.0

    def _detach(self, request: SimRequest) -> None:
        """Take a request off the instance, wherever it is, and give its blocks back."""
        inst = self.inst
        slot = self.slots[request.slot] if request.slot >= 0 else None
        if request.phase is Phase.DECODE:
            assert slot is not None
            self._stop_decoding(request, slot)
        elif request.phase is Phase.PREFILL:
            del inst._prefilling[request.slot][request.id]
        elif request.phase is Phase.PARKED:
            del inst._parked[request.slot][request.id]
            inst.pool.host_free += -(-request.computed // inst.pool.block_tokens)
        elif request.phase is Phase.WAITING and request in inst.waiting:
            inst.waiting.remove(request)
        if request.has_blocks:
            inst.pool.release(request)
        request.slot = -1

    def _close(self, request: SimRequest, status: int, now_s: float) -> None:
        """The request is over; its row is written."""
        inst, recorder = self.inst, self._recorder
        inst.outstanding_tokens -= request.pending
        if request.has_blocks:
            if self._next_keys is not None:
                inst.pool.publish_ended(request, self._next_keys(request.id), request.computed)
            inst.pool.release(request)
        self.alive.pop(request.id, None)
        request.slot = -1
        i = request.id
        recorder.status[i] = status
        recorder.instance[i] = inst.id
        recorder.output_tokens[i] = request.generated
        recorder.preemptions[i] = request.preemptions
        if status == FINISHED:
            recorder.finished_s[i] = now_s
        if request.generated > 1:
            recorder.max_gap_s[i] = request.worst_gap_s
        self._on_end(request, now_s)

    # Actions of a step

    def _apply(self, action: Action, slot: Slot, now_s: float) -> float:
        """Carry an action out; the seconds the step is held up by it."""
        if not isinstance(action, Park | Resume | Abort):
            raise PolicyError(f"{action} is not an action of a step")
        request = self.alive.get(action.request)
        if request is None:
            self.refused.append(Refused(action, "the request is not on this instance"))
            return 0.0
        if isinstance(action, Park):
            return self._park(action, request, slot, now_s)
        if isinstance(action, Resume):
            return self._resume(action, request, slot, now_s)
        self._detach(request)
        self._close(request, FAILED, now_s)
        return 0.0

    def _park(self, action: Park, request: SimRequest, slot: Slot, now_s: float) -> float:
        inst, pool = self.inst, self.inst.pool
        running = request.phase in (Phase.DECODE, Phase.PREFILL) and request.slot == slot.index
        if not running and not (request.phase is Phase.WAITING and request.has_blocks):
            raise PolicyError(f"{action}: the request is {request.phase.value}, not running here")
        blocks = -(-request.computed // pool.block_tokens)
        swap = action.how == "swap" and request.phase is Phase.DECODE
        if swap and (blocks > pool.host_free or (self._unlucky is not None and self._unlucky())):
            self.refused.append(Refused(action, f"{pool.host_free} host blocks are free"))
            return 0.0
        before = request.pending
        if request.phase is Phase.DECODE:
            self._stop_decoding(request, slot)
        elif request.phase is Phase.PREFILL:
            del inst._prefilling[slot.index][request.id]
        else:
            inst.waiting.remove(request)
        pool.release(request)
        request.preemptions += 1
        request.parked_at_s = now_s
        if swap:
            pool.host_free -= blocks
            request.phase = Phase.PARKED
            inst._parked[slot.index][request.id] = request
            return inst.clock.swap_s(request.computed)
        request.drop_kv()
        request.phase = Phase.WAITING
        request.slot = -1
        inst.outstanding_tokens += request.pending - before
        inst.waiting.appendleft(request)
        if -(-(request.pending + 1) // pool.block_tokens) + pool.per_request > pool.total:
            self._detach(request)
            self._close(request, FAILED, now_s)
        return 0.0

    def _resume(self, action: Resume, request: SimRequest, slot: Slot, now_s: float) -> float:
        inst, pool = self.inst, self.inst.pool
        if request.phase is not Phase.PARKED or request.slot != slot.index:
            raise PolicyError(f"{action}: the request is {request.phase.value}, not parked here")
        computed = request.computed
        if pool.blocks_for(request, computed + 1) > pool.free:
            raise PolicyError(f"{action}: its {computed} tokens do not fit in {pool.free} blocks")
        del inst._parked[slot.index][request.id]
        pool.host_free += -(-computed // pool.block_tokens)
        pool.attach(request)
        pool.grow(request, computed)
        self._end_park(request, now_s)
        self._join(request, slot)
        return inst.clock.swap_s(computed)

    def _end_park(self, request: SimRequest, now_s: float) -> None:
        if request.parked_at_s is not None:
            self._recorder.park((request.id, self.inst.id, request.parked_at_s, now_s))
            request.parked_at_s = None
