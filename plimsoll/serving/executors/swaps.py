"""Swapped requests of one instance: the swap manager's copies in an executor's time.

Both executors keep these books; they differ in ``_launch``, which here ends a copy after what it
costs: one lane each way, a copy after the other in it. A copy that the step waits for moves
``ready_s``, the earliest time the step may begin. Without ``asynchronous`` the step waits for all.
Left out: steps slowed down by copies beside them, the host's memory bandwidth.
"""

from collections.abc import Callable, Mapping, Sequence

from plimsoll.cost.transfer import pcie_copy_s
from plimsoll.serving.executors.requests import SimRequest
from plimsoll.serving.kv.grouped import GroupedPool
from plimsoll.serving.kv.numbered import NumberedPool
from plimsoll.serving.kv.swap_manager import Copy, SwapManager, SwapSpec
from plimsoll.spec.errors import InfeasibleError

__all__ = ["Swaps", "swap_pool"]


def swap_pool(
    spec: SwapSpec, *, total: int, block_tokens: int, per_request: int, host_blocks: int
) -> NumberedPool:
    """The KV memory of an instance that swaps so; its blocks are numbered, in runs or singly."""
    if spec.groups:
        return GroupedPool(
            total=total,
            block_tokens=block_tokens,
            group_blocks=spec.group_blocks,
            per_request=per_request,
            host_blocks=host_blocks,
        )
    return NumberedPool(
        total=total, block_tokens=block_tokens, per_request=per_request, host_blocks=host_blocks
    )


