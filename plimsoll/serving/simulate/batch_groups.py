"""Group plans for a simulated batch: prefixes from the workload's keys, groups dealt to replicas.

The whole batch must be there at the start, since it is planned before anything runs. Outputs are
predicted by one mean. Groups go to replicas by predicted work, an output token weighted by what it
costs beside a prompt token on the replica's clock.
Source: arXiv 2412.03594.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from plimsoll.cost.clock import StepClock
from plimsoll.serving.executors.coordinator import InstanceSpec
from plimsoll.serving.group_dealing import deal_groups, owners
from plimsoll.serving.group_plan import PrefixGroup, order_groups
from plimsoll.serving.one_level import one_level_exact
from plimsoll.serving.policies import GroupPolicy
from plimsoll.serving.policy import ClusterPolicy, InstView, Step, View
from plimsoll.serving.prefix_tree import PrefixTree
from plimsoll.serving.routers import DealtPolicy
from plimsoll.spec.errors import SpecError
from plimsoll.spec.plan import PrefixGroups, ServingPlan
from plimsoll.spec.workload import Workload

__all__ = ["NeedsBatch", "grouped", "output_weight", "workload_groups"]


@dataclass(frozen=True, slots=True)
class NeedsBatch:
    """Stands for a group policy until the batch is known."""

    def step(self, view: View, inst: InstView, slot: int) -> Step:
        """
        Raises:
            SpecError: always.
        """
        raise SpecError(
            "plan: policy prefix-groups plans a batch that is known ahead; simulate a workload "
            "that is all there at the start, or run `plimsoll batch`"
        )


def workload_groups(workload: Workload) -> tuple[PrefixGroup, ...]:
    """The best single level of sharing among the prompts, in whole blocks of its keys."""
    unit = workload.prefix_block_tokens
    if not unit or not len(workload.prefix_start):
        return ()
    names, keys = np.unique(workload.prefix_keys, return_inverse=True)
    rows = []
    for i, prompt in enumerate(workload.prompt_tokens.tolist()):
        first, end = workload.prefix_start[i], workload.prefix_start[i + 1]
        whole = min(end - first, (prompt - 1) // unit)  # the last token always runs
        rows.append(np.append(keys[first : first + whole], len(names) + i))
    groups = one_level_exact(PrefixTree.of(rows), unit_tokens=1)
    return tuple(replace(group, prefix_tokens=group.prefix_tokens * unit) for group in groups)


def output_weight(clock: StepClock, *, budget: int, kv_tokens: int, mean_tokens: float) -> float:
    """What an output token costs, in prompt tokens, with memory full of mean requests."""
    prompt_s = clock.step_s([(budget, 0)], 0, 0) / budget
    decodes = max(1, int(kv_tokens / mean_tokens))
    output_s = clock.step_s((), decodes, int(decodes * mean_tokens)) / decodes
    return output_s / prompt_s if prompt_s > 0 else 1.0


def grouped(
    plan: ServingPlan, instances: Sequence[InstanceSpec], workload: Workload
) -> tuple[list[InstanceSpec], ClusterPolicy] | None:
    """Instances with their parts of the batch and the router that deals it; None for other plans.

    Raises:
        SpecError: requests arrive over time.
        InfeasibleError: a prefix or request is larger than a replica's memory.
    """
    configs = [pool.policy for pool in plan.pools for _ in range(pool.replicas)]
    if not any(isinstance(config, PrefixGroups) for config in configs):
        return None
    config = configs[0]
    assert isinstance(config, PrefixGroups)  # as check_policies saw to
    if workload.num_in_flight or workload.arrival_s[-1] > 0 or len(workload.session_id):
        raise SpecError(
            f"plan: policy prefix-groups plans a batch that is all there at the start; requests of "
            f"{workload.name} come over time"
        )
    mean = config.mean_output_tokens or float(workload.output_tokens.mean())
    block = workload.prefix_block_tokens or instances[0].block_tokens
    kv_tokens = min(spec.num_blocks * spec.block_tokens for spec in instances)
    whole = order_groups(
        workload_groups(workload),
        workload.prompt_tokens.tolist(),
        [mean] * len(workload),
        block_tokens=block,
        kv_tokens=kv_tokens,
    )
    weight = output_weight(
        instances[0].clock,
        budget=config.token_budget,
        kv_tokens=kv_tokens,
        mean_tokens=float(workload.prompt_tokens.mean()) + mean / 2,
    )
    parts = deal_groups(whole, len(instances), decode_weight=weight)
    specs = [
        replace(
            spec,
            policy=GroupPolicy(
                plan=part,
                token_budget=config.token_budget,
                kv_fraction=config.kv_fraction,
                preempt=config.preempt,
                shared_attention=config.shared_attention,
            ),
        )
        for spec, part in zip(instances, parts, strict=True)
    ]
    return specs, DealtPolicy(owners(parts))
