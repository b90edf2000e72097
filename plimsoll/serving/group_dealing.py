"""A group plan dealt to several instances: whole groups, by predicted work.

The group with most work goes first, each to the instance with the least so far; an instance runs
its own in the order of the plan. A prefix is so computed on one instance only.
Leaves out: cutting a group that is longer than an instance's share.
Source: R. L. Graham, doi:10.1137/0117039 (longest processing time first).
"""

from collections.abc import Mapping

from plimsoll.serving.group_plan import GroupPlan, PlannedGroup
from plimsoll.spec.errors import SpecError

__all__ = ["deal_groups", "owners", "work_of"]


def work_of(group: PlannedGroup, *, decode_weight: float) -> float:
    """Predicted work in prompt tokens; an output token counts ``decode_weight`` of them."""
    return group.prompt_tokens + decode_weight * group.decode_tokens


def deal_groups(
    plan: GroupPlan, num_instances: int, *, decode_weight: float = 1.0
) -> tuple[GroupPlan, ...]:
    """One plan an instance; requests keep their numbers.

    Raises:
        SpecError: there is no instance.
    """
    if num_instances < 1:
        raise SpecError(f"groups cannot be dealt to {num_instances} instances")
    load = [0.0] * num_instances
    owner = [0] * len(plan.groups)
    work = [work_of(group, decode_weight=decode_weight) for group in plan.groups]
    for at in sorted(range(len(work)), key=lambda at: (-work[at], at)):
        owner[at] = min(range(num_instances), key=lambda i: (load[i], i))
        load[owner[at]] += work[at]
    parts = []
    for instance in range(num_instances):
        groups = tuple(
            group for group, own in zip(plan.groups, owner, strict=True) if own == instance
        )
        prompts = sum(
            group.prompt_tokens + (len(group.members) - 1) * group.prefix_tokens for group in groups
        )
        parts.append(
            GroupPlan(
                groups=groups,
                decode_tokens=plan.decode_tokens,
                prompt_tokens=prompts,
                block_tokens=plan.block_tokens,
            )
        )
    return tuple(parts)


def owners(parts: tuple[GroupPlan, ...]) -> Mapping[int, int]:
    """The instance of every planned request."""
    return {request: i for i, part in enumerate(parts) for request in part.order}
