"""The requests of one simulated instance: how they start, decode, step aside and leave.

Every change of state is made here, with its blocks, its counts and its row of the record, at
the time that the engine says. Which requests, and when, is the engine's matter.
"""

from collections.abc import Callable, Sequence

from plimsoll.serving.executors.instance import SimInstance
from plimsoll.serving.executors.recorder import FAILED, FINISHED, Recorder
from plimsoll.serving.executors.requests import SimRequest
from plimsoll.serving.executors.slots import Slot
from plimsoll.serving.executors.swaps import Swaps
from plimsoll.serving.policy import (
    Abort,
    Park,
    Phase,
    Pin,
    Refused,
    Resume,
    Run,
    Unpin,
    View,
)
from plimsoll.spec.errors import PolicyError

__all__ = ["Residents", "num_common"]


def num_common(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """How many leading elements are equal."""
    pairs = enumerate(zip(ours, theirs, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(ours), len(theirs)))


class Residents:
    """``outputs`` are the true lengths; no policy can reach them.

    ``on_end(request, time)`` is told when a request leaves for good, ``on_stage(request,
    time)`` when a prompt has run on an instance that only prefills. ``unlucky()`` says whether
    to refuse a swap for the sake of testing; ``next_keys(id)`` are the prefix keys of the same
    session's next turn.
    """

    def __init__(
        self,
        *,
        inst: SimInstance,
        view: View,
        outputs: list[int] | dict[int, int],
        recorder: Recorder,
        on_end: Callable[[SimRequest, float], None],
        on_stage: Callable[[SimRequest, float], None],
        unlucky: Callable[[], bool] | None,
        next_keys: Callable[[int], list[int]] | None,
    ) -> None:
        self.inst = inst
        self.slots = [Slot(i) for i in range(inst.num_slots)]
        self.alive: dict[int, SimRequest] = {}
        """Everything admitted here and not gone."""
        self.landed: list[SimRequest] = []
        """Requests that moved here while they ran and have no place in a step yet."""
        self.refused: list[Refused] = []
        """Decisions of this instance's policy that came too late."""
        self.swaps: Swaps | None = None
        """None: a swap is one copy of everything, and the step waits for it."""
        self._view = view
        self._outputs = outputs
        self._recorder = recorder
        self._on_end = on_end
        self._on_stage = on_stage
        self._unlucky = unlucky
        self._next_keys = next_keys

    def start(self, run: Run, request: SimRequest, slot: Slot, now_s: float) -> None:
        """Waiting to running: attach the cached prefix."""
        inst, pool, recorder = self.inst, self.inst._pool, self._recorder
        self.check_room(run, slot)
        fresh = request.generated == 0 and request.preemptions == 0
        waiting = inst.waiting
        if waiting[0] is request:
            waiting.popleft()
        else:
            waiting.remove(request)
        if not request.has_blocks:
            if pool.per_request > pool.free:
                raise PolicyError(f"{run}: no blocks are free for its fixed-size state")
            cached = pool.attach(request)
            if cached:
                request.add_computed(cached)
                inst.outstanding_tokens -= cached
            if fresh:
                recorder.cached_tokens[request.id] = cached
        request.phase = Phase.PREFILL
        request.slot = slot.index
        inst._prefilling[slot.index][request.id] = request
        if fresh:
            recorder.scheduled_s[request.id] = now_s
            recorder.prefill_instance[request.id] = inst.id

    def sample(self, request: SimRequest, slot: Slot, now_s: float) -> None:
        """A prompt (or recomputation) is through: one token comes out of it."""
        inst, recorder = self.inst, self._recorder
        if request.generated == 0:
            recorder.first_token_s[request.id] = now_s
        else:
            gap_s = now_s - request.last_token_s
            recorder.gap((gap_s, 1))
            request.worst_gap_s = max(request.worst_gap_s, gap_s)
        if request.parked_at_s is not None:
            self.end_park(request, now_s)
        request.last_token_s = now_s
        request.add_generated()
        inst.outstanding_tokens += 1
        del inst._prefilling[slot.index][request.id]
        if request.generated >= self._outputs[request.id]:
            self.close(request, FINISHED, now_s)
        elif inst.role == "prefill":
            request.phase = Phase.HANDED
            self._on_stage(request, now_s)
        else:
            self.join(request, slot)

    def join(self, request: SimRequest, slot: Slot) -> None:
        """Start decoding with the others of the slot."""
        computed = request.computed
        request.phase = Phase.DECODE
        request.slot = slot.index
        request.serial += 1
        self.inst._decoding[slot.index][request.id] = request
        self.inst._pool.join(slot.index, computed)
        slot.context += computed
        left = self._outputs[request.id] - request.generated
        request.start_decoding(slot.counter)
        slot.will_end(request, slot.counter.tick + left)
        slot.joiners.append(request)
        slot.changed = True

    def stop_decoding(self, request: SimRequest, slot: Slot) -> None:
        """Take a request out of the decoding set; its counts stand still."""
        computed = request.computed
        request.stop_decoding()
        request.num_blocks = max(request.num_blocks, -(-computed // self.inst._pool.block_tokens))
        request.serial += 1
        del self.inst._decoding[slot.index][request.id]
        self.inst._pool.leave(slot.index, computed)
        slot.context -= computed
        if request in slot.joiners:
            slot.joiners.remove(request)
        else:
            request.last_token_s = slot.last_decode_s
            worst = max(request.first_gap_s, slot.worst_gap_after(request.join_tick))
            request.worst_gap_s = max(request.worst_gap_s, worst)
        request.first_gap_s = 0.0
        slot.changed = True

    def stop_for_move(self, request: SimRequest, slot: Slot) -> None:
        """Take a request that still decodes out of its slot; it keeps its blocks."""
        if request.phase is Phase.DECODE and request.slot == slot.index:
            self.stop_decoding(request, slot)
            self.inst._pool.trim(request)
            if self.swaps is not None:  # a copy is of use only where the request runs
                self.swaps.drop(request.id)
            request.phase = Phase.MOVING
            request.slot = -1

    def land(self, request: SimRequest) -> None:
        """A request that was stopped for a move goes on here from the next step on, with the
        blocks it holds on this instance. Wake the instance afterwards."""
        if request.id not in self.alive:
            self.inst.outstanding_tokens += request.pending
            self.alive[request.id] = request
        request.instance = self.inst.id
        request.has_blocks = True
        request.phase = Phase.WAITING
        request.slot = -1
        self.landed.append(request)

    def seat_landed(self, slot: Slot) -> None:
        """What landed here decodes with the others, or waits first in line for a place."""
        landed, self.landed = self.landed, []
        inst = self.inst
        for request in landed:
            if self.alive.get(request.id) is not request or request.phase is not Phase.WAITING:
                continue
            running = len(inst._decoding[slot.index]) + len(inst._prefilling[slot.index])
            if running < inst.max_num_seqs:
                self.seat(request, slot)
            else:
                inst.waiting.appendleft(request)

    def seat(self, request: SimRequest, slot: Slot) -> None:
        """A request with KV goes on: it decodes, or prefills what is left of its prompt."""
        if request.pending == 1 and request.generated:
            self.join(request, slot)
        else:
            request.phase = Phase.PREFILL
            request.slot = slot.index
            self.inst._prefilling[slot.index][request.id] = request

    def detach(self, request: SimRequest) -> None:
        """Take a request off the instance, wherever it is, and give its blocks back."""
        inst = self.inst
        slot = self.slots[request.slot] if request.slot >= 0 else None
        if request.phase is Phase.DECODE:
            assert slot is not None
            self.stop_decoding(request, slot)
        elif request.phase is Phase.PREFILL:
            del inst._prefilling[request.slot][request.id]
        elif request.phase is Phase.PARKED:
            del inst._parked[request.slot][request.id]
            if self.swaps is None:
                inst._pool.host_free += -(-request.computed // inst._pool.block_tokens)
        elif request.phase is Phase.RETURNING:
            del inst._returning[request.id]
        elif request.phase is Phase.WAITING and request in inst.waiting:
            inst.waiting.remove(request)
        if request.has_blocks:
            inst._pool.release(request)
        if self.swaps is not None:
            self.swaps.drop(request.id)
        request.slot = -1

    def close(self, request: SimRequest, status: int, now_s: float) -> None:
        """The request is over; its row is written."""
        inst, recorder = self.inst, self._recorder
        inst.outstanding_tokens -= request.pending
        if request.has_blocks:
            if self._next_keys is not None:
                inst._pool.publish_ended(request, self._next_keys(request.id), request.computed)
            inst._pool.release(request)
        if self.swaps is not None:
            if status == FINISHED:
                self.swaps.hand_on(request, self.kept_tokens(request))
            self.swaps.drop(request.id)
        self.alive.pop(request.id, None)
        request.slot = -1
        i, generated = request.id, request.generated
        recorder.status[i] = status
        recorder.instance[i] = inst.id
        recorder.output_tokens[i] = generated
        if request.preemptions:
            recorder.preemptions[i] = request.preemptions
        if status == FINISHED:
            recorder.finished_s[i] = now_s
        if generated > 1:
            recorder.max_gap_s[i] = request.worst_gap_s
        self._on_end(request, now_s)

    def park(self, action: Park, request: SimRequest, slot: Slot, now_s: float) -> float:
        inst, pool = self.inst, self.inst._pool
        if action.how not in ("recompute", "swap"):
            raise PolicyError(f"{action}: how is recompute or swap")
        running = request.phase in (Phase.DECODE, Phase.PREFILL) and request.slot == slot.index
        if not running and not (request.phase is Phase.WAITING and request.has_blocks):
            raise PolicyError(f"{action}: the request is {request.phase.value}, not running here")
        blocks = -(-request.computed // pool.block_tokens)
        swap = action.how == "swap" and request.phase is Phase.DECODE
        if self.swaps is not None and request.phase is Phase.PREFILL and request.computed:
            swap = action.how == "swap"
        swap = swap and request.id not in pool.away  # what others hold cannot be put aside
        if swap and (blocks > pool.host_free or (self._unlucky is not None and self._unlucky())):
            self.refused.append(Refused(action, f"{pool.host_free} host blocks are free"))
            return 0.0
        before = request.pending
        if request.phase is Phase.DECODE:
            self.stop_decoding(request, slot)
        elif request.phase is Phase.PREFILL:
            del inst._prefilling[slot.index][request.id]
        else:
            inst.waiting.remove(request)
        if self.swaps is not None:
            if swap:
                self.swaps.leave(request, now_s)
            else:
                self.swaps.drop(request.id)
        pool.release(request)
        request.preemptions += 1
        self.end_park(request, now_s)  # it may have been on its way back
        request.parked_at_s = now_s
        if swap:
            request.phase = Phase.PARKED
            inst._parked[slot.index][request.id] = request
            if self.swaps is not None:
                return 0.0  # the swap manager's copies are paid where the step begins
            pool.host_free -= blocks
            return inst.clock.swap_s(request.computed)
        self._put_back(request, before, now_s)
        return 0.0

    def _put_back(self, request: SimRequest, before: int, now_s: float) -> None:
        """Without KV it waits first in line, all tokens pending where ``before`` were; what has
        outgrown the memory ends."""
        inst, pool = self.inst, self.inst._pool
        request.drop_kv()
        request.phase = Phase.WAITING
        request.slot = -1
        inst.outstanding_tokens += request.pending - before
        inst.waiting.appendleft(request)
        needed = -(-(request.pending + 1) // pool.block_tokens) + pool.per_request
        if needed > max(pool.total, request.borrows):
            self.detach(request)
            self.close(request, FAILED, now_s)

    def start_over(self, request: SimRequest, now_s: float) -> None:
        """Part of the KV of a request that is in no decode step is lost: it is computed again."""
        if self.alive.get(request.id) is not request or not request.has_blocks:
            return
        before = request.pending
        self.detach(request)
        request.preemptions += 1
        self.end_park(request, now_s)
        request.parked_at_s = now_s
        self._put_back(request, before, now_s)

    def resume(self, action: Resume, request: SimRequest, slot: Slot, now_s: float) -> float:
        inst, pool = self.inst, self.inst._pool
        if request.phase is not Phase.PARKED or request.slot != slot.index:
            raise PolicyError(f"{action}: the request is {request.phase.value}, not parked here")
        computed = request.computed
        if pool.blocks_for(request, computed + 1) > pool.free:
            raise PolicyError(f"{action}: its {computed} tokens do not fit in {pool.free} blocks")
        self.check_room(action, slot)
        del inst._parked[slot.index][request.id]
        if self.swaps is None:
            pool.host_free += -(-computed // pool.block_tokens)
        pool.attach(request)
        if self.swaps is None:
            pool.grow(request, computed)
        else:
            self.swaps.grow(request)
            if request.generated == 0 and request.preemptions == 0:
                self._recorder.scheduled_s[request.id] = now_s
                self._recorder.prefill_instance[request.id] = inst.id
            if not self.swaps.come_back(request, self._num_going_on(slot), now_s):
                request.phase = Phase.RETURNING
                request.slot = -1
                inst._returning[request.id] = request
                return 0.0
            self.end_park(request, now_s)
            self.seat(request, slot)
            return 0.0
        self.end_park(request, now_s)
        self.join(request, slot)
        return inst.clock.swap_s(computed)

    def kept_tokens(self, request: SimRequest) -> int:
        """Tokens of a turn that ended with which the session's next one begins."""
        assert self.swaps is not None
        unit, ours = self.swaps.key_tokens, request.prefix_keys
        theirs = self._next_keys(request.id) if self._next_keys is not None else []
        common = num_common(ours, theirs)
        if common < len(ours):
            return common * unit
        return min(request.computed, len(theirs) * unit)

    def _num_going_on(self, slot: Slot) -> int:
        """Requests that run in the step about to begin whatever comes back."""
        return len(self.inst._decoding[slot.index]) + len(self.inst._prefilling[slot.index])

    def end_park(self, request: SimRequest, now_s: float) -> None:
        if request.parked_at_s is not None:
            self._recorder.park((request.id, self.inst.id, request.parked_at_s, now_s))
            request.parked_at_s = None

    def pin(self, action: Pin, request: SimRequest) -> None:
        pool = self.inst._pool
        unit = pool.unit_tokens
        if action.num_tokens < 1 or (unit and action.num_tokens % unit):
            raise PolicyError(f"{action}: a pin holds whole units of {unit} tokens")
        if pool.is_pinned(request.id):
            raise PolicyError(f"{action}: a prefix is pinned under this request already")
        if not pool.pin(request, action.num_tokens):
            self.refused.append(Refused(action, "the prefix cache does not hold all of it"))

    def unpin(self, action: Unpin) -> None:
        if self.inst._pool.is_pinned(action.request):
            self.inst._pool.unpin(action.request)
        else:
            self.refused.append(Refused(action, "nothing is pinned under the request"))

    def absent(self, decision: Run | Park | Resume | Abort | Pin) -> None:
        """The request of a decision is not here: refused if it was overtaken, else an error."""
        i = decision.request
        arrivals = self._recorder.arrival_s
        if type(i) is not int or not 0 <= i < len(arrivals) or arrivals[i] != arrivals[i]:
            raise PolicyError(f"{decision}: there is no such request")
        if self._view.has(i) and self._view.request(i).phase is Phase.MOVING:
            raise PolicyError(f"{decision}: the request is moving")
        self.refused.append(Refused(decision, "the request is not on this instance"))

    def check_room(self, decision: Run | Resume, slot: Slot) -> None:
        inst = self.inst
        running = len(inst._decoding[slot.index]) + len(inst._prefilling[slot.index])
        if running >= inst.max_num_seqs:
            raise PolicyError(f"{decision}: {running} requests run, max_num_seqs allows no more")
