"""What a step of a group plan adds to its decodes: the prompt chunks.

Prompts under way go first, then requests that lost their KV, then the groups that have begun, then
the others in the order of the plan. The first member of a group runs its prefix; the rest wait
until the cache holds it. Two groups are open at a time, or as many as have prefixes worth one step,
so that few prefixes are pinned. A request starts if the KV of all that run is predicted to stay
below the limit, or if nothing else runs.
Source: arXiv 2412.03594, section 5.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice, takewhile

import numpy as np

from plimsoll.serving.group_plan import GroupPlan
from plimsoll.serving.policies.kv_forecast import peak_blocks
from plimsoll.serving.policy import InstView, Phase, ReqView, Run, View

__all__ = ["GroupChunks", "GroupProgress"]

_FEWEST_OPEN = 2
"""Groups that may be open whatever the size of their prefixes: the one in turn and the next."""


@dataclass(slots=True)
class GroupProgress:
    """Where a run is in its plan. Groups are named by their place in it."""

    at: int = 0
    """The first group with members that have not started."""
    started: dict[int, int] = field(default_factory=dict)
    """Leading members of a group that have started or are gone."""
    leader: dict[int, int] = field(default_factory=dict)
    """The request that computes a group's prefix, or found it; of groups that have begun."""
    pins: dict[int, int] = field(default_factory=dict)
    """The request that a group's prefix is pinned under."""
    num_arrived: int = 0
    """Requests below this number have arrived."""

    def is_over(self, group: int, plan: GroupPlan, view: View, inst: InstView) -> bool:
        """Whether every member has started, is gone or went elsewhere; notes how far it is."""
        members = plan.groups[group].members
        at = self.started.get(group, 0)
        while at < len(members):
            member = members[at]
            if view.has(member):
                request = view.request(member)
                if request.phase is Phase.WAITING and request.instance in (-1, inst.id):
                    break
            elif member >= self.num_arrived:
                break
            at += 1
        self.started[group] = at
        return at == len(members)

    def waiting_members(
        self, group: int, plan: GroupPlan, view: View, inst: InstView
    ) -> Iterator[ReqView]:
        """Members that wait on the instance, in order."""
        for member in plan.groups[group].members[self.started.get(group, 0) :]:
            if view.has(member):
                request = view.request(member)
                if request.phase is Phase.WAITING and request.instance == inst.id:
                    yield request

    def next_waiting(
        self, group: int, plan: GroupPlan, view: View, inst: InstView
    ) -> ReqView | None:
        """The first of them."""
        return next(self.waiting_members(group, plan, view, inst), None)


