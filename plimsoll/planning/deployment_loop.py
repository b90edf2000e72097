"""The closed loop of a deployment, solved: pieces from the engine's clock, bounds from memory.

``LoopSolver`` keeps the clocks of workers it has met, since rows of a table differ mostly in load.
In disaggregated deployments the slower side sets the rate: requests that decode at once are as
many as prefill can keep supplied. Prefill workers that are not named are as many as that takes.
Leaves out: everything a table of means does not show.
First tokens of aggregated deployments are those of clients that do not act in lockstep.
Source: planning/closed_loop.py, planning/staggered_loop.py; coefficients in library/engines.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from plimsoll.cost.cut import check_parallel, stage_weight_bytes
from plimsoll.cost.host import common_costs, engine_profile
from plimsoll.cost.memory import kv_capacity
from plimsoll.cost.step import ReplicaClock, replica_clock
from plimsoll.planning.closed_loop import (
    Admission,
    LoopLoad,
    LoopPieces,
    LoopTimes,
    StepTimes,
    aggregated_pieces,
    aggregated_times,
    decode_step_s,
    disaggregated_times,
    prompt_alone_s,
    shared_prompt_s,
)
from plimsoll.planning.deployment_model import expert_width
from plimsoll.planning.deployment_settings import DeploymentSettings, WorkerGroup
from plimsoll.planning.staggered_loop import staggered_first_token_s
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import InfeasibleError, PlimsollError
from plimsoll.spec.model import ModelSpec
from plimsoll.spec.plan import Parallel

__all__ = ["LoopSolver", "SolvedLoop", "admission_of", "loop_load", "shared_by_workers_s"]

_MEMORY_FRACTIONS = (0.9, 0.95, 0.98)
_UNBOUNDED = 10**9
_BALANCE = 1.1
"""Prefill that deployments hold over what their decode side takes."""
_MOST_WORKERS = 16
_APART_STEPS = 4.0
"""Steps between requests whose places were freed together: clients are late by different times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SolvedLoop:
    """The closed form's answer and the counts it was solved at.

    ``settings`` have every count filled in but prefill's, which is ``prefill_workers`` (0 where
    aggregated); ``running``: requests at once in one worker that decodes; ``rate_per_s``:
    requests the slower side passes.
    """

    settings: DeploymentSettings
    times: LoopTimes
    running: int
    prefill_workers: int
    rate_per_s: float

    @property
    def num_devices(self) -> int:
        """Devices of all workers."""
        settings = self.settings
        devices = settings.decode.count * settings.decode.parallel.num_devices
        if settings.prefill is not None:
            devices += self.prefill_workers * settings.prefill.parallel.num_devices
        return max(1, devices)


def loop_load(settings: DeploymentSettings, workers: int) -> LoopLoad:
    """The closed loop of one of ``workers`` equal workers."""
    return LoopLoad(
        in_flight=max(1.0, settings.in_flight / workers),
        prompt_tokens=settings.prompt_tokens,
        output_tokens=settings.output_tokens,
        spread=settings.load.length_spread,
        rounds=float(settings.load.rounds),
        apart_steps=_APART_STEPS,
    )


def admission_of(settings: DeploymentSettings) -> Admission:
    """What the engine adds to first tokens."""
    request, common = engine_profile(settings.engine).request, common_costs()
    fixed_s = request.fixed_s + request.prompt_token_s * settings.prompt_tokens
    if expert_width(settings.model):
        fixed_s += request.expert_s
    if settings.prefill is not None:
        return Admission(fixed_s=fixed_s + request.handover_s)
    steps = request.admission_steps
    if settings.in_flight < common.few_requests:
        steps *= request.few_admission
    ranks = settings.decode.parallel.attention_dp
    waits = min(request.rank_wait_steps, settings.output_tokens / 4) if ranks > 1 else 0.0
    return Admission(fixed_s=fixed_s, steps=steps, plain_steps=waits)


