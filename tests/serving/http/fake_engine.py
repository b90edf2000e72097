"""A deterministic engine on a thread of its own: echoes, or says what it is told to say.

Without ``say`` the n-th token of a request is the prompt's, rotated by the seed. A step gives
every running request one token; ``pace_s`` is the time between two steps.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from plimsoll.serving.generation import (
    Delta,
    EngineStats,
    FinishReason,
    Generation,
    TokenLogprobs,
)
from plimsoll.serving.http.tokens import TextTools

BROKEN = "\ufffd"


@dataclass
class Running:
    """A request inside."""

    generation: Generation
    deliver: Callable[[Delta], None]
    said: list[int] | None
    tokens: list[int] = field(default_factory=list)
    shown: int = 0


class FakeEngine:
    """See ``LiveEngine``. ``hold`` keeps it from taking steps, ``cancels`` records."""

    def __init__(
        self,
        text: TextTools,
        *,
        say: Callable[[Generation], str] | None = None,
        pace_s: float = 0.0,
        refuse: str = "",
        fail_after: int | None = None,
        max_model_len: int = 4096,
    ) -> None:
        self.model_name = "fake/model-1"
        self.max_model_len = max_model_len
        self.vocab_size = 260
        self.text = text
        self.say = say
        self.pace_s = pace_s
        self.refuse = refuse
        self.fail_after = fail_after
        self.up = True
        self.cancels: list[tuple[int, float]] = []
        self.seen: list[Generation] = []
        self.drained_at_s: float | None = None
        self._running: dict[int, Running] = {}
        self._changed = threading.Condition()
        self._held = False
        self._draining = False
        self._stopping = False
        self._generated = 0
        self._prompt_tokens = 0
        self._finished = 0
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def submit(self, generation: Generation, deliver: Callable[[Delta], None]) -> int:
        with self._changed:
            request = len(self.seen)
            self.seen.append(generation)
            self._prompt_tokens += len(generation.prompt)
            refusal = "The engine is draining." if self._draining else self.refuse
            if not refusal:
                said = None if self.say is None else self.text.encode(self.say(generation))
                self._running[request] = Running(generation, deliver, said)
                self._changed.notify_all()
                return request
        deliver(Delta(finish="rejected", error=refusal))
        return request

    def cancel(self, request: int) -> None:
        with self._changed:
            self.cancels.append((request, time.monotonic()))
            gone = self._running.pop(request, None)
            self._changed.notify_all()
        if gone is not None:
            gone.deliver(Delta(finish="cancelled"))

    def embed(
        self,
        prompt: Sequence[int],
        pooling: Literal["mean", "last"],
        deliver: Callable[[Sequence[float] | str], None],
    ) -> None:
        if self.refuse:
            deliver(self.refuse)
        elif pooling == "last":
            deliver([float(prompt[-1]), 0.0, 0.0])
        else:
            deliver([float(sum(prompt)), float(len(prompt)), 1.0])

    def stats(self) -> EngineStats:
        with self._changed:
            return EngineStats(
                running=len(self._running),
                waiting=0,
                used_blocks=2 * len(self._running),
                total_blocks=40_000,
                preemptions=0,
                prompt_tokens=self._prompt_tokens,
                cached_tokens=0,
                generated_tokens=self._generated,
                finished=self._finished,
                failed=0,
                replicas_up=int(self.up),
                replicas=1,
            )

    def healthy(self) -> bool:
        return self.up

    def hold(self, held: bool = True) -> None:
        """Take no steps until ``hold(False)``."""
        with self._changed:
            self._held = held
            self._changed.notify_all()

    def wait_for(self, what: Callable[[], bool], timeout_s: float = 10.0) -> bool:
        """Whether ``what`` came true in time."""
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s:
            if what():
                return True
            time.sleep(0.002)
        return what()

    def drain(self, timeout_s: float) -> bool:
        with self._changed:
            self._draining = True
            done = self._changed.wait_for(lambda: not self._running, timeout_s)
        self.drained_at_s = time.monotonic()
        return done

    def close(self) -> None:
        with self._changed:
            self._stopping = True
            left, self._running = list(self._running.values()), {}
            self._changed.notify_all()
        for one in left:
            one.deliver(Delta(finish="error", error="The engine was stopped."))
        self._thread.join()

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or (self._running and not self._held))
                if self._stopping:
                    return
                batch = list(self._running.items())
            for request, one in batch:
                delta = self._step(one)
                if delta.finish is not None:
                    with self._changed:
                        if self._running.pop(request, None) is None:
                            continue
                        self._finished += 1
                        self._changed.notify_all()
                one.deliver(delta)
            if self.pace_s:
                time.sleep(self.pace_s)

    def _step(self, one: Running) -> Delta:
        params, prompt = one.generation.params, one.generation.prompt
        if self.fail_after is not None and len(one.tokens) >= self.fail_after:
            return Delta(finish="error", error="A worker was lost.")
        n = len(one.tokens)
        if one.said is not None and n >= len(one.said):
            return Delta(finish="stop")
        token = prompt[(n + params.seed) % len(prompt)] if one.said is None else one.said[n]
        one.tokens.append(token)
        self._generated += 1
        finish: FinishReason | None = None
        if one.said is not None and len(one.tokens) == len(one.said):
            finish = "stop"
        elif len(one.tokens) >= params.max_tokens:
            finish = "length"
        whole = self.text.decode(one.tokens)
        for stop in params.stop:
            if stop in whole:
                whole, finish = whole.partition(stop)[0], "stop"
        if finish is None:
            whole = whole.rstrip(BROKEN)
            held = max(map(len, params.stop), default=1) - 1
            whole = whole[: max(one.shown, len(whole) - held)]
        piece, one.shown = whole[one.shown :], max(one.shown, len(whole))
        logprobs: tuple[TokenLogprobs, ...] = ()
        if params.logprobs is not None:
            top = tuple((other, -0.5 - i) for i, other in enumerate((token, 1, 2, 3)))
            logprobs = (TokenLogprobs(logprob=-0.5, top=top[: params.logprobs]),)
        return Delta(
            tokens=(token,),
            text=piece,
            logprobs=logprobs,
            finish=finish,
            cached_tokens=len(prompt) // 2,
        )