class GroupChunks:
    """Fills one step. ``group_of`` is the place of each planned request's group in the plan."""

    def __init__(
        self,
        view: View,
        inst: InstView,
        slot: int,
        *,
        plan: GroupPlan,
        group_of: dict[int, int],
        progress: GroupProgress,
        free: int,
        budget: int,
        limit_blocks: int,
    ) -> None:
        self.runs: list[Run] = []
        self._view = view
        self._inst = inst
        self._pool = inst.pool
        self._slot = slot
        self._plan = plan
        self._group_of = group_of
        self._progress = progress
        self._free = free
        self._budget = self._most_open_tokens = budget
        self._limit = limit_blocks
        self._room = inst.max_num_seqs - inst.num_decoding(slot) - len(inst.prefilling(slot))
        self._taken: set[int] = set()

    def fill(self, num_back: int) -> None:
        """Choose the runs; ``num_back`` swapped requests come back in the same step."""
        self._room -= num_back
        for request in self._inst.prefilling(self._slot):
            tokens = min(request.pending, self._budget)
            tokens = min(tokens, self._free * self._pool.block_tokens + self._slack(request))
            if tokens <= 0:
                return
            self._take(request, tokens)
        if self._budget <= 0 or self._room <= 0 or not self._inst.waiting:
            return
        self._forecast()
        for request in self._candidates():
            if not self._start(request):
                return

    def _slack(self, request: ReqView) -> int:
        return -request.computed % self._pool.block_tokens

    def _take(self, request: ReqView, tokens: int) -> None:
        self._free -= self._pool.blocks_for(request, tokens)
        self._budget -= tokens
        self._taken.add(request.id)
        self.runs.append(Run(request.id, tokens))

    # What runs already, as predicted

    def _forecast(self) -> None:
        """Tokens of each running request that only it holds, and how many it will still add."""
        inst, block = self._inst, self._pool.block_tokens
        own, left, now = [], [], 0
        for slot in range(inst.num_slots):
            for request in inst.decoding(slot):
                mine = request.computed - self._shared(request)
                own.append(mine)
                left.append(self._left(request))
                now -= -mine // block
            for request in inst.prefilling(slot):
                shared = self._shared(request)
                own.append(request.computed + request.pending - shared)
                left.append(self._left(request))
                now -= -max(request.computed - shared, 0) // block
        self._own, self._left_tokens = own, left
        self._base = self._pool.total - self._pool.free - now
        """Blocks that no single request holds: prefixes."""

    def _shared(self, request: ReqView) -> int:
        group = self._group_of.get(request.id, -1)
        return self._plan.groups[group].prefix_tokens if group >= 0 else 0

    def _left(self, request: ReqView) -> int:
        """Output tokens still to come; past its prediction a request is taken to end next."""
        decode = self._plan.decode_tokens
        expected = decode[request.id] if request.id < len(decode) else request.max_tokens
        return max(1, min(int(expected), request.max_tokens) - request.generated)

    def _fits(self, request: ReqView, own_tokens: int, prefix_blocks: int) -> bool:
        own = np.array([*self._own, own_tokens], dtype=np.int64)
        left = np.array([*self._left_tokens, self._left(request)], dtype=np.int64)
        peak = self._base + prefix_blocks + peak_blocks(own, left, self._pool.block_tokens)
        return peak <= self._limit

    # What may start

    def _candidates(self) -> Iterator[ReqView]:
        """Waiting requests in the order in which they should start."""
        inst, plan = self._inst, self._plan
        first = list(islice(inst.waiting, self._room))
        yield from takewhile(lambda request: request.preemptions, first)
        progress = self._progress
        num_open = open_tokens = 0
        begun = list(progress.leader)
        later = (g for g in range(progress.at, len(plan.groups)) if g not in begun)
        for group in chain(begun, later):
            prefix, seen = plan.groups[group].prefix_tokens, False
            for request in progress.waiting_members(group, plan, self._view, self._inst):
                if request.id in self._taken:
                    continue
                if prefix and not seen:
                    if num_open >= _FEWEST_OPEN and open_tokens + prefix > self._most_open_tokens:
                        return
                    num_open, open_tokens, seen = num_open + 1, open_tokens + prefix, True
                if prefix and self._pool.cached_tokens(request) < prefix:
                    if not self._is_under_way(group, prefix):
                        yield request
                    break  # the others need what it computes
                yield request
        if progress.at == len(plan.groups):
            yield from (r for r in inst.waiting if r.id not in self._taken)

    def _is_under_way(self, group: int, prefix: int) -> bool:
        """Whether a member is at work on the prefix."""
        leader = self._progress.leader.get(group, -1)
        if leader in self._taken:
            return True
        if not self._view.has(leader):
            return False
        request = self._view.request(leader)
        return request.phase is Phase.PREFILL and request.computed < prefix

    def _start(self, request: ReqView) -> bool:
        """Take a waiting request if it fits; whether more may follow."""
        pool, shared = self._pool, self._shared(request)
        cached = pool.cached_tokens(request)
        pending = request.pending - cached
        prefix_blocks = shared // pool.block_tokens if cached < shared else 0
        own = request.pending - shared
        alone = not self.runs and not self._inst.num_running
        if not alone and not self._fits(request, own, prefix_blocks):
            return False
        tokens = min(pending, self._budget)
        if pool.blocks_for(request, tokens) > self._free:
            return False
        self._take(request, tokens)
        if shared:
            leader, group = self._progress.leader, self._group_of[request.id]
            if cached < shared or group not in leader:
                leader[group] = request.id
        self._own.append(own)
        self._left_tokens.append(self._left(request))
        self._base += prefix_blocks
        self._room -= 1
        return self._budget > 0 and self._room > 0
