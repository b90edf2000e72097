"""The engine's own time beside passes, measured by running the real engine on a tiny model.

Two parts. In the worker: a step handed to the runner, less the same pass with its tables made
before. Around the worker: bursts of equal requests through a live run with a worker process; from
one step's start to the next one's, less the time the worker was busy. The sums are fitted over
sequences and tokens. A request's cost is what passes between handing it to an idle engine and its
end, less its one step. Leaves out: HTTP, tokenizing, swaps, several replicas.
Source: runner.py and live_run.py of the torch executor.
"""

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from plimsoll.cost.clock import LinearClock
from plimsoll.cost.measured_fit import engine_times
from plimsoll.models.loading import build, save
from plimsoll.models.packed import pack_linears
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
from plimsoll.spec.errors import ExecutionError
from plimsoll.spec.measured import EngineTimes

__all__ = ["engine_overhead"]

_CONFIG = llama_config(64, 128, (4, 2, 16), layers=1, vocabulary=256)
_MAX_LEN = 2048
_PROMPT_TOKENS = 24
_OUTPUT_TOKENS = 32
_WAIT_S = 60.0
_CHUNKS = (64, 128, 256)
_Step = tuple[int, int, float]
"""Sequences, tokens, seconds beside the pass."""


def engine_overhead(sizes: Sizes, watch: Stopwatch) -> EngineTimes:
    """Time the engine around passes, on one thread: a few seconds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        inside = _inside_worker(sizes, watch)
        around, requests_s = _around_worker(sizes, watch)
    finally:
        torch.set_num_threads(threads)
    inner, outer = engine_times(inside, requests_s), engine_times(around, requests_s)
    # Both are lines in sequences and tokens: each point of one part is given the other's line.
    both = [(n, t, s + _line(outer, n, t)) for n, t, s in inside]
    both += [(n, t, s + _line(inner, n, t)) for n, t, s in around]
    return engine_times(both, requests_s)


def _line(times: EngineTimes, sequences: int, tokens: int) -> float:
    return times.step_s.value + times.sequence_s.value * sequences + times.token_s.value * tokens


def _inside_worker(sizes: Sizes, watch: Stopwatch) -> list[_Step]:
    model: Any = build(_CONFIG, dtype=torch.float32, device=watch.device)
    pack_linears(model)
    shapes: list[tuple[tuple[tuple[int, int], ...], tuple[int, ...]]] = [
        ((), (length,) * batch) for batch in sizes.batches for length in sizes.contexts[:2]
    ]
    shapes += [(((new, 0),), ()) for new in _CHUNKS]
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
        whole_s = pass_s = float("inf")
        for _ in range(2 * sizes.rounds):
            timing = watch.time(lambda r=runner, s=step: r.step(s), sizes.cell_s)
            whole_s = min(whole_s, timing.call_s)
            pass_s = min(pass_s, watch.time(bare, sizes.cell_s).call_s)
        found.append((len(work), sum(len(w.tokens) for w in work), whole_s - pass_s))
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
            num_threads=1,
        )
        taps: list[_BusyTimes] = []

        def start(index: int, answer: Callable[[Any], None]) -> ProcessWorker:
            taps.append(_BusyTimes(answer))
            return ProcessWorker(setup, taps[-1])

        run = LiveRun([spec], LeastWorkPolicy(), start, keep=True)
        run.start(_WAIT_S)
        try:
            for batch in (most, *sizes.batches * 2):  # the first warms up
                _serve(run, batch)
        finally:
            run.close()
    return _read(run, taps[0].busy_s)


def _serve(run: LiveRun, batch: int) -> None:
    """A burst of ``batch`` requests, to its end."""
    params = SamplingParams(temperature=0.0, max_tokens=_OUTPUT_TOKENS, ignore_eos=True)
    for i in range(batch):
        prompt = [(i + 3 * k) % 200 for k in range(_PROMPT_TOKENS)]
        text = Conversation(prompt, params, deliver=lambda token, logprobs: None, end=_over)
        run.submit(text)
    if not run.wait_idle(_WAIT_S):
        raise ExecutionError("calibrate: the engine did not finish a burst of requests in time")


def _over(conversation: Conversation) -> None:
    """Nothing is done with an answer."""


def _read(run: LiveRun, busy_s: list[float]) -> tuple[list[_Step], list[float]]:
    """Plain steps, the lower third of each kind, and the cost of a request by burst."""
    steps = run.record().steps
    plain: dict[int, list[float]] = {}
    begun: list[tuple[int, int, float]] = []
    ended: list[tuple[int, int, float]] = []
    for i in range(min(len(busy_s), len(steps)) - 1):
        decodes, prompts = int(steps.num_decodes[i]), int(steps.prefill_seqs[i])
        after = int(steps.num_decodes[i + 1])
        left_s = float(steps.start_s[i + 1] - steps.start_s[i]) - busy_s[i]
        if prompts and after == decodes + prompts:
            begun.append((prompts, decodes + int(steps.prefill_tokens[i]), left_s))
        elif not prompts and after == decodes:
            plain.setdefault(decodes, []).append(left_s)
        elif not prompts and 0 < after < decodes:
            ended.append((decodes - after, decodes, left_s))
    points = [(n, n, sorted(found)[len(found) // 3]) for n, found in plain.items()]
    base = engine_times(points, [0.0])
    costs = [
        statistics.median(
            max(left_s - _line(base, tokens, tokens), 0.0) / num for num, tokens, left_s in part
        )
        for part in (begun, ended)
        if part
    ]
    return points, [sum(costs)]
