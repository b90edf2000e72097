"""The numbered pool whose blocks come in runs (``kv.groups``), so that copies are few and large.

What is counted, and so what policies read, is as in ``PagedPool``: unused room of a group is free.
Left out: shared prefixes, whose blocks would have no one owner.
"""

from collections.abc import Iterable

from plimsoll.serving.executors.requests import SimRequest
from plimsoll.serving.kv.groups import GroupAllocator
from plimsoll.serving.kv.numbered import NumberedPool
from plimsoll.serving.kv.paged import Holder, PagedPool

__all__ = ["GroupedPool"]


class GroupedPool(NumberedPool):
    """See the module text. ``group_blocks`` is what a new group has where room allows."""

    __slots__ = ("_group_blocks", "_groups")

    def __init__(
        self,
        *,
        total: int,
        block_tokens: int,
        group_blocks: int,
        per_request: int = 0,
        host_blocks: int = 0,
    ) -> None:
        super().__init__(
            total=total, block_tokens=block_tokens, per_request=per_request, host_blocks=host_blocks
        )
        self._free_numbers = []
        self._group_blocks = group_blocks
        self._groups = GroupAllocator(total=total, group_blocks=group_blocks)

    def trim(self, request: SimRequest) -> None:
        """See ``NumberedPool``."""
        table = self.tables[request.id]
        over = len(table) - request.num_blocks
        if over > 0:
            self._groups.shrink(request.id, over)
            del table[-over:]

    def release(self, request: Holder) -> None:
        """See ``PagedPool``."""
        if self.tables.pop(request.id):
            self._groups.release(request.id)
        PagedPool.release(self, request)

    def clear(self) -> None:
        """See ``PagedPool``."""
        super().clear()
        self._free_numbers = []
        self._groups = GroupAllocator(total=self.total, group_blocks=self._group_blocks)

    def check(self, holders: Iterable[Holder], decoding: Iterable[SimRequest]) -> str:
        """See ``PagedPool``; also that tables are the allocator's, which overlap nowhere."""
        holders = list(holders)
        wrong = PagedPool.check(self, holders, decoding) or self._groups.check()
        if wrong:
            return wrong
        for holder in holders:
            table = self.tables[holder.id]
            if table and self._groups.table(holder.id) != table:
                return f"request {holder.id} has other blocks than its groups"
        if sum(map(len, self.tables.values())) != self._groups.used:
            return f"{self._groups.used} blocks in groups, tables hold another number"
        return ""

    def _number(self, request: int, num_blocks: int) -> list[int]:
        held = self._groups.append(request, num_blocks)
        assert held, "blocks that were counted are free"
        return self._groups.table(request)[-num_blocks:]
