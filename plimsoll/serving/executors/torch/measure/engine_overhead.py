"""The engine's own time beside passes, measured by running the real engine on a tiny model.

Two parts. In the worker: a step handed to the runner, less the same pass with its tables made
before. Around the worker: bursts of equal requests through a live run with a worker process; from
one step's start to the next one's, less the time the worker was busy. The sums are fitted over
sequences and tokens. A request's cost is what passes between handing it to an idle engine and its
end, less its one step. Leaves out: HTTP, tokenizing, swaps, several replicas.
Source: runner.py and live_run.py of the torch executor.
"""

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from plimsoll.cost.clock import LinearClock
from plimsoll.cost.measured_fit import engine_times
from plimsoll.models.loading import build, save
from plimsoll.serving.executors.coordinator import InstanceSpec
from plimsoll.serving.executors.torch.engine import Conversation
from plimsoll.serving.executors.torch.live_run import LiveRun
from plimsoll.serving.executors.torch.measure.light_operators import llama_config
from plimsoll.serving.executors.torch.measure.paged_pass import (
    BLOCK_TOKENS,
    GREEDY,
    PreparedPass,
    num_blocks,
    paged_store,
    paged_work,
)
from plimsoll.serving.executors.torch.measure.sizes import Sizes
from plimsoll.serving.executors.torch.measure.stopwatch import Stopwatch
from plimsoll.serving.executors.torch.messages import Register, StepDone, StepWork
from plimsoll.serving.executors.torch.runner import Runner
from plimsoll.serving.executors.torch.worker import ProcessWorker, WorkerSetup
from plimsoll.serving.generation import SamplingParams
from plimsoll.serving.policies.chunked_prefill import ChunkedPrefillPolicy
from plimsoll.serving.routers import LeastWorkPolicy
from plimsoll.spec.measured import EngineTimes

__all__ = ["engine_overhead"]

_CONFIG = llama_config(64, 128, (4, 2, 16), layers=1, vocabulary=256)
_MAX_LEN = 2048
_PROMPT_TOKENS = 24
_OUTPUT_TOKENS = 32
_WAIT_S = 60.0
_Step = tuple[int, int, float]
"""Sequences, tokens, seconds beside the pass."""


def engine_overhead(sizes: Sizes, watch: Stopwatch) -> EngineTimes:
    """Time the engine around passes; takes a few seconds."""
    inside = _inside_worker(sizes, watch)
    around, requests_s = _around_worker(sizes, watch)
    # Both are lines in sequences and tokens: each point of one part is given the other's mean line.
    inner, outer = engine_times(inside, requests_s), engine_times(around, requests_s)
    both = [(n, t, s + _line(outer, n, t)) for n, t, s in inside]
    both += [(n, t, s + _line(inner, n, t)) for n, t, s in around]
    return engine_times(both, requests_s)


def _line(times: EngineTimes, sequences: int, tokens: int) -> float:
    return times.step_s.value + times.sequence_s.value * sequences + times.token_s.value * tokens


