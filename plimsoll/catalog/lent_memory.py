"""Instances that lend KV memory: a request that borrows until all refuse, debts at random."""

import random

from plimsoll.cost.pooled_kv import PooledKv
from plimsoll.serving.kv.debts import DebtGraph
from plimsoll.serving.kv.ledger import Heartbeat, Ledger, LendingBooks

__all__ = ["Debts", "grown_blocks", "is_acyclic", "random_debts"]

Debts = dict[int, dict[int, int]]


def grown_blocks(pool: PooledKv, *, lending: bool = True) -> int:
    """Blocks that one request gets: its own instance's, then loans through the ledger.

    It asks for 256 blocks at a time, and for half as many whenever all have refused; creditors
    answer from their own books. Instances stand eight a node.
    """
    most_lent = pool.lent_blocks if lending else 0
    books = {
        i: LendingBooks(free_blocks=pool.instance_blocks, most_lent=most_lent)
        for i in range(1, pool.num_instances)
    }
    ledger = Ledger({i: i // 8 for i in range(pool.num_instances)})
    ledger.hear(Heartbeat(instance=0, sent_at_s=0.0, free_blocks=0))
    held, size, now_s = pool.instance_blocks, 256, 0.0
    while size:
        for i, book in books.items():
            ledger.hear(Heartbeat(instance=i, sent_at_s=now_s, free_blocks=book.free_blocks))
        while ledger.borrow(
            0,
            size,
            lambda creditor, blocks: books[creditor].grant(0, blocks),
            now_s=now_s,
            most_tries=pool.num_instances,
        ):
            held += size
        size //= 2
        now_s += 1.0
    return held


def random_debts(rng: random.Random) -> Debts:
    """2 to 32 instances of which each owes each other one with a chance of 5 to 100 %."""
    n, density = rng.randint(2, 32), rng.choice((0.05, 0.1, 0.3, 1.0))
    return {
        a: {b: rng.randint(1, 50) for b in range(n) if b != a and rng.random() < density}
        for a in range(n)
    }


def is_acyclic(graph: DebtGraph, locked: set[int]) -> bool:
    """Whether no circle is left among unlocked instances: who owes none of those left is taken
    off, until all are."""
    left = {
        a: {b for b in row if b not in locked} for a, row in graph.debts.items() if a not in locked
    }
    while left:
        ends = {a for a in left if not left[a] & left.keys()}
        if not ends:
            return False
        left = {a: row for a, row in left.items() if a not in ends}
    return True
