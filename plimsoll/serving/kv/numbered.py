"""The paged pool with numbers on its blocks: which block of real memory holds what.

Every decision is ``PagedPool``'s; this class only follows it with a table of block numbers for
each request and each cached unit. So what a policy reads is the same with and without memory
behind it. A decode step's blocks are numbered when the step begins (``cover``).
Invariant (``check``): free numbers, numbers of units and private numbers of tables are disjoint
and together are all.
"""

from collections.abc import Collection, Iterable

from plimsoll.serving.executors.requests import SimRequest
from plimsoll.serving.kv.paged import Holder, PagedPool

__all__ = ["NumberedPool"]


class NumberedPool(PagedPool):
    """See the module text. ``tables`` maps a request's id to its block numbers, in order.

    ``fresh`` collects the numbers handed out, if it is a list: who copies blocks asks for them.
    ``held_back`` are given out last, and first where ``busy_first`` is set: to who waits anyway.
    """

    __slots__ = (
        "_apart",
        "_free_numbers",
        "_units",
        "busy_first",
        "fresh",
        "guests",
        "held_back",
        "tables",
    )

    def __init__(
        self,
        *,
        total: int,
        block_tokens: int,
        per_request: int = 0,
        unit_tokens: int = 0,
        host_blocks: int = 0,
        block_bytes: float = 0.0,
        most_lent: int = 0,
    ) -> None:
        super().__init__(
            total=total,
            block_tokens=block_tokens,
            per_request=per_request,
            unit_tokens=unit_tokens,
            host_blocks=host_blocks,
            block_bytes=block_bytes,
            most_lent=most_lent,
        )
        self.guests: dict[int, list[int]] = {}
        """Numbers of the blocks held for other instances' requests, by request."""
        self._apart: dict[int, list[tuple[int, list[int]]]] = {}
        """Places in a request's table that are being copied: (target, places), in order."""
        self.tables: dict[int, list[int]] = {}
        self.fresh: list[int] | None = None
        self.held_back: Collection[int] = ()
        self.busy_first = False
        self._free_numbers = list(range(total - 1, -1, -1))
        self._units: dict[int, list[int]] = {}

    def attach(self, request: SimRequest) -> int:
        """See ``PagedPool``."""
        tokens = super().attach(request)
        self.tables[request.id] = [
            number
            for key in request.prefix_keys[: request.num_units]
            for number in self._units[key]
        ]
        return tokens

    def grow(self, request: SimRequest, num_tokens: int) -> None:
        """See ``PagedPool``."""
        super().grow(request, num_tokens)
        self.cover(request, num_tokens)

    def cover(self, request: SimRequest, num_tokens: int) -> None:
        """Number blocks for ``num_tokens`` tokens in all; they are counted already."""
        table = self.tables[request.id]
        more = -(-num_tokens // self.block_tokens) - len(table)
        if more > 0:
            found = self._number(request.id, more)
            table += found
            if self.fresh is not None:
                self.fresh += found

    def _number(self, request: int, num_blocks: int) -> list[int]:
        """So many numbers that are free."""
        free, busy = self._free_numbers, self.held_back
        if not busy:
            return [free.pop() for _ in range(num_blocks)]
        found: list[int] = []
        aside: list[int] = []
        while free and len(found) < num_blocks:
            number = free.pop()
            (aside if (number in busy) is not self.busy_first else found).append(number)
        while len(found) < num_blocks:
            found.append(aside.pop(0))
        free.extend(reversed(aside))
        return found

    def trim(self, request: SimRequest) -> None:
        """Give back numbers that were covered for a step that is not the request's any more."""
        table = self.tables[request.id]
        while len(table) > request.num_blocks:
            self._free_numbers.append(table.pop())

    def private_blocks(self, request: Holder) -> list[int]:
        """The block numbers of a request that are not offered to others and not held by them."""
        own = self.tables[request.id][request.num_units * self.unit_blocks :]
        return [number for number in own if number >= 0] if self.away else own

    # Blocks that instances hold for each other

    def set_apart(self, request: Holder, target: int, blocks: int) -> list[int]:
        """The oldest own blocks of a request that are here and not being copied yet: they are
        now, to ``target``."""
        table = self.tables[request.id]
        copied = {place for _, places in self._apart.get(request.id, ()) for place in places}
        first = request.num_units * self.unit_blocks
        here = [i for i in range(first, len(table)) if table[i] >= 0 and i not in copied]
        places = here[:blocks]
        self._apart.setdefault(request.id, []).append((target, places))
        return [table[i] for i in places]

    def put_back(self, request_id: int, target: int) -> None:
        """The first copy to ``target`` came to nothing."""
        waiting = self._apart[request_id]
        waiting.remove(next(entry for entry in waiting if entry[0] == target))

    def forget_apart(self, request_id: int) -> None:
        """Nothing of a request is being copied any more."""
        self._apart.pop(request_id, None)

    def send_away(self, request_id: int, holder: int, blocks: int) -> None:
        """See ``PagedPool``; the first blocks that were set apart for ``holder`` become free."""
        table = self.tables[request_id]
        entry = next(entry for entry in self._apart[request_id] if entry[0] == holder)
        self._apart[request_id].remove(entry)
        for place in entry[1]:
            self._free_numbers.append(table[place])
            table[place] = -1
        super().send_away(request_id, holder, blocks)

    def host(self, request_id: int, blocks: int) -> None:
        """See ``PagedPool``."""
        super().host(request_id, blocks)
        taken = [self._free_numbers.pop() for _ in range(blocks)]
        self.guests.setdefault(request_id, []).extend(taken)

    def unhost(self, request_id: int, blocks: int) -> None:
        """See ``PagedPool``; the last ones go first."""
        held = self.guests[request_id]
        for _ in range(blocks):
            self._free_numbers.append(held.pop())
        if not held:
            del self.guests[request_id]
        super().unhost(request_id, blocks)

    def publish(self, request: SimRequest) -> None:
        """See ``PagedPool``."""
        before = request.num_units
        super().publish(request)
        self._name_units(request, before)

    def publish_ended(self, request: SimRequest, keys: list[int], num_tokens: int) -> None:
        """See ``PagedPool``."""
        before = request.num_units
        super().publish_ended(request, keys, num_tokens)
        self._name_units(request, before)

    def _name_units(self, request: SimRequest, before: int) -> None:
        table, size = self.tables[request.id], self.unit_blocks
        for i in range(before, request.num_units):
            self._units[request.prefix_keys[i]] = table[i * size : (i + 1) * size]

    def release(self, request: Holder) -> None:
        """See ``PagedPool``."""
        self._free_numbers.extend(reversed(self.private_blocks(request)))
        del self.tables[request.id]
        super().release(request)

    def clear(self) -> None:
        """See ``PagedPool``."""
        super().clear()
        self.tables.clear()
        self.guests.clear()
        self._apart.clear()
        self._units.clear()
        self._free_numbers = list(range(self.total - 1, -1, -1))

    def check(self, holders: Iterable[Holder], decoding: Iterable[SimRequest]) -> str:
        """See ``PagedPool``; also that every number is in one place."""
        holders = list(holders)
        wrong = super().check(holders, decoding)
        if wrong:
            return wrong
        places = [("free", self._free_numbers)]
        places += [(f"unit {key}", numbers) for key, numbers in self._units.items()]
        places += [(f"guest {request}", numbers) for request, numbers in self.guests.items()]
        for holder in holders:
            places.append((f"request {holder.id}", self.private_blocks(holder)))
        seen: dict[int, str] = {}
        for place, numbers in places:
            for number in numbers:
                if number in seen:
                    return f"block {number} is in {seen[number]} and in {place}"
                seen[number] = place
        if len(seen) != self.total:
            return f"{self.total - len(seen)} of {self.total} blocks are in no place"
        if len(self.tables) != len(holders):
            return f"{len(self.tables)} tables for {len(holders)} holders of blocks"
        return ""

    def _evict(self) -> None:
        unused = self._unused
        room = self.total - self.held
        while unused and len(unused) * self.unit_blocks > room:
            key, _ = unused.popitem(last=False)
            self._free_numbers.extend(reversed(self._units.pop(key)))
