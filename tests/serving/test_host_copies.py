"""Host copies against plain memory: what comes back is what left, and little is sent twice.

The oracle keeps the contents of every host block and writes only what a swap-out says.
"""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.serving.kv.tiers import HostCopies
from plimsoll.spec.errors import ExecutionError, InfeasibleError, SpecError


class Sessions:
    """Requests that run, grow, leave and come back; the host's blocks are lists of tokens."""

    def __init__(self, copies: HostCopies, seed: int) -> None:
        self.copies = copies
        self.rng = random.Random(seed)
        self.tokens: dict[int, list[int]] = {}
        self.away: set[int] = set()
        self.host: dict[int, list[list[int]]] = {}
        self.sent = self.whole = 0

    def block(self, request: int, index: int) -> list[int]:
        size = self.copies.block_tokens
        return self.tokens[request][index * size : (index + 1) * size]

    def leave(self, request: int, priority: float) -> bool:
        tokens = self.tokens[request]
        before = {r: self.copies.valid_tokens(r) for r in self.tokens}
        try:
            swap = self.copies.swap_out(request, len(tokens), priority=priority)
        except InfeasibleError:
            assert before == {r: self.copies.valid_tokens(r) for r in self.tokens}
            return False
        for other, left in swap.cut.items():
            assert other not in self.away and left < before[other]
            blocks = -(-left // self.copies.block_tokens)
            self.host[other] = self.host[other][:blocks]
        stored = self.host.setdefault(request, [])
        del stored[swap.first :]
        assert len(stored) == swap.first or swap.num_blocks == 0
        stored.extend(self.block(request, i) for i in range(swap.first, swap.last))
        self.sent += swap.num_blocks
        self.whole += -(-len(tokens) // self.copies.block_tokens)
        self.away.add(request)
        return True

    def come_back(self, request: int) -> None:
        blocks = self.copies.swap_in(request)
        read = [t for block in self.host[request][:blocks] for t in block]
        assert read == self.tokens[request]
        self.away.discard(request)

    def step(self) -> None:
        running = sorted(self.tokens.keys() - self.away)
        draw = self.rng.random()
        if draw < 0.1 or not self.tokens:
            self.tokens[len(self.tokens) + 1] = [self.rng.random() for _ in range(5)]
        elif draw < 0.4 and running:
            more = self.rng.randint(1, 7)
            self.tokens[self.rng.choice(running)] += [self.rng.random() for _ in range(more)]
        elif draw < 0.7 and running:
            self.leave(self.rng.choice(running), self.rng.randint(0, 3))
        elif draw < 0.95 and self.away:
            self.come_back(self.rng.choice(sorted(self.away)))
        elif running:
            request = self.rng.choice(running)
            self.copies.drop(request)
            self.host.pop(request, None)
            self.tokens[request] = [self.rng.random()]
        assert self.copies.check() == ""
        size = self.copies.block_tokens
        for request in self.tokens:
            valid = self.copies.valid_tokens(request)
            stored = [t for block in self.host.get(request, []) for t in block]
            assert stored[:valid] == self.tokens[request][:valid]
            assert request not in self.away or valid == len(self.tokens[request])
            assert -(-valid // size) <= len(self.host.get(request, [])) + (valid == 0)


@settings(max_examples=150)
@given(st.integers(0, 60), st.integers(1, 6), st.integers(0, 2**32))
def test_what_comes_back_is_what_left(total: int, block_tokens: int, seed: int) -> None:
    copies = HostCopies(total=total, block_tokens=block_tokens, block_bytes=1)
    sessions = Sessions(copies, seed)
    for _ in range(80):
        sessions.step()
    assert copies.check() == "" and copies.used <= total
    assert sessions.away <= set(sessions.tokens)


def test_turns_send_only_what_is_new() -> None:
    """Three to eight turns that each add a third: less than 0.6 of what whole copies send."""
    copies = HostCopies(total=10_000, block_tokens=16, block_bytes=1)
    sessions = Sessions(copies, 0)
    for request in range(40):
        sessions.tokens[request] = list(range(100))
        for turn in range(3 + request % 6):
            sessions.leave(request, 0.0)
            sessions.come_back(request)
            sessions.tokens[request] += list(range(40 + turn))
    assert sessions.sent <= 0.6 * sessions.whole


def test_a_partly_filled_last_block_that_grew_is_sent_again() -> None:
    copies = HostCopies(total=10, block_tokens=4, block_bytes=1)
    first = copies.swap_out(1, 6, priority=0)
    assert (first.first, first.last) == (0, 2)
    assert copies.swap_in(1) == 2
    unchanged = copies.swap_out(1, 6, priority=0)
    assert unchanged.num_blocks == 0
    copies.swap_in(1)
    grown = copies.swap_out(1, 7, priority=0)
    assert (grown.first, grown.last) == (1, 2)
    copies.swap_in(1)
    copies.swap_out(1, 8, priority=0)
    copies.swap_in(1)
    assert copies.swap_out(1, 9, priority=0).first == 2


def test_low_priority_copies_lose_their_end_and_send_it_again() -> None:
    copies = HostCopies(total=6, block_tokens=4, block_bytes=1)
    copies.swap_out(1, 14, priority=1)
    copies.swap_in(1)
    swap = copies.swap_out(2, 15, priority=2)
    assert swap.cut == {1: 8} and copies.valid_tokens(1) == 8
    copies.drop(2)
    again = copies.swap_out(1, 14, priority=1)
    assert (again.first, again.last) == (2, 4)


def test_who_is_swapped_out_or_of_higher_priority_is_not_cut() -> None:
    copies = HostCopies(total=4, block_tokens=4, block_bytes=1000)
    copies.swap_out(1, 12, priority=0)
    with pytest.raises(InfeasibleError, match="needs 2,000 bytes of host memory and 1,000 can"):
        copies.swap_out(2, 8, priority=9)
    copies.swap_in(1)
    with pytest.raises(InfeasibleError):
        copies.swap_out(2, 8, priority=0)
    assert copies.swap_out(2, 8, priority=1).cut == {1: 8}


def test_a_failed_copy_counts_only_what_arrived() -> None:
    copies = HostCopies(total=4, block_tokens=4, block_bytes=1)
    copies.swap_out(1, 10, priority=0)
    copies.fail(1, 4)
    assert (copies.valid_tokens(1), copies.used, copies.check()) == (4, 1, "")
    assert copies.swap_out(1, 10, priority=0).first == 1


def test_impossible_calls_are_named() -> None:
    with pytest.raises(SpecError, match="at least 1"):
        HostCopies(total=4, block_tokens=0, block_bytes=1)
    copies = HostCopies(total=4, block_tokens=4, block_bytes=1)
    with pytest.raises(ExecutionError, match="is not swapped out"):
        copies.swap_in(1)
    copies.swap_out(1, 8, priority=0)
    with pytest.raises(ExecutionError, match="swapped out already"):
        copies.swap_out(1, 9, priority=0)
    copies.swap_in(1)
    with pytest.raises(ExecutionError, match="drop its copy first"):
        copies.swap_out(1, 7, priority=0)
    with pytest.raises(ExecutionError, match="no copy of 9 tokens"):
        copies.fail(1, 9)
    copies.drop(1)
    copies.drop(1)
    assert copies.used == 0
