"""The real engine of one instance: the simulator's books, a worker's tensors, the wall clock.

Everything that decides or counts is ``executors.engine.Engine``'s; this class sends the step it
begins to a worker and finishes it when the answer is here. The true output length of a request,
which the simulator knows beforehand, is found out: a token that ends the request sets it.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from plimsoll.serving.executors.engine import Engine
from plimsoll.serving.executors.recorder import FAILED
from plimsoll.serving.executors.requests import SimRequest
from plimsoll.serving.executors.residents import num_common
from plimsoll.serving.executors.slots import Slot
from plimsoll.serving.executors.torch.messages import (
    AS_DRAWN,
    Effect,
    Forget,
    Held,
    Register,
    StepDone,
    StepWork,
    SwapIn,
    SwapOut,
    Wipe,
    Work,
)
from plimsoll.serving.executors.torch.sampling.finish import ends
from plimsoll.serving.executors.torch.worker_swaps import WorkerSwaps
from plimsoll.serving.generation import FinishReason, SamplingParams, TokenLogprobs
from plimsoll.serving.kv.numbered import NumberedPool
from plimsoll.serving.policy import Park, Phase, Resume

__all__ = ["Conversation", "TorchEngine"]


class Conversation:
    """The tokens of one request. ``stops(token)`` says whether text ends it; ``deliver(tokens,
    logprobs)`` is told what came of each step, ``end(conversation)`` that it is over."""

    __slots__ = (
        "cached_tokens",
        "deliver",
        "end",
        "error",
        "finish",
        "params",
        "prompt",
        "stops",
        "tokens",
    )

    def __init__(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        *,
        deliver: Callable[[int, TokenLogprobs | None], None],
        end: "Callable[[Conversation], None]",
        stops: Callable[[int], bool] | None = None,
    ) -> None:
        self.prompt = list(prompt)
        self.tokens: list[int] = []
        self.params = params
        self.deliver = deliver
        self.end = end
        self.stops = stops
        self.finish: FinishReason | None = None
        self.error = ""
        self.cached_tokens = 0

    def span(self, start: int, stop: int) -> list[int]:
        """Tokens ``start`` to ``stop`` of prompt and output together."""
        n = len(self.prompt)
        if stop <= n:
            return self.prompt[start:stop]
        return self.prompt[start:] + self.tokens[max(start - n, 0) : stop - n]


class TorchEngine(Engine):
    """``send`` hands a message to the instance's worker; ``texts`` are the requests' tokens.

    ``deliveries`` collects (conversation, token, logprobs) of finished steps until the run
    delivers them, which it does while the next step is computed.
    """

    def __init__(
        self,
        *,
        send: Callable[[Any], None],
        texts: dict[int, Conversation],
        eos_ids: Collection[int],
        **rest: Any,
    ) -> None:
        super().__init__(fast_forward=False, **rest)
        self._send = send
        self._texts = texts
        self._eos_ids = frozenset(eos_ids)
        self._effects: list[Effect] = []
        self._known: set[int] = set()
        self._step_serial = 0
        self._under_way: dict[int, int] = {}
        self._formed: int | None = None
        """The step that was sent ahead, by its serial."""
        self.held: Callable[[int], Sequence[Held]] = lambda request_id: ()
        """What others hold of a request here."""
        self.exchanged: list[tuple[int, int]] = []
        """Bytes and queries to and from other workers, of each step that had any."""
        self.deliveries: list[tuple[Conversation, int, TokenLogprobs | None]] = []
        self.busy_s = 0.0
        self._unserved: set[int] = set()
        """Requests of the step under way whose copy back failed: they got no token."""
        self._said: dict[int, list[int]] = {}
        """Tokens of sessions of which the host has KV."""

    @property
    def numbers(self) -> NumberedPool:
        """The pool, with its tables."""
        pool = self.inst._pool
        assert isinstance(pool, NumberedPool)
        return pool

    def _schedule(self, slot: Slot, end_s: float) -> None:
        """Send the step; ``end_s`` is only the clock's guess."""
        slot.busy = True
        slot.end_s = end_s
        slot.version += 1
        pool, index = self.numbers, slot.index
        if self._formed is not None:
            self._under_way[index], self._formed = self._formed, None
            return
        if slot.num_decodes and not slot.accounted:
            pool.take(pool.blocks_of_steps(index, 0, 1))
            slot.accounted = 1
        work = [self._work(request, tokens) for request, tokens in slot.chunks]
        if slot.num_decodes:
            for request in self.inst._decoding[index].values():
                pool.cover(request, request.computed + 1)
                work.append(self._work(request, 1))
        self._under_way[index] = self._send_step(index, work)

    def _send_step(self, index: int, work: Sequence[Work]) -> int:
        self._step_serial += 1
        effects, self._effects = self._effects, []
        waits, returning = self._waits()
        self._send(StepWork(self._step_serial, index, effects, work, waits, returning))
        return self._step_serial

    def _waits(self) -> tuple[list[int], dict[int, int]]:
        """Copies that the next step waits for, and the requests that return by them."""
        swaps = self.swaps
        if not isinstance(swaps, WorkerSwaps):
            return [], {}
        waits, swaps.waits = swaps.waits, []
        returning, swaps.returning = swaps.returning, {}
        return waits, returning

    def emit(self, effect: Effect) -> None:
        """Have the worker do something before the next step."""
        self._effects.append(effect)

    def begin(self, slot: Slot, now_s: float) -> bool:
        """See ``Engine``; copies begin though no step does."""
        changed = super().begin(slot, now_s)
        if self.swaps is not None and self._effects and not slot.busy:
            effects, self._effects = self._effects, []
            self._send(StepWork(-1, slot.index, effects, []))
        return changed

    def _form(self, slot: Slot) -> None:
        """Send the step after the one under way; its tokens are those that one will draw."""
        pool, work = self.numbers, []
        for request in self.inst._decoding[slot.index].values():
            start = request.computed + 1
            pool.cover(request, start + 1)
            table = list(pool.tables[request.id])
            work.append(Work(request.id, [AS_DRAWN], start, table, request.generated + 1))
        self._formed = self._send_step(slot.index, work)

    def _work(self, request: SimRequest, num_tokens: int) -> Work:
        text = self._texts[request.id]
        if request.id not in self._known:
            self._known.add(request.id)
            self._effects.append(Register(request.id, text.prompt, list(text.tokens), text.params))
        start = request.computed
        last = start + num_tokens == request.prompt_tokens + request.generated
        return Work(
            request.id,
            text.span(start, start + num_tokens),
            start,
            list(self.numbers.tables[request.id]),
            request.generated if last else -1,
            self.held(request.id) if self.numbers.away else (),
        )

    def held_tokens(self, request: SimRequest, now_s: float) -> int:
        """What the worker has answered for; when the step under way ends, nobody knows."""
        return request.computed

    def finish_step(self, done: StepDone, now_s: float) -> bool:
        """The worker's answer: account for the step; False if it was given up meanwhile."""
        slot = self.slots[done.slot]
        if not slot.busy or self._under_way.get(done.slot) != done.serial:
            return False
        self.busy_s += done.busy_s
        slot.end_s = now_s
        slot.step_s = now_s - slot.start_s - slot.stall_s
        for request_id, token in done.tokens.items():
            request = self.alive.get(request_id)
            if request is None or request.phase is Phase.WAITING:
                continue  # gone, or to be computed again
            text = self._texts[request_id]
            text.tokens.append(token)
            self.deliveries.append((text, token, done.logprobs.get(request_id)))
            number = len(text.tokens)
            reason = ends(text.params, token, number, self._eos_ids)
            if text.stops is not None and text.stops(token):
                reason = "stop"
            if reason is None and number >= self._outputs[request_id]:
                reason = "length"
            if reason is not None:
                text.finish = reason
                self._outputs[request_id] = number
                if request.phase is Phase.DECODE:
                    slot.will_end(request, slot.counter.tick + 1)
        for request_id, why in done.broken.items():
            request = self.alive.get(request_id)
            if request is not None:
                self._texts[request_id].error = why
                if request_id in self.numbers.tables:  # else it holds none here
                    own = self.numbers.private_blocks(request)  # others may read the shared ones
                    self._effects.append(Wipe(request_id, own))
                if request.phase is Phase.DECODE:
                    slot.leaving.append((request, FAILED))
                else:
                    self.detach(request)
                    self.close(request, FAILED, now_s)
        if self._unserved:
            self._redo_unserved(slot, now_s)
        if done.exchanged[1]:
            self.exchanged.append(done.exchanged)
        for request_id in done.unread:
            request = self.alive.get(request_id)
            if request is not None and request.has_blocks:
                self._take_back(request, slot, now_s)
        slot.busy = False
        self._finish_run(slot)
        return True

    def _take_back(self, request: SimRequest, slot: Slot, now_s: float) -> None:
        """For a request that could not read its KV the step has not been; it starts over."""
        pool = self.numbers
        if request.phase is Phase.DECODE:
            edge = request.computed % pool.block_tokens == 0
            self.stop_decoding(request, slot)
            slot.num_decodes -= 1
            if edge:
                pool.take(-1)
            pool.trim(request)
            request.phase = Phase.WAITING
            request.slot = -1
        self.start_over(request, now_s)

    def complete(self, slot: Slot, now_s: float) -> None:
        """Begin what can begin; the step before is accounted for."""
        self._go_on(slot, now_s)

    def _through_stages(self, start_s: float, stage_s: float) -> float:
        return start_s + stage_s  # the worker's stages keep their own time

    def _finish_until(self, slot: Slot, now_s: float) -> None:
        """A step whose answer is not here never happened."""
        if slot.accounted:
            pool = self.inst._pool
            pool.take(-pool.blocks_of_steps(slot.index, 0, slot.accounted))
            slot.accounted = 0
        slot.chunks = []
        slot.formed, self._formed = 0, None

    # Effects

    def park(self, action: Park, request: SimRequest, slot: Slot, now_s: float) -> float:
        """See ``Residents``; a swap's copy goes with the step."""
        table = list(self.numbers.tables.get(request.id, ()))
        super().park(action, request, slot, now_s)
        if request.phase is Phase.PARKED and self.swaps is None:
            self._effects.append(SwapOut(request.id, table, request.computed))
        return 0.0

    def resume(self, action: Resume, request: SimRequest, slot: Slot, now_s: float) -> float:
        """See ``Residents``."""
        super().resume(action, request, slot, now_s)
        if self.swaps is not None:
            return 0.0
        self._effects.append(SwapIn(request.id, list(self.numbers.tables[request.id])))
        return 0.0

    def copied(self, event: int, now_s: float, *, failed: bool = False) -> bool:
        """See ``Residents``; a failed copy that a step waits for is dealt with when it ends."""
        swaps = self.swaps
        if swaps is None:
            return False
        assert isinstance(swaps, WorkerSwaps)
        unserved = swaps.heard(event, now_s, failed=failed)
        if unserved is None:
            return super().copied(event, now_s, failed=failed)
        self._unserved.add(unserved)
        slot = self.slots[0]
        if not slot.busy:
            self._redo_unserved(slot, now_s)
        return True

    def _redo_unserved(self, slot: Slot, now_s: float) -> None:
        """Take the step's token back from requests that were not there, and compute them again."""
        assert self.swaps is not None
        pool, decoding = self.numbers, self.inst._decoding[slot.index]
        before, num = pool.blocks_of_steps(slot.index, 0, slot.accounted), len(decoding)
        unserved, self._unserved = self._unserved, set()
        self.swaps.lost += [i for i in unserved if i in self.alive and self.alive[i].computed]
        self.redo_lost(now_s)
        if slot.busy and slot.num_decodes:
            slot.num_decodes -= num - len(decoding)
            pool.take(pool.blocks_of_steps(slot.index, 0, slot.accounted) - before)

    def shared_tokens(self, request: SimRequest) -> int:
        """See ``Residents``: of what the session said before."""
        said = self._said.pop(request.session_id, [])
        prompt = self._texts[request.id].prompt
        return min(num_common(said, prompt), len(prompt) - 1)

    def kept_tokens(self, request: SimRequest) -> int:
        """See ``Residents``: all, and the next turn's prompt is held against them."""
        text = self._texts[request.id]
        if request.session_id >= 0 and self.swaps is not None and self.swaps.spec.reuse:
            self._said[request.session_id] = text.span(0, request.computed)
        return request.computed

    def close(self, request: SimRequest, status: int, now_s: float) -> None:
        """See ``Residents``."""
        super().close(request, status, now_s)
        if self.swaps is not None and not self.swaps.manager.session_tokens(request.session_id):
            self._said.pop(request.session_id, None)
        self.forget(request.id)

    def forget(self, request_id: int) -> None:
        """The worker may drop what it knows of a request that is not here any more."""
        if request_id in self._known:
            self._known.remove(request_id)
            self._effects.append(Forget(request_id))

    def tidy(self) -> None:
        """With no request left, tell the worker what it may drop: no step will."""
        if self._effects and not self.alive and not any(slot.busy for slot in self.slots):
            effects, self._effects = self._effects, []
            self._send(StepWork(-1, 0, effects, []))

    def lose(self, now_s: float) -> list[SimRequest]:
        """See ``Engine``; a new worker knows nothing."""
        self._known.clear()
        self._effects.clear()
        self._under_way.clear()
        self._formed = None
        self._unserved.clear()
        self._said.clear()
        return super().lose(now_s)

    def restarted(self, send: Callable[[Any], None]) -> None:
        """A new worker is there."""
        self._send = send

    def tell(self, message: Any) -> None:
        """Send the worker something that is no step."""
        self._send(message)
