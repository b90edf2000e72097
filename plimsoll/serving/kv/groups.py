"""KV blocks handed out in runs: each request has groups of neighbouring blocks.

Copies between device and host then move a run at a time, not a block, and tables still map
block by block. A request is given a group with room for more than it needs and appends inside it.
When the group is full it grows into free neighbours, else it gets a new group out of a free run,
else the unused tail of somebody else's group. So unused room never makes a request wait: what can
be held is what single blocks could hold. Freed runs join with their neighbours. Requests that are
about to run are robbed last, and keep ``kept_blocks`` of their tail as long as others have any.
Invariant (``check``): groups and free runs are disjoint and together are all blocks.
Source: arXiv 2411.18424 (dynamic block groups).
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass

from plimsoll.spec.errors import SpecError

__all__ = ["Group", "GroupAllocator"]


@dataclass(slots=True)
class Group:
    """``length`` blocks from ``start``; the first ``used`` hold tokens."""

    start: int
    length: int
    used: int

    @property
    def unused(self) -> int:
        """Blocks at the end that hold nothing."""
        return self.length - self.used


class GroupAllocator:
    """See the module text. ``group_blocks`` is what a new group has where room allows; without
    ``steals`` unused tails stay with their owners and requests are refused earlier."""

    def __init__(
        self, *, total: int, group_blocks: int = 60, kept_blocks: int = 1, steals: bool = True
    ) -> None:
        if min(total, group_blocks) < 1 or kept_blocks < 0:
            raise SpecError(
                f"{total} blocks in groups of {group_blocks} with {kept_blocks} kept: the first "
                "two must be at least 1, the last at least 0"
            )
        self.total = total
        self.group_blocks = group_blocks
        self.kept_blocks = kept_blocks
        self.steals = steals
        self.used = 0
        self.num_steals = 0
        self._groups: dict[int, list[Group]] = {}
        self._idle: set[int] = set()
        self._tails: dict[int, int] = {}
        self._by_start: dict[int, int] = {}
        self._by_end: dict[int, int] = {}
        self._by_length: list[tuple[int, int]] = []
        self._add_run(0, total)

    @property
    def free(self) -> int:
        """Blocks that can be handed out: free runs, and unused tails of groups."""
        return self.total - self.used

    @property
    def largest_run(self) -> int:
        """Blocks of the longest free run; tails of groups are not in it."""
        return self._by_length[-1][0] if self._by_length else 0

    def table(self, request: int) -> list[int]:
        """The block numbers of a request, in token order."""
        return [b for g in self._groups[request] for b in range(g.start, g.start + g.used)]

    def runs(self, request: int) -> list[tuple[int, int]]:
        """(first block, blocks) of each run of its table: what one copy a layer moves."""
        found: list[tuple[int, int]] = []
        for group in self._groups[request]:
            if not group.used:
                continue
            if found and sum(found[-1]) == group.start:
                found[-1] = (found[-1][0], found[-1][1] + group.used)
            else:
                found.append((group.start, group.used))
        return found

    def append(self, request: int, num_blocks: int) -> bool:
        """Hold ``num_blocks`` more for a request, new or known; False, and nothing changed, if
        they are not free."""
        if num_blocks > self.free or not (self.steals or self._fits_runs(request, num_blocks)):
            return False
        groups = self._groups.setdefault(request, [])
        self.used += num_blocks
        left = num_blocks
        while True:
            if groups:
                group = groups[-1]
                if group.unused < left:
                    self._extend(group, left)
                taken = min(group.unused, left)
                group.used += taken
                left -= taken
                self._note_tail(request)
            if not left:
                return True
            start, length = self._find(request, left)
            groups.append(Group(start, length, 0))

    def release(self, request: int) -> None:
        """Give back all blocks of a request, unused ones as well."""
        for group in self._groups.pop(request):
            self.used -= group.used
            self._free_run(group.start, group.length)
        self._tails.pop(request, None)
        self._idle.discard(request)

    def shrink(self, request: int, num_blocks: int) -> None:
        """Give back the last ``num_blocks`` blocks of a request; room around them stays its own,
        but not whole groups."""
        groups = self._groups[request]
        while num_blocks:
            group = groups[-1]
            taken = min(group.used, num_blocks)
            group.used -= taken
            self.used -= taken
            num_blocks -= taken
            if num_blocks:
                groups.pop()
                self._free_run(group.start, group.length)
        self._note_tail(request)

    def mark(self, request: int, *, running: bool) -> None:
        """Say whether a request is about to need its tail; new ones are taken to be."""
        if request not in self._groups:
            raise SpecError(f"request {request} holds no blocks")
        if running:
            self._idle.discard(request)
        else:
            self._idle.add(request)

    def check(self) -> str:
        """ "" if groups and free runs are disjoint and cover all blocks, else what is wrong."""
        places = [(g.start, g.length, f"request {r}") for r, gs in self._groups.items() for g in gs]
        places += [(start, length, "free") for start, length in self._by_start.items()]
        at, before = 0, "the start"
        for start, length, place in sorted(places):
            if start != at or length < 1:
                return f"{before} ends at block {at}, but {place} begins at {start}"
            if place == before == "free":
                return f"free runs meet at block {at} and were not joined"
            at, before = start + length, place
        if at != self.total:
            return f"blocks end at {at} of {self.total}"
        if self.used != sum(g.used for gs in self._groups.values() for g in gs):
            return f"{self.used} blocks counted as used, but groups hold another number"
        if sorted((n, s) for s, n in self._by_start.items()) != self._by_length:
            return "free runs are not those sorted by length"
        if any(g.unused for gs in self._groups.values() for g in gs[:-1]):
            return "a group that is not the last of its request has unused blocks"
        if self._tails != {
            r: gs[-1].unused for r, gs in self._groups.items() if gs and gs[-1].unused
        }:
            return "unused tails are not those noted"
        return ""

    # Finding room

    def _fits_runs(self, request: int, num_blocks: int) -> bool:
        return num_blocks <= sum(self._by_start.values()) + self._tails.get(request, 0)

    def _extend(self, group: Group, need: int) -> None:
        """Grow the last group of a request into the free run behind it, if there is one."""
        end = group.start + group.length
        length = self._by_start.get(end)
        if length is None:
            return
        wanted = min(length, max(need - group.unused, self.group_blocks))
        self._drop_run(end)
        group.length += wanted
        if wanted < length:
            self._add_run(end + wanted, length - wanted)

    def _find(self, request: int, need: int) -> tuple[int, int]:
        """A new group: of the smallest free run that is long enough, the longest, or a tail."""
        wanted = max(need, self.group_blocks)
        if not self._by_length:
            return self._steal(request, need)
        place = bisect_left(self._by_length, (wanted, 0))
        if place == len(self._by_length):
            longest = self._by_length[-1][0]
            if self.steals and longest < need and max(self._tails.values(), default=0) > longest:
                return self._steal(request, need)
            place -= 1
        length, start = self._by_length[place]
        self._drop_run(start)
        if length > wanted:
            self._add_run(start + wanted, length - wanted)
        return start, min(length, wanted)

    def _steal(self, request: int, need: int) -> tuple[int, int]:
        """The end of another group's unused tail: all of it if its owner does not run, else half,
        or what is needed if that is more, and the kept blocks only if there is nothing else."""
        victim = max(self._victims(request))[-1]
        group = self._groups[victim][-1]
        spare = group.unused
        if victim not in self._idle:
            room = spare - self.kept_blocks
            spare = min(room, max(need, -(-room // 2))) if room > 0 else min(need, spare)
        group.length -= spare
        start = group.start + group.length
        if not group.length:
            self._groups[victim].pop()
        self._note_tail(victim)
        self.num_steals += 1
        return start, spare

    def _victims(self, request: int) -> Iterator[tuple[bool, int, int, int]]:
        """(idle, blocks above what it keeps, -id, id) of each owner of a tail but the robber."""
        for owner, tail in self._tails.items():
            if owner != request:
                idle = owner in self._idle
                yield idle, tail if idle else tail - self.kept_blocks, -owner, owner

    def _note_tail(self, request: int) -> None:
        groups = self._groups[request]
        if groups and groups[-1].unused:
            self._tails[request] = groups[-1].unused
        else:
            self._tails.pop(request, None)

    # Free runs

    def _free_run(self, start: int, length: int) -> None:
        """Free a run and join it with the free runs around it."""
        before = self._by_end.get(start)
        if before is not None:
            length += self._by_start[before]
            self._drop_run(before)
            start = before
        behind = self._by_start.get(start + length)
        if behind is not None:
            self._drop_run(start + length)
            length += behind
        self._add_run(start, length)

    def _add_run(self, start: int, length: int) -> None:
        self._by_start[start] = length
        self._by_end[start + length] = start
        insort(self._by_length, (length, start))

    def _drop_run(self, start: int) -> None:
        length = self._by_start.pop(start)
        del self._by_end[start + length]
        del self._by_length[bisect_left(self._by_length, (length, start))]
