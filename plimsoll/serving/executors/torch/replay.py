"""Replay a recorded real run in the simulator: same requests, arrivals and step times.

The simulator gets the measured duration of each step in order and the output lengths that came
out, and asks the policies anew. Equal decision logs mean that both executors show policies the
same and carry out the same. Ticks, copies between instances and copies beside the steps come when
they came. Left out: pipelines, restarts of workers, cancellations, sessions that begin with what
the host kept, copies that failed a step.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from plimsoll.cost.clock import StepClock
from plimsoll.serving.executors.coordinator import InstanceSpec
from plimsoll.serving.executors.recorded_links import Outside
from plimsoll.serving.executors.simulated import SimulatedExecutor
from plimsoll.serving.executors.torch.live_run import LiveRun
from plimsoll.serving.executors.torch.worker_swaps import WorkerSwaps
from plimsoll.serving.policy import ClusterPolicy
from plimsoll.spec.record import RunRecord
from plimsoll.spec.workload import Workload

__all__ = ["Replay", "recorded_workload", "replay"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """``decisions`` as (time, instance, slot, decision)."""

    decisions: list[tuple[float, int, int, object]]
    record: RunRecord


class _MeasuredSteps:
    """A clock that gives the recorded durations one after the other.

    Only for steps as they are run; what a policy asks of its clock is answered by ``clock``.
    """

    num_stages = 1

    def __init__(self, durations_s: Sequence[float], clock: StepClock) -> None:
        self._left = list(reversed(durations_s))
        self._clock = clock

    def step_s(
        self, chunks: Sequence[tuple[int, int]], num_decodes: int, decode_context: int
    ) -> float:
        if not self._left:  # the replay went its own way; any time shows it
            return self._clock.step_s(chunks, num_decodes, decode_context) or 1e-3
        return self._left.pop()

    def decode_line(self, num_decodes: int, decode_context: int) -> tuple[float, float, int]:
        return self._clock.decode_line(num_decodes, decode_context)

    def swap_s(self, num_tokens: int) -> float:
        return 0.0

    def host_s(self, num_decodes: int) -> float:
        return 0.0  # the recorded durations hold it or not, as it was


def recorded_workload(run: LiveRun) -> Workload:
    """The requests of a kept run as a workload; rows are request ids."""
    recorder, num = run.live_recorder, run.live_recorder.num_requests
    rows = range(num)
    names: dict[int, int] = {}
    keys = [[names.setdefault(key, len(names)) for key in run.prompt_keys[i]] for i in rows]
    starts = np.cumsum([0, *(len(k) for k in keys)])
    outputs = np.array([max(1, recorder.output_tokens[i]) for i in rows], dtype=np.int64)
    return Workload(
        name="recorded",
        arrival_s=np.array([recorder.arrival_s[i] for i in rows]),
        prompt_tokens=np.array([run.prompt_lengths[i] for i in rows], dtype=np.int64),
        output_tokens=outputs,
        max_tokens=np.array([run.limits[i] for i in rows], dtype=np.int64),
        prefix_keys=np.array([key for row in keys for key in row], dtype=np.int64),
        prefix_start=starts.astype(np.int64),
        prefix_block_tokens=run.block_tokens if run.caches_prefixes else 0,
    )


def replay(run: LiveRun, specs: Sequence[InstanceSpec], router: ClusterPolicy) -> Replay:
    """Replay a run that was kept and has ended."""
    workload = recorded_workload(run)
    record = run.record(workload)
    steps = record.steps
    timed = []
    for i, spec in enumerate(specs):
        mine = steps.instance == i
        clock = _MeasuredSteps(steps.step_s[mine].tolist(), spec.clock)
        timed.append(replace(spec, clock=clock))
    names: dict[int, int] = {}
    for i in range(len(workload)):
        for key in run.prompt_keys[i]:
            names.setdefault(key, len(names))
    ended = {i: [names.setdefault(key, len(names)) for key in keys] for i, keys in run.keys.items()}
    swaps = [engine.swaps for engine in run.engines]
    executor = SimulatedExecutor(
        timed,
        router,
        fast_forward=False,
        log_decisions=True,
        ended_keys=ended.__getitem__ if run.caches_prefixes else None,
        outside=Outside(
            ticks_s=run.ticks_s,
            landed_s=run.landed_s,
            copy_ends=[s.ended if isinstance(s, WorkerSwaps) else {} for s in swaps],
        ),
    )
    return Replay(record=executor.run(workload), decisions=executor.decisions)
