"""BatchLLM: the groups of a known batch one after the other, as full as memory is predicted to be.

Each step runs all decodes, then prompt chunks in the order of the plan while the predicted KV stays
under a fraction of memory and the chunk budget holds; nothing else bounds the requests that run.
The first member of a group computes its prefix and the others start when the cache has it; it
is pinned until the last of them has started, and then lives as long as one of them runs. While a
prefix is being computed, what is left of the budget goes to the next group, not further.
Wrong predictions: decodes that lack blocks are put aside, the newest first, and come back.
With ``shared_attention`` the engine is taken to read a shared prefix once a step for all members.
Source: arXiv 2412.03594, section 5.
"""

from dataclasses import dataclass, field
from typing import Literal

from plimsoll.serving.group_plan import GroupPlan
from plimsoll.serving.policies.chunks import stuck
from plimsoll.serving.policies.group_chunks import GroupChunks, GroupProgress
from plimsoll.serving.policies.preempt import make_room, others_need
from plimsoll.serving.policies.swapped import bring_back
from plimsoll.serving.policy import Action, InstView, Park, Pin, Step, Unpin, View
from plimsoll.spec.errors import SpecError

__all__ = ["GroupPolicy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPolicy:
    """``plan`` names requests by their ids; its blocks are those of the prefix cache.

    ``kv_fraction`` of memory may be filled as predicted. ``unpin`` "never" keeps every prefix that
    was pinned, to show what that costs. Requests that are not in the plan go last.
    ``shared_attention``: for the simulation of an engine that reads so. Of several instances each
    has a policy with its own part of the plan.

    Raises:
        SpecError: the budget is below 1 or the fraction outside 0 to 1.
    """

    plan: GroupPlan
    token_budget: int = 2048
    kv_fraction: float = 0.95
    preempt: Literal["recompute", "swap"] = "swap"
    unpin: Literal["when-started", "never"] = "when-started"
    shared_attention: bool = False
    _group_of: dict[int, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.token_budget < 1:
            raise SpecError(f"token_budget is {self.token_budget}; expected 1 or more")
        if not 0 < self.kv_fraction <= 1:
            raise SpecError(f"kv_fraction is {self.kv_fraction}; expected more than 0, at most 1")
        group_of = {m: at for at, group in enumerate(self.plan.groups) for m in group.members}
        object.__setattr__(self, "_group_of", group_of)

    def step(self, view: View, inst: InstView, slot: int) -> Step:
        """All decodes, then chunks in the order of the plan."""
        progress = view.mem.setdefault(f"groups of {inst.id}", GroupProgress())
        assert isinstance(progress, GroupProgress)
        pool = inst.pool
        num_decodes = inst.num_decoding(slot)
        free = pool.free - pool.decode_blocks(slot)
        if free < 0:
            return self._make_room(inst, slot, progress)
        actions, free = self._go_on(view, inst, progress, free)
        parked = inst.parked(slot)
        if not inst.waiting and not inst.prefilling(slot) and not parked:
            return Step(
                actions=actions,
                decode_all=num_decodes > 0,
                steady=not actions,
                read_once=self._read_once(inst, slot),
            )
        free -= others_need(inst, slot)
        back, free = bring_back(inst, slot, free, reserve=num_decodes)
        num_decodes += len(back)
        if len(back) < len(parked) and num_decodes:
            return Step(
                actions=(*actions, *back),
                decode_all=True,
                read_once=self._read_once(inst, slot),
            )
        chunks = GroupChunks(
            view,
            inst,
            slot,
            plan=self.plan,
            group_of=self._group_of,
            progress=progress,
            free=free,
            budget=self.token_budget - num_decodes,
            limit_blocks=int(self.kv_fraction * pool.total),
        )
        chunks.fill(len(back))
        if not chunks.runs and not num_decodes and not actions:
            return self._unblock(inst, slot, progress)
        return Step(
            actions=(*actions, *back),
            runs=tuple(chunks.runs),
            decode_all=num_decodes > 0,
            read_once=self._read_once(inst, slot),
        )

    def _read_once(self, inst: InstView, slot: int) -> int:
        """Prefix tokens of decodes beyond the first of each group; what came back has its own."""
        if not self.shared_attention:
            return 0
        prefixes: dict[int, int] = {}
        total = 0
        for request in inst.decoding(slot):
            group = self._group_of.get(request.id, -1)
            if group >= 0 and not request.preemptions:
                prefix = self.plan.groups[group].prefix_tokens
                total += prefix
                prefixes[group] = prefix
        return total - sum(prefixes.values())

    def _go_on(
        self, view: View, inst: InstView, progress: GroupProgress, free: int
    ) -> tuple[tuple[Action, ...], int]:
        """Pass over groups that are over, let go of their prefixes and keep those just computed.

        Returns the actions and the free blocks they leave.
        """
        pool = inst.pool
        if inst.waiting:
            newest = next(iter(reversed(inst.waiting)))
            progress.num_arrived = max(progress.num_arrived, newest.id + 1)
        actions: list[Action] = []
        for group, request in list(progress.pins.items()):
            if not pool.is_pinned(request):
                del progress.pins[group]  # lost with the instance
            elif self.unpin == "when-started" and progress.is_over(group, self.plan, view, inst):
                del progress.pins[group]
                actions.append(Unpin(request))
        groups = self.plan.groups
        while progress.at < len(groups) and progress.is_over(progress.at, self.plan, view, inst):
            progress.started.pop(progress.at)
            progress.leader.pop(progress.at, None)
            progress.at += 1
        for group in list(progress.leader):
            if progress.is_over(group, self.plan, view, inst):
                del progress.leader[group]
                continue
            prefix = groups[group].prefix_tokens
            if group in progress.pins:
                continue
            heir = progress.next_waiting(group, self.plan, view, inst)
            if prefix and heir is not None and pool.cached_tokens(heir) >= prefix:
                revived = pool.blocks_for(heir, pool.block_tokens) - 1 - pool.per_request
                if revived <= free:
                    free -= revived
                    progress.pins[group] = heir.id
                    actions.append(Pin(heir.id, prefix))
        return tuple(actions), free

    def _make_room(self, inst: InstView, slot: int, progress: GroupProgress) -> Step:
        parks, left = make_room(inst, slot, self.preempt)
        if parks or left:
            return Step(actions=parks, decode_all=left > 0)
        return Step(actions=self._let_go(inst, progress))

    def _unblock(self, inst: InstView, slot: int, progress: GroupProgress) -> Step:
        """Nothing can run for want of blocks."""
        pool = inst.pool
        for other in range(inst.num_slots):
            if (
                other != slot
                and inst.num_decoding(other)
                and pool.decode_blocks(other) <= pool.free
            ):
                return Step()
        unpins = self._let_go(inst, progress)
        if unpins:
            return Step(actions=unpins)
        blocked = stuck(inst, slot)
        return Step() if blocked is None else Step(actions=(Park(blocked.id, "recompute"),))

    def _let_go(self, inst: InstView, progress: GroupProgress) -> tuple[Action, ...]:
        """Give the pins up: one request needs all the memory. They are taken again later."""
        held = [request for request in progress.pins.values() if inst.pool.is_pinned(request)]
        for group in progress.pins:
            progress.leader.pop(group, None)
        progress.pins.clear()
        return tuple(Unpin(request) for request in held)
