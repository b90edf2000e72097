"""The swap manager against plain memory: blocks are handed out again only when copies are through.

The oracle has device blocks and host copies with contents. A copy moves them when its event fires,
at the latest moment that the rules allow, so that whoever does not wait reads or writes rubbish.
"""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.serving.kv.swap_manager import Copy, SwapManager, SwapSpec
from plimsoll.spec.errors import ExecutionError, InfeasibleError, SpecError

SIZE = 4


class Memory:
    """Requests over a small pool; every block is a list of tokens."""

    def __init__(self, spec: SwapSpec, total: int, host: int, seed: int, *, waits: bool) -> None:
        self.manager = SwapManager(spec, host_blocks=host, block_tokens=SIZE, longest_blocks=1)
        self.rng = random.Random(seed)
        self.waits = waits
        self.free = list(range(total))
        self.device: dict[int, list[int]] = {b: [] for b in range(total)}
        self.host: dict[int, list[list[int]]] = {}
        self.tokens: dict[int, list[int]] = {}
        self.tables: dict[int, list[int]] = {}
        self.away: set[int] = set()
        self.returning: dict[int, int] = {}
        self.copies: dict[int, Copy] = {}
        self.targets: dict[int, list[list[int]]] = {}
        self.wrong = 0

    def fire(self, event: int) -> None:
        """A copy ends: now it reads and writes."""
        copy = self.copies.pop(event)
        for other in copy.after:
            if other in self.copies:
                self.fire(other)
        host = self.targets.pop(event)
        if copy.way == "out":
            del host[copy.first :]
            host += [list(self.device[b]) for b in copy.blocks]
        else:
            for block, tokens in zip(copy.blocks, host, strict=False):
                self.device[block] = list(tokens)
        told = self.manager.done(event)
        if copy.way == "back" and told is not None:
            assert self.returning.pop(copy.request) == event
            self.compare(copy.request)

    def begin(self, copy: Copy) -> None:
        self.copies[copy.event] = copy
        self.targets[copy.event] = self.host.setdefault(copy.request, [])

    def compare(self, request: int) -> None:
        held = [t for block in self.tables[request] for t in self.device[block]]
        self.wrong += held != self.tokens[request]

    def take(self, num: int) -> list[int]:
        return [self.free.pop(self.rng.randrange(len(self.free))) for _ in range(num)]

    def write(self, request: int, num: int) -> None:
        """Decode or prefill: new tokens into blocks, after the copies that touch new ones."""
        tokens, table = self.tokens[request], self.tables[request]
        more = -(-(len(tokens) + num) // SIZE) - len(table)
        if more > len(self.free):
            return
        fresh = self.take(max(more, 0))
        if self.waits:
            for event in self.manager.waits_for(fresh):
                if event in self.copies:
                    self.fire(event)
        for block in fresh:
            self.device[block] = []
        table += fresh
        for _ in range(num):
            tokens.append(self.rng.random())
            self.device[table[(len(tokens) - 1) // SIZE]].append(tokens[-1])

    def step(self) -> None:
        rng, manager = self.rng, self.manager
        running = sorted(self.tables.keys() - self.returning.keys())
        draw = rng.random()
        if draw < 0.15 or not self.tokens:
            request = len(self.tokens)
            self.tokens[request], self.tables[request] = [], []
            self.write(request, 1)
            if not self.tokens[request]:
                del self.tables[request]
                self.away.discard(request)
        elif draw < 0.45 and running:
            request = rng.choice(running)
            self.compare(request)
            self.write(request, rng.randint(1, 6))
        elif draw < 0.65 and running:
            request = rng.choice(running)
            try:
                copy, _ = manager.leave(request, self.tables[request], len(self.tokens[request]))
            except InfeasibleError:
                return
            self.begin(copy)
            self.free += self.tables.pop(request)
            self.away.add(request)
        elif draw < 0.8 and self.away:
            request = rng.choice(sorted(self.away))
            num = -(-len(self.tokens[request]) // SIZE)
            if num > len(self.free):
                return
            self.tables[request] = self.take(num)
            self.begin(manager.come_back(request, self.tables[request]))
            self.away.discard(request)
            self.returning[request] = max(self.copies)
        elif draw < 0.85 and self.tables:  # closed, maybe while its copy is in flight
            request = rng.choice(sorted(self.tables))
            self.free += self.tables.pop(request)
            self.returning.pop(request, None)
            self.host.pop(request, None)
            manager.drop(request)
        elif self.copies:
            self.fire(rng.choice(sorted(self.copies)))
        assert manager.check() == ""


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.booleans(), st.booleans())
def test_nothing_is_read_or_written_too_early(seed: int, groups: bool, reuse: bool) -> None:
    spec = SwapSpec(groups=groups, reuse=reuse, asynchronous=True)
    memory = Memory(spec, 14, 12, seed, waits=True)
    for _ in range(250):
        memory.step()
    for event in sorted(memory.copies):
        if event in memory.copies:
            memory.fire(event)
    assert memory.wrong == 0
    assert memory.manager.in_flight == () and memory.manager.check() == ""


def test_who_does_not_wait_reads_what_others_wrote() -> None:
    """Blocks given out again before the copy out of them: the test above would see it."""
    wrong = 0
    for seed in range(20):
        memory = Memory(SwapSpec(asynchronous=True), 14, 12, seed, waits=False)
        for _ in range(250):
            memory.step()
        wrong += memory.wrong
    assert wrong > 10


def manager(**parts: object) -> SwapManager:
    spec = SwapSpec(block_bytes=1000, **{"asynchronous": True, **parts})  # type: ignore[arg-type]
    return SwapManager(spec, host_blocks=10, block_tokens=SIZE, longest_blocks=5)


def test_exactly_the_copies_of_its_blocks_are_waited_for() -> None:
    swaps = manager()
    first, _ = swaps.leave(1, [0, 1, 2], 12)
    second, _ = swaps.leave(2, [5, 6], 8)
    assert swaps.waits_for([3, 4]) == ()
    assert swaps.waits_for([2, 3]) == (first.event,)
    assert swaps.waits_for([6, 0, 5]) == (second.event, first.event)
    back = swaps.come_back(1, [5, 9, 8])
    assert back.after == (first.event, second.event)
    assert swaps.waits_for([9]) == (back.event,)
    swaps.done(second.event)
    assert swaps.waits_for([6]) == ()
    swaps.drop(1)  # closed: its blocks are still written
    assert swaps.waits_for([9]) == (back.event,)
    assert swaps.done(back.event) is None and swaps.done(first.event) is None
    assert swaps.in_flight == () and swaps.host_free == 8


def test_runs_are_one_piece_each_only_where_groups_are_on() -> None:
    table = [3, 4, 5, 9, 10, 2]
    for groups, pieces in ((False, 6 * 64), (True, 3 * 64)):
        copy, _ = manager(groups=groups, pieces_per_block=64).leave(1, table, 24)
        assert copy.pieces == pieces


def test_a_step_waits_for_short_copies_and_in_small_batches() -> None:
    swaps = manager(short_s=1e-3, small_batch=3, reuse=True)
    out, _ = swaps.leave(1, [0, 1], 8)
    swaps.done(out.event)
    back = swaps.come_back(1, [4, 5])
    assert swaps.had_better_wait(back, 2) and not swaps.had_better_wait(back, 3)
    swaps.done(back.event, took_s=0.8e-3)  # 0.4 ms a block
    short, long = swaps.leave(1, [4, 5], 8)[0], swaps.leave(2, list(range(5)), 20)[0]
    swaps.done(short.event), swaps.done(long.event)
    assert swaps.had_better_wait(swaps.come_back(1, [7, 8]), 3)
    assert not swaps.had_better_wait(swaps.come_back(2, [0, 1, 2, 3, 4]), 3)


def test_no_step_waits_for_a_copy_whose_source_is_under_way() -> None:
    swaps = manager(small_batch=9)
    swaps.leave(1, [0, 1], 8)
    assert not swaps.had_better_wait(swaps.come_back(1, [4, 5]), 1)
    assert manager(asynchronous=False).spec.asynchronous is False


def test_a_failed_copy_leaves_no_event_and_no_copy() -> None:
    swaps = manager(reuse=True)
    out, _ = swaps.leave(1, [0, 1], 8)
    back = swaps.come_back(1, [2, 3])
    failed = swaps.failed(out.event)
    assert failed is not None and failed.request == 1
    assert swaps.failed(back.event) is None, "nobody waits for it any more"
    assert swaps.in_flight == () and swaps.host_tokens(1) == 0 and swaps.host_free == 10
    with pytest.raises(ExecutionError, match="0 blocks in host memory"):
        swaps.come_back(1, [2, 3])


def test_turns_begin_with_what_the_host_has() -> None:
    swaps = manager(reuse=True)
    out, _ = swaps.leave(1, [0, 1, 2], 11)
    swaps.done(out.event)
    swaps.done(swaps.come_back(1, [0, 1, 2]).event)
    swaps.hand_on(1, 7, 15)
    assert swaps.session_tokens(7) == 11
    assert swaps.adopt(2, 7, 9) == 9 and swaps.session_tokens(7) == 0
    assert swaps.host_free == 7, "what a waiting turn counts on is not overwritten"
    assert swaps.come_back(2, [5, 6, 7]).num_tokens == 9


def test_swap_space_below_one_request_is_an_error_in_bytes() -> None:
    with pytest.raises(SpecError, match=r"4,000 bytes\) is less than one request .*5,000 bytes"):
        SwapManager(SwapSpec(block_bytes=1000), host_blocks=4, block_tokens=SIZE, longest_blocks=5)
    swaps = manager()
    swaps.leave(1, list(range(8)), 32)
    with pytest.raises(InfeasibleError, match="needs 3,000 bytes of host memory and 2,000 can"):
        swaps.leave(2, [8, 9, 10], 12)
    with pytest.raises(SpecError, match="must be at least 1"):
        SwapSpec(block_bytes=0)
    with pytest.raises(SpecError, match="bytes_per_s above zero"):
        SwapSpec(bytes_per_s=0.0)