class Swaps:
    """``later(time, event)`` has ``copied`` called then; ``fails()`` says whether to fail a copy
    for the sake of testing; ``longest_tokens`` the most KV that one request can have;
    ``key_tokens`` what a prefix key of the workload stands for."""

    def __init__(
        self,
        spec: SwapSpec,
        pool: NumberedPool,
        *,
        host_blocks: int,
        longest_tokens: int,
        later: Callable[[float, int], None],
        key_tokens: int = 0,
        fails: Callable[[], bool] | None = None,
    ) -> None:
        self.spec = spec
        self.manager = SwapManager(
            spec,
            host_blocks=host_blocks,
            block_tokens=pool.block_tokens,
            longest_blocks=-(-longest_tokens // pool.block_tokens),
        )
        self.key_tokens = key_tokens
        self.ready_s = 0.0
        self.lost: list[int] = []
        """Requests whose copy failed, to be computed again."""
        self.told: Mapping[int, tuple[float, bool]] | None = None
        """When copies beside the steps end, by event, and whether they fail; None: as priced."""
        self.wait_s = 0.0
        """Seconds that steps waited for copies so far."""
        self._pool = pool
        self._later = later
        self._fails = fails
        self._returning: dict[int, int] = {}
        self._busy: set[int] = set()
        """Free blocks that copies still read or write."""
        self._begun_s: dict[int, float] = {}
        self._ends_s: dict[int, float] = {}
        self._failing: set[int] = set()
        self._free_s = {"out": 0.0, "back": 0.0}
        pool.fresh = []
        pool.held_back = self._busy
        self._count()

    # What the engine says

    def leave(self, request: SimRequest, now_s: float) -> str:
        """A stopped request's KV goes to the host; its blocks may be given back now. Why not, if
        the host has no room for it."""
        table = self._pool.tables[request.id]
        try:
            copy, cut = self.manager.leave(request.id, table, request.computed)
        except InfeasibleError as error:
            return str(error)
        self._cut(cut)
        self._busy.update(copy.blocks)
        self._begin(copy, not self.spec.asynchronous, now_s)
        return ""

    def grow(self, request: SimRequest) -> None:
        """Blocks for what comes back: those that copies still read, since it waits anyway."""
        self._pool.busy_first = True
        self._pool.grow(request, request.computed)
        self._pool.busy_first = False

    def come_back(self, request: SimRequest, num_running: int, now_s: float) -> bool:
        """A request's KV comes back into its blocks; whether it can run in this step."""
        table = self._pool.tables[request.id]
        copy = self.manager.come_back(request.id, table)
        self._taken(table)  # the copy waits for them, not the step
        sync = self.manager.had_better_wait(copy, num_running)
        if not sync:
            self._returning[request.id] = copy.event
        self._begin(copy, sync, now_s)
        return sync

    def wait_for_blocks(self, now_s: float) -> None:
        """The step that begins waits until no copy reads or writes the blocks it was given."""
        fresh = self._pool.fresh or []
        events = self.manager.waits_for(fresh)
        self._taken(fresh)
        if events:
            self._hold(events, now_s)

    def _taken(self, blocks: Sequence[int]) -> None:
        """Blocks were handed out, and who waits for their copies is settled."""
        self._pool.fresh = []
        self._busy.difference_update(blocks)
        self._pool.busy = len(self._busy)

    def stall_s(self, now_s: float) -> float:
        """How long the step that begins waits for copies."""
        stall_s = max(self.ready_s - now_s, 0.0)
        self.wait_s += stall_s
        return stall_s

    def _cut(self, names: Sequence[int]) -> None:
        """Host copies of requests and sessions (below zero) lost their ends."""

    def copied(self, event: int, now_s: float, *, failed: bool = False) -> int | None:
        """An event fired; the request that can run again now, if one waited for it. What a failed
        copy was for is in ``lost``."""
        self._ends_s.pop(event, None)
        self._busy.difference_update(self.manager.blocks_of(event))
        took_s = now_s - self._begun_s.pop(event, now_s)
        landed = None
        if failed or event in self._failing:
            self._failing.discard(event)
            copy = self.manager.failed(event)
            if copy is not None:
                self._returning.pop(copy.request, None)
                self.lost.append(copy.request)
        else:
            copy = self.manager.done(event, took_s)
            if copy is not None and copy.way == "back" and copy.request in self._returning:
                del self._returning[copy.request]
                landed = copy.request
        self._count()
        return landed

    def drop(self, request: int) -> None:
        """A request left, or is computed again."""
        event = self._returning.pop(request, None)
        if event is not None:
            self._busy.update(self.manager.blocks_of(event))
        self.manager.drop(request)
        self._count()

    def hand_on(self, request: SimRequest, num_tokens: int) -> None:
        """A turn ended whose first ``num_tokens`` tokens the session's next begins with."""
        if self.spec.reuse and request.session_id >= 0:
            self.manager.hand_on(request.id, request.session_id, num_tokens)

    def adopt(self, request: SimRequest, num_tokens: int) -> int:
        """Tokens of a new request, at most ``num_tokens``, that the host has from the turn before;
        it is swapped out with them."""
        if not self.spec.reuse or request.session_id < 0:
            return 0
        tokens = self.manager.adopt(request.id, request.session_id, max(num_tokens, 0))
        self._count()
        return tokens

    def clear(self) -> None:
        """The instance is lost."""
        self.manager.clear()
        for found in (self._returning, self._begun_s, self._ends_s, self._busy):
            found.clear()
        self._failing.clear()
        self.lost.clear()
        self._pool.fresh = []
        self._count()
        self._free_s = {"out": 0.0, "back": 0.0}
        self.ready_s = 0.0

    def _count(self) -> None:
        self._pool.host_free = self.manager.host_free
        self._pool.busy = len(self._busy)

    # Time

    def _begin(self, copy: Copy, sync: bool, now_s: float) -> None:
        self._count()
        if self._fails is not None and self._fails():
            self._failing.add(copy.event)
        self._begun_s[copy.event] = now_s
        if copy.blocks:
            self._launch(copy, sync, now_s)
        else:
            self.copied(copy.event, now_s)

    def _launch(self, copy: Copy, sync: bool, now_s: float) -> None:
        """Have a copy made; ``sync``: the step that is about to begin waits for it."""
        if self.told is not None:
            self._follow(copy, sync, now_s)
            return
        took_s = pcie_copy_s(
            len(copy.blocks) * self.spec.block_bytes,
            num_pieces=copy.pieces,
            launch_s=self.spec.launch_s,
            bytes_per_s=self.spec.bytes_per_s,
        )
        if not self.spec.asynchronous:
            self.ready_s = max(self.ready_s, now_s) + took_s
            self.copied(copy.event, self.ready_s)
            return
        after_s = (self._ends_s.get(event, 0.0) for event in copy.after)
        end_s = max(now_s, self._free_s[copy.way], *after_s) + took_s
        self._free_s[copy.way] = end_s
        if sync:
            self.ready_s = max(self.ready_s, end_s)
            self.copied(copy.event, end_s)
        else:
            self._ends_s[copy.event] = end_s
            self._later(end_s, copy.event)

    def _follow(self, copy: Copy, sync: bool, now_s: float) -> None:
        """A copy as it was recorded; a step that waited for one was the longer for it."""
        assert self.told is not None
        if sync or not self.spec.asynchronous:
            self.copied(copy.event, now_s)
            return
        end_s, failed = self.told.get(copy.event, (float("inf"), False))
        if failed:
            self._failing.add(copy.event)
        if end_s < float("inf"):
            self._later(end_s, copy.event)

    def _hold(self, events: tuple[int, ...], now_s: float) -> None:
        """The step waits for these events."""
        self.ready_s = max(self.ready_s, *(self._ends_s.get(event, 0.0) for event in events))

    def check(self) -> str:
        """ "" if the books balance, else what is wrong."""
        if any(not self.manager.flies(event) for event in self._returning.values()):
            return "a request waits for a copy that is not under way"
        return self.manager.check()
