"""The simulator as a judge on published step-time fits instead of the cost model.

Each replica takes its clock and KV capacity from ``cost.fits.published_fit``. KV moves inside a
node or over the fabric; replicas are seated node by node in the order of the pools. A plan of
prefill replicas alone is asked for first tokens only; one of decode replicas alone gets requests
whose KV appears at once, and is judged on the time between tokens. Leaves out: contention on the
fabric beyond one transfer at a time in and out of a replica.
Source: arXiv 2401.09670 section 4 (placement by simulating either side, then both).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from plimsoll.cost.clock import LinearClock
from plimsoll.cost.fits import Engine, PublishedFit, published_fit
from plimsoll.planning.judging import Verdict, verdict_of
from plimsoll.serving.executors.simulated import Fault, InstanceSpec, SimulatedExecutor
from plimsoll.serving.metrics import summarize
from plimsoll.serving.policies import PrefillFirstPolicy
from plimsoll.serving.routers import DisaggPolicy
from plimsoll.serving.simulate.run import policy_for, router_for, scaled
from plimsoll.spec.errors import InfeasibleError, SpecError, UnsupportedError
from plimsoll.spec.plan import Pool, ServingPlan
from plimsoll.spec.record import RunRecord
from plimsoll.spec.slo import Slo
from plimsoll.spec.workload import Workload

__all__ = ["FitJudge"]

_UNBOUNDED_TOKENS = 2**40


@dataclass(frozen=True, slots=True, kw_only=True)
class FitJudge:
    """Runs plans on the published fits of ``model``; a ``Judge``.

    ``joint_fraction`` of requests must meet every bound. ``colocated_engine`` is the engine
    whose fits replicas that do both take. ``overhead_s`` a step and
    ``overhead_token_s`` a context token are engine time outside the kernels;
    ``max_decode_tokens`` bounds the KV of a decode replica below its memory.
    """

    model: str
    devices_per_node: int
    node_bytes_per_s: float
    fabric_bytes_per_s: float
    colocated_engine: Engine = "distserve"
    joint_fraction: float = 0.9
    seed: int = 0
    overhead_s: float = 0.0
    overhead_token_s: float = 0.0
    max_decode_tokens: int = _UNBOUNDED_TOKENS

    def __call__(self, plan: ServingPlan, workload: Workload) -> Verdict:
        """See ``Judge``.

        Raises:
            InfeasibleError: the model is not published as fitting a pool's shape.
        """
        record = self.record(plan, workload)
        slo = _asked_of(plan)
        summary = summarize(record, slo, num_devices=plan.num_devices)
        return verdict_of(summary, joint_fraction=self.joint_fraction)

    def record(
        self, plan: ServingPlan, workload: Workload, *, faults: Sequence[Fault] = ()
    ) -> RunRecord:
        """The run behind a verdict."""
        side = _side(plan)
        if side == "prefill":
            workload = workload.with_changes(output_tokens=np.ones(len(workload), dtype=np.int64))
        specs: list[InstanceSpec] = []
        nodes: list[int] = []
        fits: list[PublishedFit] = []
        placed = 0
        for pool in plan.pools:
            fit = self._fit(pool)
            for _ in range(pool.replicas):
                specs.append(self._instance(pool, fit, alone=side == "prefill"))
                fits.append(fit)
                nodes.append(placed // self.devices_per_node)
                placed += pool.parallel.num_devices
        specs = scaled(specs, plan)
        router = router_for(plan.router, plan.scaling)
        if side == "decode":
            specs.append(_free_prompts())
            router = DisaggPolicy()

        def transfer_s(source: int, target: int, tokens: int) -> float:
            if source >= len(nodes) or target >= len(nodes):
                return 0.0
            near = nodes[source] == nodes[target]
            rate = self.node_bytes_per_s if near else self.fabric_bytes_per_s
            return tokens * fits[source].kv_bytes_per_token / rate

        executor = SimulatedExecutor(
            specs, router, transfer_s=transfer_s, seed=self.seed, faults=faults
        )
        return executor.run(workload, meta={"num_devices": plan.num_devices})

    def _fit(self, pool: Pool) -> PublishedFit:
        shape = pool.parallel
        try:
            return published_fit(
                self.model,
                tp=shape.tp,
                pp=shape.pp,
                engine=self.colocated_engine if pool.role == "both" else "distserve",
                overhead_s=self.overhead_s,
                overhead_token_s=self.overhead_token_s,
            )
        except UnsupportedError as error:
            raise InfeasibleError(str(error), binding="published shapes") from error

    def _instance(self, pool: Pool, fit: PublishedFit, *, alone: bool) -> InstanceSpec:
        tokens = fit.max_kv_tokens
        if pool.role == "decode":
            tokens = min(tokens, self.max_decode_tokens)
        return InstanceSpec(
            role="both" if alone else pool.role,
            clock=fit.clock,
            policy=policy_for(pool, fit.clock),
            num_blocks=tokens // pool.block_tokens,
            block_tokens=pool.block_tokens,
            max_num_seqs=pool.max_num_seqs,
            prefix_caching=pool.prefix_caching,
        )


def _side(plan: ServingPlan) -> Literal["whole", "prefill", "decode"]:
    roles = {pool.role for pool in plan.pools}
    if roles == {"prefill"}:
        return "prefill"
    return "decode" if roles == {"decode"} else "whole"


def _asked_of(plan: ServingPlan) -> Slo:
    """The targets that the plan's side can answer for."""
    side = _side(plan)
    if side == "whole":
        return plan.slo
    metrics = ("ttft",) if side == "prefill" else ("tpot", "itl")
    targets = tuple(t for t in plan.slo.targets if t.metric in metrics)
    if not targets:
        raise SpecError(
            f"a plan of {side} replicas alone is judged on {' or '.join(metrics)}, for which "
            "the SLO has no target; state one"
        )
    return replace(plan.slo, targets=targets)


def _free_prompts() -> InstanceSpec:
    """A prefill instance that takes no time and has all memory: requests arrive prefilled."""
    return InstanceSpec(
        role="prefill",
        clock=LinearClock(step_base_s=1e-9),
        policy=PrefillFirstPolicy(),
        num_blocks=_UNBOUNDED_TOKENS,
    )