def shared_by_workers_s(
    clock: StepTimes, settings: DeploymentSettings, parallel: Parallel, workers: int
) -> float:
    """Seconds a prompt where ``workers`` prefill workers share all of them."""
    ranks = parallel.attention_dp
    one_s = shared_prompt_s(
        clock,
        max(1, round(settings.prompt_tokens)),
        engine_profile(settings.engine).token_budget,
        most=max(1, settings.in_flight // (workers * ranks)),
        ranks=ranks,
    )
    return one_s / workers


@dataclass(slots=True)
class LoopSolver:
    """Solves deployments; one solver takes rows of one table, whose system names are unique."""

    clocks: dict[tuple[ModelSpec, str, DType, str, Parallel], ReplicaClock] = field(
        default_factory=dict
    )
    held: dict[tuple[ModelSpec, str, DType, Parallel, int], int] = field(default_factory=dict)

    def solve(self, settings: DeploymentSettings) -> SolvedLoop:
        """Solve the closed loop of ``settings``.

        Raises:
            SpecError, UnsupportedError: a cut the model does not allow, or a rate or link the
                device does not list. InfeasibleError: weights larger than a device's memory, or
                no way to split the devices.
        """
        if settings.devices_to_split:
            return self._best_split(settings)
        if settings.prefill is None:
            return self._aggregated(settings)
        return self._disaggregated(settings, settings.prefill)

    def clock(self, settings: DeploymentSettings, parallel: Parallel) -> ReplicaClock:
        """The clock of a worker cut by ``parallel``."""
        key = (settings.model, settings.device.name, settings.kv_dtype, settings.engine, parallel)
        found = self.clocks.get(key)
        if found is None:
            _check_weights(settings, parallel)
            found = replica_clock(
                settings.model,
                settings.device,
                parallel,
                kv_dtype=settings.kv_dtype,
                engine=settings.engine,
            )
            self.clocks[key] = found
        return found

    def most_running(self, settings: DeploymentSettings, parallel: Parallel) -> int:
        """Requests whose cache one worker holds, one where that is too long for it.

        Unbounded where by our count weights and activations leave no room: measured rows ran.
        """
        reserve = engine_profile(settings.engine).reserve_outputs
        tokens = max(1, int(settings.prompt_tokens + reserve * settings.output_tokens))
        key = (settings.model, settings.device.name, settings.kv_dtype, parallel, tokens)
        if key not in self.held:
            self.held[key] = _held(settings, parallel, tokens)
        return self.held[key]

    def running_of(self, settings: DeploymentSettings) -> int:
        """Requests at once in an aggregated worker."""
        wanted = round(settings.in_flight / settings.decode.count)
        return max(1, min(wanted, self.most_running(settings, settings.decode.parallel)))

    def token_times(
        self, settings: DeploymentSettings, clock: ReplicaClock, running: int
    ) -> tuple[float, float]:
        """(seconds an output token, seconds of its step) of decodes alone."""
        context = settings.prompt_tokens + settings.output_tokens / 2
        plain_s = decode_step_s(clock, running, context)
        weight, common = settings.speculation, common_costs()
        if not weight:
            return plain_s, plain_s
        total = round(running * context)
        checked_s = clock.verify_step_s(running, total, common.draft_tokens)
        fast_s = checked_s / common.accepted_tokens
        token_s = plain_s ** (1.0 - weight) * fast_s**weight
        return token_s, token_s * common.accepted_tokens**weight

    def _aggregated(self, settings: DeploymentSettings) -> SolvedLoop:
        parallel = settings.decode.parallel
        clock, load = self.clock(settings, parallel), loop_load(settings, settings.decode.count)
        running, ranks = self.running_of(settings), parallel.attention_dp
        budget = engine_profile(settings.engine).token_budget
        pieces = aggregated_pieces(clock, load, running=running, budget=budget, ranks=ranks)
        token_s, step_s = self.token_times(settings, clock, running)
        prompt_s = pieces.prompt_s
        if ranks > 1:
            together = common_costs().rank_overlap
            prompt_s = (1.0 - together) * prompt_s + together * pieces.shared_prompt_s
        pieces = pieces._replace(token_s=token_s, step_s=step_s, prompt_s=prompt_s)
        admission = admission_of(settings)
        tpot_s = float(aggregated_times(load, pieces, admission, xp=np).tpot_s)
        ttft_s = float(staggered_first_token_s(load, pieces, tpot_s, admission, xp=np))
        times = LoopTimes(tpot_s, ttft_s)
        stay_s = times.ttft_s + settings.output_tokens * times.tpot_s
        return SolvedLoop(
            settings=settings,
            times=times,
            running=running,
            prefill_workers=0,
            rate_per_s=settings.in_flight / stay_s,
        )

    def _disaggregated(self, settings: DeploymentSettings, prefill: WorkerGroup) -> SolvedLoop:
        decode = settings.decode
        clock = self.clock(settings, decode.parallel)
        prompt_clock = self.clock(settings, prefill.parallel)
        held = self.most_running(settings, decode.parallel)
        most = max(1, min(round(settings.in_flight / decode.count), held))

        def rate_at(running: int) -> float:
            token_s = self.token_times(settings, clock, running)[0]
            return running * decode.count / (settings.output_tokens * token_s)

        workers = prefill.count
        if not workers:
            one_s = shared_by_workers_s(prompt_clock, settings, prefill.parallel, 1)
            workers = max(1, round(_BALANCE * rate_at(most) * one_s))
        prompt_s = shared_by_workers_s(prompt_clock, settings, prefill.parallel, workers)
        running = _supplied(most, lambda count: rate_at(count) * prompt_s <= 1.0)
        token_s, step_s = self.token_times(settings, clock, running)
        budget = engine_profile(settings.engine).token_budget
        pieces = LoopPieces(
            token_s=token_s,
            step_s=step_s,
            prompt_s=0.0,
            shared_prompt_s=prompt_s,
            alone_s=prompt_alone_s(prompt_clock, max(1, round(settings.prompt_tokens)), budget),
            running=float(min(settings.in_flight, held * decode.count)),
            budget=budget,
            ranks=prefill.parallel.attention_dp,
            workers=workers,
        )
        times = disaggregated_times(loop_load(settings, 1), pieces, admission_of(settings), xp=np)
        return SolvedLoop(
            settings=settings,
            times=LoopTimes(float(times.tpot_s), float(times.ttft_s)),
            running=running,
            prefill_workers=workers,
            rate_per_s=min(1.0 / prompt_s, rate_at(running)),
        )

    def _best_split(self, settings: DeploymentSettings) -> SolvedLoop:
        """The split of a whole deployment's devices that passes most requests."""
        best: SolvedLoop | None = None
        for candidate in _splits(settings):
            try:
                solved = self.solve(candidate)
            except PlimsollError:
                continue
            if best is None or solved.rate_per_s > 1.02 * best.rate_per_s:
                best = solved
        if best is None:
            raise InfeasibleError(
                f"no split of {settings.devices_to_split} devices into prefill and decode workers",
                binding="degrees of the model",
                change="name the degrees of both kinds of worker",
            )
        return best


def _check_weights(settings: DeploymentSettings, parallel: Parallel) -> None:
    """Refuse a worker whose devices cannot hold even the weights."""
    check_parallel(settings.model, parallel)
    needed = max(stage_weight_bytes(settings.model, parallel))
    if needed > settings.device.memory_bytes:
        raise InfeasibleError(
            f"weights of {settings.model.name} take {needed / 1e9:.0f} GB of each of "
            f"{parallel.num_devices} devices that have {settings.device.memory_bytes / 1e9:.0f} GB",
            binding="memory",
            change="more devices a worker, or fewer bits a weight",
        )


def _held(settings: DeploymentSettings, parallel: Parallel, tokens: int) -> int:
    for fraction in _MEMORY_FRACTIONS:
        capacity = kv_capacity(
            settings.model,
            settings.device,
            parallel,
            kv_dtype=settings.kv_dtype,
            memory_fraction=fraction,
            max_num_seqs=64,
            context_tokens=tokens,
        )
        if capacity.num_blocks:
            return max(1, capacity.max_concurrency(tokens))
    return _UNBOUNDED


def _supplied(most: int, keeps_up: Callable[[int], bool]) -> int:
    """The most requests at once, up to ``most``, that prefill keeps supplied; at least one."""
    if keeps_up(most):
        return most
    low, high = 1, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if keeps_up(middle) else (low, middle - 1)
    return low


def _splits(settings: DeploymentSettings) -> Iterator[DeploymentSettings]:
    total = settings.devices_to_split
    each = 4 if settings.device.devices_per_node > 8 else 8
    experts = expert_width(settings.model) > 0
    prefill = Parallel(attention_dp=each, ep=each) if experts else Parallel(tp=each)
    for width in (4, 8, 16, 32, 64):
        cuts = [Parallel(attention_dp=width, ep=width)] if experts else []
        if width <= 8:
            cuts.append(Parallel(tp=width, ep=width if experts else 1))
        for workers in range(1, (total - width) // each + 1):
            rest = total - workers * each
            if rest % width or rest // width > _MOST_WORKERS:
                continue
            for cut in cuts:
                yield replace(
                    settings,
                    devices_to_split=0,
                    decode=WorkerGroup(count=rest // width, parallel=cut),
                    prefill=WorkerGroup(count=workers, parallel=prefill),
                )