def _inside_worker(sizes: Sizes, watch: Stopwatch) -> list[_Step]:
    model: Any = build(_CONFIG, dtype=torch.float32, device=watch.device)
    chunks = max(sizes.chunks)[0]
    shapes: list[tuple[tuple[tuple[int, int], ...], tuple[int, ...]]] = [
        ((), (length,) * batch) for batch in sizes.batches for length in sizes.contexts[:2]
    ]
    shapes += [(((new, 0),), ()) for new in (chunks // 4, chunks // 2, chunks)]
    found = []
    for prompt, contexts in shapes:
        blocks = num_blocks(prompt, contexts)
        store = paged_store(model.kv_shapes, blocks, torch.float32, watch.device)
        work = paged_work(prompt, contexts)
        runner = Runner(model, store)
        known = [Register(w.request, [0], [], GREEDY) for w in work]
        runner.step(StepWork(0, 0, known, work))
        bare = PreparedPass(model, store, work)
        step = StepWork(1, 0, [], work)
        took_s = watch.time(lambda r=runner, s=step: r.step(s), 3 * sizes.cell_s).call_s
        pass_s = watch.time(bare, 3 * sizes.cell_s).call_s
        found.append((len(work), sum(len(w.tokens) for w in work), took_s - pass_s))
    return found


class _BusyTimes:
    """Passes a worker's answers on, and keeps how long it was busy with each step."""

    def __init__(self, answer: Callable[[Any], None]) -> None:
        self.busy_s: list[float] = []
        self._answer = answer

    def __call__(self, message: Any) -> None:
        if isinstance(message, StepDone):
            self.busy_s.append(message.busy_s)
        self._answer(message)


def _around_worker(sizes: Sizes, watch: Stopwatch) -> tuple[list[_Step], list[float]]:
    with tempfile.TemporaryDirectory(prefix="plimsoll-calibrate-") as name:
        folder = Path(name) / "model"
        save(build(_CONFIG, dtype=torch.float32, device="cpu"), folder)
        most = max(sizes.batches)
        blocks = most * (-(-(_PROMPT_TOKENS + _OUTPUT_TOKENS + 1) // BLOCK_TOKENS) + 1)
        spec = InstanceSpec(
            role="both",
            clock=LinearClock(step_base_s=1e-3),
            policy=ChunkedPrefillPolicy(max_partial_prefills=most),
            num_blocks=blocks,
            block_tokens=BLOCK_TOKENS,
            max_num_seqs=most,
            max_model_len=_MAX_LEN,
        )
        setup = WorkerSetup(
            folder=folder,
            num_blocks=blocks,
            block_tokens=BLOCK_TOKENS,
            dtype="fp32",
            device=str(watch.device),
        )
        taps: list[_BusyTimes] = []

        def start(index: int, answer: Callable[[Any], None]) -> ProcessWorker:
            taps.append(_BusyTimes(answer))
            return ProcessWorker(setup, taps[-1])

        run = LiveRun([spec], LeastWorkPolicy(), start, keep=True)
        run.start(_WAIT_S)
        try:
            _serve(run, most, 4)  # warms up
            lone = [_serve(run, 1, 1) for _ in range(8 * sizes.rounds)]
            for batch in sizes.batches:
                _serve(run, batch, _OUTPUT_TOKENS)
        finally:
            run.close()
    return _read(run, taps[0].busy_s, lone)


def _serve(run: LiveRun, batch: int, num_outputs: int) -> float:
    """Seconds from handing in a burst to the end of all of it."""
    left, over = [batch], threading.Event()

    def end(conversation: Conversation) -> None:
        left[0] -= 1
        if not left[0]:
            over.set()

    params = SamplingParams(temperature=0.0, max_tokens=num_outputs, ignore_eos=True)
    start = time.perf_counter()
    for i in range(batch):
        prompt = [(i + 3 * k) % 200 for k in range(_PROMPT_TOKENS)]
        run.submit(Conversation(prompt, params, deliver=lambda token, logprobs: None, end=end))
    over.wait(_WAIT_S)
    took = time.perf_counter() - start
    run.wait_idle(_WAIT_S)
    return took


def _read(
    run: LiveRun, busy_s: list[float], lone_s: list[float]
) -> tuple[list[_Step], list[float]]:
    steps = run.record().steps
    starts, durations = steps.start_s, steps.duration_s
    sequences = steps.num_decodes + steps.prefill_seqs
    tokens = steps.num_decodes + steps.prefill_tokens
    whole = min(len(busy_s), len(starts))
    found: dict[tuple[int, int], list[float]] = {}
    alone = [i for i in range(whole) if tokens[i] == _PROMPT_TOKENS and sequences[i] == 1][
        -len(lone_s) - 1 :
    ]
    for i in range(whole - 1):
        if steps.num_decodes[i] and starts[i + 1] - starts[i] < 2 * durations[i]:
            key = (int(sequences[i]), int(tokens[i]))
            found.setdefault(key, []).append(float(starts[i + 1] - starts[i]) - busy_s[i])
    points = [(n, t, sorted(left)[len(left) // 3]) for (n, t), left in found.items()]
    mean_s = float(sorted(durations[i] for i in alone)[len(alone) // 3])
    return points, [max(took - mean_s, 0.0) for took in sorted(lone_s)[: len(lone_s) // 2 + 1]]
