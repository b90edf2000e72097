"""Random requests come, grow and go over one pool of KV blocks: groups against single blocks.

Single blocks come from a stack, as in a plain paged pool: freed ones go back in an order that
hands them out ascending again. Both see the same operations. Prompts are drawn from lengths of
a few to a hundred blocks, every live request grows by a block at a time in random order, and
the pool is driven to a fill and held there.
"""

import random
from dataclasses import dataclass
from typing import Protocol

from plimsoll.serving.kv.groups import GroupAllocator
from plimsoll.spec.errors import ExecutionError

__all__ = ["Churned", "SingleBlocks", "churn"]


class Blocks(Protocol):
    """What an allocator of blocks does here."""

    total: int
    used: int

    def append(self, request: int, num_blocks: int) -> bool: ...

    def release(self, request: int) -> None: ...

    def table(self, request: int) -> list[int]: ...


class SingleBlocks:
    """Plain paging: any block for anyone, the last freed first."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0
        self._free = list(range(total - 1, -1, -1))
        self._tables: dict[int, list[int]] = {}

    def append(self, request: int, num_blocks: int) -> bool:
        """See ``GroupAllocator``."""
        if num_blocks > len(self._free):
            return False
        self.used += num_blocks
        self._tables.setdefault(request, []).extend(self._free.pop() for _ in range(num_blocks))
        return True

    def release(self, request: int) -> None:
        """See ``GroupAllocator``."""
        table = self._tables.pop(request)
        self.used -= len(table)
        self._free.extend(reversed(table))

    def table(self, request: int) -> list[int]:
        """See ``GroupAllocator``."""
        return self._tables[request]


@dataclass(frozen=True, slots=True, kw_only=True)
class Churned:
    """What came of it. ``mean_run_blocks``: blocks held over runs of them, mean of the samples
    at the fill; ``peak_fraction`` of the pool held at most until the first of ``refused``
    operations; ``steals`` of unused tails."""

    mean_run_blocks: float
    peak_fraction: float
    refused: int
    steals: int


def churn(
    pool: Blocks, *, seed: int, operations: int, fill: float = 0.9, check_every: int = 0
) -> Churned:
    """Run random operations on a pool.

    ``check_every`` > 0: that often the allocator's own books and the tables are held against a
    plain count: no block twice, none lost, none that moved.

    Raises:
        ExecutionError: they differ.
    """
    rng = random.Random(seed)
    held: dict[int, int] = {}
    known: dict[int, list[int]] = {}
    living: list[int] = []
    next_id = refused = peak = 0
    samples: list[float] = []
    for step in range(operations):
        full = pool.used >= fill * pool.total
        draw = rng.random()
        if living and (full or draw < 0.004):
            place = rng.randrange(len(living))
            request = living[place]
            living[place] = living[-1]
            living.pop()
            pool.release(request)
            del held[request]
            known.pop(request, None)
        elif not living or draw < 0.06:
            blocks = rng.randint(4, 100)
            if pool.append(next_id, blocks):
                living.append(next_id)
                held[next_id] = blocks
            else:
                refused += 1
            next_id += 1
        else:
            request = rng.choice(living)
            if pool.append(request, 1):
                held[request] += 1
            else:
                refused += 1
        if not refused:
            peak = max(peak, pool.used)
        if full and step > operations // 4 and step % 50 == 0:
            samples.append(_mean_run(pool, living))
        if check_every and step % check_every == 0:
            _compare(pool, held, known)
    return Churned(
        mean_run_blocks=sum(samples) / max(1, len(samples)),
        peak_fraction=peak / pool.total,
        refused=refused,
        steals=pool.num_steals if isinstance(pool, GroupAllocator) else 0,
    )


def _mean_run(pool: Blocks, living: list[int]) -> float:
    blocks = runs = 0
    for request in living:
        table = pool.table(request)
        blocks += len(table)
        runs += 1 + sum(b != a + 1 for a, b in zip(table[:-1], table[1:], strict=True))
    return blocks / max(1, runs)


def _compare(pool: Blocks, held: dict[int, int], known: dict[int, list[int]]) -> None:
    seen: set[int] = set()
    for request, blocks in held.items():
        table = pool.table(request)
        if len(table) != blocks:
            raise ExecutionError(f"request {request} has {len(table)} blocks instead of {blocks}")
        before = known.get(request, [])
        if table[: len(before)] != before:
            raise ExecutionError(f"blocks of request {request} moved")
        known[request] = list(table)
        overlap = seen.intersection(table)
        if overlap or len(set(table)) != blocks:
            raise ExecutionError(f"request {request} shares blocks {sorted(overlap)[:3]}")
        seen.update(table)
    if seen and not 0 <= min(seen) <= max(seen) < pool.total:
        raise ExecutionError(f"a block beyond the {pool.total} of the pool was handed out")
    if len(seen) != pool.used:
        raise ExecutionError(f"{pool.used} blocks counted, {len(seen)} in tables")
    wrong = pool.check() if isinstance(pool, GroupAllocator) else ""
    if wrong:
        raise ExecutionError(wrong)
