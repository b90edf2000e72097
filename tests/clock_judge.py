"""The simulator as judge on clocks of one's own: published fits, measurements, toys.

What ``SimulatorJudge`` takes from a model and a fleet comes here from a function: the clock and
KV tokens of a replica. A plan of prefill pools alone is asked for first tokens only; a plan of
decode pools alone gets its prompts for nothing, so that each side of a disaggregated plan can
be judged by its own part of the promise.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from plimsoll.cost.clock import StepClock
from plimsoll.planning.judging import Verdict, verdict_of
from plimsoll.spec.errors import InfeasibleError
from plimsoll.spec.plan import LeastWorkRouter, Pool, ServingPlan
from plimsoll.spec.workload import Workload

__all__ = ["ClockJudge", "Replica"]

_FREE_S = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """The clock of one replica and the KV tokens it holds."""

    clock: StepClock
    kv_tokens: int


@dataclass(slots=True, kw_only=True)
class _PromptsForFree:
    """A clock on which prompts take no time beside the decodes they run with."""

    clock: StepClock
    num_stages: int

    def step_s(
        self, chunks: Sequence[tuple[int, int]], num_decodes: int, decode_context: int
    ) -> float:
        return self.clock.step_s((), num_decodes, decode_context) if num_decodes else _FREE_S

    def decode_line(self, num_decodes: int, decode_context: int) -> tuple[float, float, int]:
        return self.clock.decode_line(num_decodes, decode_context)

    def swap_s(self, num_tokens: int) -> float:
        return self.clock.swap_s(num_tokens)

    def host_s(self, num_decodes: int) -> float:
        return self.clock.host_s(num_decodes)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockJudge:
    """Simulates plans whose replicas ``replica`` describes (None: does not fit).

    ``kv_bytes_per_token`` move at ``link_bytes_per_s`` from prefill to decode replicas.
    ``joint_fraction`` > 0: that share of requests must meet every bound.
    """

    replica: Callable[[Pool], Replica | None]
    kv_bytes_per_token: float
    link_bytes_per_s: float
    seed: int = 0
    joint_fraction: float = 0.0

    def __call__(self, plan: ServingPlan, workload: Workload) -> Verdict:
        """See ``Judge``."""
        from plimsoll.serving.executors.simulated import InstanceSpec, SimulatedExecutor
        from plimsoll.serving.metrics import summarize
        from plimsoll.serving.policies import POLICIES
        from plimsoll.serving.simulate.run import router_for

        roles = {pool.role for pool in plan.pools}
        alone = len(roles) == 1 and roles != {"both"}
        if roles == {"prefill"}:
            ones = np.ones(len(workload), dtype=np.int64)
            workload = workload.with_changes(output_tokens=ones, max_tokens=ones[:0])
        instances = []
        for pool in plan.pools:
            found = self.replica(pool)
            if found is None:
                raise InfeasibleError(
                    f"{plan.model} does not fit a replica of {pool.parallel.num_devices} devices",
                    binding="device memory",
                )
            clock = found.clock
            if roles == {"decode"}:
                clock = _PromptsForFree(clock=clock, num_stages=clock.num_stages)
            options = {k: v for k, v in asdict(pool.policy).items() if k != "kind"}
            for _ in range(pool.replicas):
                instances.append(
                    InstanceSpec(
                        role="both" if alone else pool.role,
                        clock=clock,
                        policy=POLICIES[pool.policy.kind](**options),
                        num_blocks=found.kv_tokens // pool.block_tokens,
                        block_tokens=pool.block_tokens,
                        max_num_seqs=pool.max_num_seqs,
                        prefix_caching=pool.prefix_caching,
                    )
                )
        rate = self.link_bytes_per_s / max(self.kv_bytes_per_token, 1e-9)
        executor = SimulatedExecutor(
            instances,
            router_for(LeastWorkRouter() if alone else plan.router),
            transfer_s=lambda source, target, tokens: tokens / rate,
            seed=self.seed,
        )
        record = executor.run(workload, meta={"num_devices": plan.num_devices})
        asked = plan.slo
        if roles == {"prefill"}:
            asked = replace(asked, targets=tuple(t for t in asked.targets if t.metric == "ttft"))
        elif roles == {"decode"}:
            asked = replace(asked, targets=tuple(t for t in asked.targets if t.metric != "ttft"))
        summary = summarize(record, asked, num_devices=plan.num_devices)
        return verdict_of(summary, joint_fraction=self.joint_fraction if asked.targets else 0.0)
