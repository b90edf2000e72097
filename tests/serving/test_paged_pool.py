"""The counted pool against a plain model that numbers every block and keeps every reference."""

import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from plimsoll.serving.executors.requests import SimRequest, TickCounter
from plimsoll.serving.kv.paged import PagedPool

BLOCK, UNIT, TOTAL, PER_REQUEST = 4, 8, 24, 1
UNIT_BLOCKS = UNIT // BLOCK


class NumberedPool:
    """Blocks 0 to TOTAL - 1, each free, private to a request, or part of a named unit."""

    def __init__(self):
        self.free = list(range(TOTAL))
        self.units = {}  # key -> (blocks, set of request ids)
        self.age = {}  # key -> when it was last let go of
        self.private = {}  # request id -> blocks
        self.state = {}  # request id -> its fixed-size blocks
        self.names = {}  # request id -> keys it refers to, in order
        self.clock = itertools.count()

    def available(self):
        return len(self.free) + sum(len(b) for b, users in self.units.values() if not users)

    def pick(self, count):
        while len(self.free) < count:
            unused = [key for key, (_, users) in self.units.items() if not users]
            oldest = min(unused, key=self.age.__getitem__)
            self.free += self.units.pop(oldest)[0]
        taken, self.free = self.free[:count], self.free[count:]
        return taken

    def match(self, keys, most):
        return list(itertools.takewhile(self.units.__contains__, keys[:most]))

    def attach(self, request_id, keys, most):
        hit = self.match(keys, most)
        for key in hit:
            self.units[key][1].add(request_id)
        self.names[request_id] = hit
        self.state[request_id] = self.pick(PER_REQUEST)
        self.private[request_id] = []
        return len(hit)

    def grow(self, request_id, tokens):
        held = len(self.names[request_id]) * UNIT_BLOCKS + len(self.private[request_id])
        more = -(-tokens // BLOCK) - held
        if more > 0:
            self.private[request_id] += self.pick(more)

    def publish(self, request_id, keys, computed):
        mine = self.names[request_id]
        while len(mine) < min(len(keys), computed // UNIT) and keys[len(mine)] not in self.units:
            blocks = self.private[request_id][:UNIT_BLOCKS]
            self.private[request_id] = self.private[request_id][UNIT_BLOCKS:]
            self.units[keys[len(mine)]] = (blocks, {request_id})
            mine.append(keys[len(mine)])

    def release(self, request_id):
        for key in reversed(self.names.pop(request_id)):
            self.units[key][1].discard(request_id)
            self.age[key] = next(self.clock)
        self.free += self.private.pop(request_id) + self.state.pop(request_id)

    def everywhere(self):
        parts = [self.free, *self.private.values(), *self.state.values()]
        parts += [blocks for blocks, _ in self.units.values()]
        return sorted(block for part in parts for block in part)


class Pools(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.pool = PagedPool(
            total=TOTAL, block_tokens=BLOCK, per_request=PER_REQUEST, unit_tokens=UNIT
        )
        self.pool.count_with([TickCounter()])
        self.model = NumberedPool()
        self.running = []
        self.ids = itertools.count()

    def fits(self, blocks):
        return blocks <= self.pool.free

    @rule(prompt=st.integers(1, 70), root=st.integers(0, 2), split=st.integers(0, 9))
    def start(self, prompt, root, split):
        request_id = next(self.ids)
        keys = tuple(
            (root * 1000 if depth < split else (request_id + 1) * 10_000) + depth
            for depth in range(-(-prompt // UNIT))
        )
        request = SimRequest(
            id=request_id, arrival_s=0.0, prompt_tokens=prompt, max_tokens=1, prefix_keys=keys
        )
        most = (prompt - 1) // UNIT
        cached = self.pool.cached_tokens(request)
        assert cached == len(self.model.match(keys, most)) * UNIT
        before = self.pool.free
        need = self.pool.blocks_for(request, 1)
        if not self.fits(need):
            return
        assert self.pool.attach(request) == cached
        request.add_computed(cached)
        assert self.model.attach(request_id, keys, most) * UNIT == cached
        self.step(request, 1)
        assert before - self.pool.free == need
        self.running.append(request)

    def step(self, request, tokens):
        self.pool.grow(request, request.computed + tokens)
        self.model.grow(request.id, request.computed + tokens)
        request.add_computed(tokens)
        self.pool.publish(request)
        self.model.publish(request.id, request.prefix_keys, request.computed)

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 99), tokens=st.integers(1, 20))
    def run(self, which, tokens):
        request = self.running[which % len(self.running)]
        tokens = min(tokens, request.pending)
        before, need = self.pool.free, 0
        if tokens:
            need = self.pool.blocks_for(request, tokens)
        if tokens and self.fits(need):
            self.step(request, tokens)
            assert before - self.pool.free == need

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 99))
    def leave(self, which):
        request = self.running.pop(which % len(self.running))
        before, freed = self.pool.free, self.pool.blocks_freed(request)
        self.pool.release(request)
        self.model.release(request.id)
        assert self.pool.free - before == freed

    @invariant()
    def agree(self):
        model = self.model
        assert model.everywhere() == list(range(TOTAL)), "every block is in one place"
        assert self.pool.free == model.available()
        assert self.pool.cached == model.available() - len(model.free)
        assert self.pool.check(self.running, []) == ""
        for request in self.running:
            assert model.names[request.id] == list(request.prefix_keys[: request.num_units])
        for root in range(3):
            probe = SimRequest(
                id=-1,
                arrival_s=0.0,
                prompt_tokens=80,
                max_tokens=1,
                prefix_keys=tuple(root * 1000 + depth for depth in range(10)),
            )
            hit = len(model.match(probe.prefix_keys, 9)) * UNIT
            assert self.pool.cached_tokens(probe) == hit


Pools.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_the_counted_pool_is_the_numbered_pool = pytest.mark.filterwarnings("default")(Pools.TestCase)
