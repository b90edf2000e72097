"""Paged KV memory of one instance: how many blocks are held, and which prefixes are cached.

Blocks are counted, not numbered. A request's own blocks are private; the leading blocks that
its prefix keys name become shared *units* (``unit_blocks`` blocks each) once computed, live
while any request refers to them, and stay afterwards as cache until the room is needed, the
longest unused first. ``free`` is what can be handed out: total minus held, cached units that
nobody refers to included.

Decoding requests grow by a token a step. They are kept in a histogram of their distance to
the next block boundary, so the blocks of the next k steps have a closed form.
Invariant (``check``): held + cached <= total, and held equals the sum over requests and units.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from plimsoll.serving.executors.requests import SimRequest, TickCounter

__all__ = ["Holder", "PagedPool"]


class Holder(Protocol):
    """Whatever holds blocks: a request, or what it left behind on an instance it moves from."""

    id: int
    num_blocks: int
    num_units: int
    has_blocks: bool
    prefix_keys: Sequence[int]


class PagedPool:
    """See the module text. ``per_request`` blocks are held once by every running request."""

    __slots__ = (
        "_counters",
        "_histograms",
        "_pins",
        "_references",
        "_unused",
        "away",
        "block_bytes",
        "block_tokens",
        "busy",
        "caching",
        "held",
        "host_free",
        "leaving",
        "lent",
        "most_lent",
        "on_release",
        "per_request",
        "total",
        "unit_blocks",
        "unit_tokens",
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
        """``unit_tokens`` tokens a prefix key stands for, 0: no prefix cache."""
        self.total = total
        self.block_tokens = block_tokens
        self.per_request = per_request
        self.unit_tokens = unit_tokens
        self.unit_blocks = unit_tokens // block_tokens
        self.caching = unit_tokens > 0
        self.held = 0
        self.busy = 0
        self.host_free = host_blocks
        self.block_bytes = block_bytes
        self.most_lent = most_lent
        self.lent = 0
        self.leaving = 0
        self.away: dict[int, dict[int, int]] = {}
        """Blocks of requests here that others hold: by request, then by holder."""
        self.on_release: Callable[[int], None] | None = None
        """Told the id of a request with blocks elsewhere when it gives its KV up."""
        self._references: dict[int, int] = {}
        self._unused: OrderedDict[int, None] = OrderedDict()
        self._pins: dict[int, list[int]] = {}
        self._counters: list[TickCounter] = []
        self._histograms: list[list[int]] = []

    def count_with(self, counters: Sequence[TickCounter]) -> None:
        """Follow the decode steps of these slots."""
        self._counters = list(counters)
        self._histograms = [[0] * self.block_tokens for _ in counters]

    # What policies read

    @property
    def free(self) -> int:
        """Blocks that can be handed out now."""
        return self.total - self.held

    @property
    def cached(self) -> int:
        """Blocks that only the prefix cache holds."""
        return len(self._unused) * self.unit_blocks

    def cached_tokens(self, request: SimRequest) -> int:
        """Leading prompt tokens held by the prefix cache; at least one token stays to run."""
        return self._matching_units(request) * self.unit_tokens

    def is_pinned(self, request_id: int) -> bool:
        """Whether a prefix is pinned under a request, which may be gone."""
        return request_id in self._pins

    def blocks_for(self, request: SimRequest, num_tokens: int) -> int:
        """Free blocks that running ``num_tokens`` more of ``request`` would take."""
        block = self.block_tokens
        if request.has_blocks:
            after = -(-(request.computed + num_tokens) // block)
            return after - request.num_blocks
        if not self.caching or not request.prefix_keys:
            return -(-num_tokens // block) + self.per_request
        units = self._matching_units(request)
        unused = self._unused
        revived = sum(key in unused for key in request.prefix_keys[:units])
        after = -(-(units * self.unit_tokens + num_tokens) // block)
        return after - (units - revived) * self.unit_blocks + self.per_request

    def blocks_freed(self, request: SimRequest) -> int:
        """Blocks that become free if the request is parked: those nobody shares with it."""
        shared = sum(self._references[k] > 1 for k in request.prefix_keys[: request.num_units])
        held = max(request.num_blocks, -(-request.computed // self.block_tokens))
        if self.away:
            held -= self.num_away(request.id)
        return held - shared * self.unit_blocks + self.per_request

    def num_away(self, request_id: int) -> int:
        """Blocks of a request that others hold."""
        return sum(self.away.get(request_id, {}).values())

    def decode_blocks(self, slot: int) -> int:
        """Free blocks that one more token for every decoding request of a slot would take."""
        return self._histograms[slot][-self._counters[slot].tick % self.block_tokens]

    # What the executor does

    def attach(self, request: SimRequest) -> int:
        """Start holding: take the per-request blocks and the cached prefix; its token count.

        Call ``grow`` afterwards: it drops what the cache must give up for this.
        """
        self.held += self.per_request
        request.has_blocks = True
        units = self._matching_units(request)
        for key in request.prefix_keys[:units]:
            count = self._references.get(key, 0)
            self._references[key] = count + 1
            if count == 0:
                del self._unused[key]
                self.held += self.unit_blocks
        request.num_units = units
        request.num_blocks = units * self.unit_blocks
        return units * self.unit_tokens

    def grow(self, request: SimRequest, num_tokens: int) -> None:
        """Hold blocks for ``num_tokens`` tokens in all."""
        more = -(-num_tokens // self.block_tokens) - request.num_blocks
        if more > 0:
            request.num_blocks += more
            self.held += more
        self._evict()

    def trim(self, request: SimRequest) -> None:
        """Nothing is kept beyond the blocks a request counts."""

    def publish(self, request: SimRequest) -> None:
        """Offer the request's fully computed leading units to others."""
        if not self.caching or request.id in self.away:
            return
        keys = request.prefix_keys
        ready = min(len(keys), request.computed // self.unit_tokens)
        references = self._references
        while request.num_units < ready:
            key = keys[request.num_units]
            if key in references or key in self._unused:
                break  # someone else's copy is the cached one; ours stays private
            references[key] = 1
            request.num_units += 1

    def publish_ended(self, request: SimRequest, keys: list[int], num_tokens: int) -> None:
        """Leave units that cover generated tokens in the cache (the next turn asks for them)."""
        if not self.caching or request.id in self.away:
            return
        ready = min(len(keys), num_tokens // self.unit_tokens)
        first = request.num_units
        if list(request.prefix_keys[:first]) != keys[:first]:
            return
        request.prefix_keys = keys
        for i in range(first, ready):
            if keys[i] in self._references or keys[i] in self._unused:
                break
            self._references[keys[i]] = 1
            request.num_units = i + 1

    def pin(self, request: Holder, num_tokens: int) -> bool:
        """Refer to the units of a request's leading tokens; False if one is not in the cache."""
        num = num_tokens // self.unit_tokens if self.caching else 0
        keys = list(request.prefix_keys[:num])
        references, unused = self._references, self._unused
        if (
            not keys
            or len(keys) < num
            or any(key not in references and key not in unused for key in keys)
        ):
            return False
        for key in keys:
            if key in unused:
                del unused[key]
                self.held += self.unit_blocks
            references[key] = references.get(key, 0) + 1
        self._pins[request.id] = keys
        return True

    def unpin(self, request_id: int) -> None:
        """Take the pin's reference back."""
        for key in reversed(self._pins.pop(request_id)):
            self._drop_reference(key)

    def _drop_reference(self, key: int) -> None:
        left = self._references[key] - 1
        if left:
            self._references[key] = left
            return
        del self._references[key]
        self._unused[key] = None
        self.held -= self.unit_blocks

    def release(self, request: Holder) -> None:
        """Give back all blocks; units nobody else refers to stay as cache, most recent last."""
        if self.on_release is not None:
            self.on_release(request.id)
            if request.id in self.away:
                request.num_blocks -= sum(self.away.pop(request.id).values())
        shared = request.num_units
        for key in reversed(request.prefix_keys[:shared]):
            self._drop_reference(key)
        self.held -= request.num_blocks - shared * self.unit_blocks + self.per_request
        request.num_units = 0
        request.num_blocks = 0
        request.has_blocks = False

    def join(self, slot: int, computed: int) -> None:
        """A request starts decoding with ``computed`` tokens held."""
        self._histograms[slot][(computed - self._counters[slot].tick) % self.block_tokens] += 1

    def leave(self, slot: int, computed: int) -> None:
        """A decoding request stops, with ``computed`` tokens held."""
        self._histograms[slot][(computed - self._counters[slot].tick) % self.block_tokens] -= 1

    def blocks_of_steps(self, slot: int, first: int, last: int) -> int:
        """Blocks that decode steps ``first`` to ``last - 1`` from now take, all requests."""
        histogram = self._histograms[slot]
        block = self.block_tokens
        tick = self._counters[slot].tick
        rounds, rest = divmod(last - first, block)
        total = rounds * sum(histogram) if rounds else 0
        start = -(tick + first)
        for j in range(rest):
            total += histogram[(start - j) % block]
        return total

    def steps_that_fit(self, slot: int, most: int, spared: int = 0) -> int:
        """How many of the next ``most`` decode steps the free blocks allow.

        The run ends with the first step that takes one of the last ``spared`` blocks.
        """
        free = self.total - self.held
        steps = self._steps_within(free, slot, most)
        if spared:
            return min(steps, self._steps_within(free - spared, slot, most) + 1)
        return steps

    def _steps_within(self, blocks: int, slot: int, most: int) -> int:
        histogram = self._histograms[slot]
        block = self.block_tokens
        a_round = sum(histogram)
        if a_round == 0 or blocks >= (most // block + 1) * a_round:
            return most
        rounds, left = divmod(blocks, a_round)
        steps = rounds * block
        start = -self._counters[slot].tick
        while steps < most:
            left -= histogram[(start - steps) % block]
            if left < 0:
                break
            steps += 1
        return min(steps, most)

    def take(self, blocks: int) -> None:
        """Hold blocks for tokens that decode steps have written."""
        if blocks:
            self.held += blocks
            self._evict()

    # Blocks that instances hold for each other

    def host(self, request_id: int, blocks: int) -> None:
        """Hold blocks of another instance's request, or room for a request's that come home."""
        self.lent += blocks
        self.held += blocks
        self._evict()

    def unhost(self, request_id: int, blocks: int) -> None:
        """Give such blocks back."""
        self.lent -= blocks
        self.held -= blocks

    def send_away(self, request_id: int, holder: int, blocks: int) -> None:
        """The oldest own blocks of a request that are here are with ``holder`` from now on."""
        held = self.away.setdefault(request_id, {})
        held[holder] = held.get(holder, 0) + blocks
        self.held -= blocks

    def bring_home(self, request_id: int, holder: int, blocks: int) -> None:
        """The last blocks that ``holder`` took are in the room that was hosted for them."""
        self._drop_away(request_id, holder, blocks)
        self.lent -= blocks

    def pass_on(self, request_id: int, holder: int, target: int, blocks: int) -> None:
        """The last blocks that ``holder`` took are with ``target`` from now on."""
        held = self.away[request_id]
        held[target] = held.get(target, 0) + blocks
        self._drop_away(request_id, holder, blocks)

    def _drop_away(self, request_id: int, holder: int, blocks: int) -> None:
        held = self.away[request_id]
        held[holder] -= blocks
        if not held[holder]:
            del held[holder]
        if not held:
            del self.away[request_id]

    def clear(self) -> None:
        """Everything is gone: the instance was lost."""
        self._unused.clear()
        self._references.clear()
        self._pins.clear()
        self.away.clear()
        self.held = self.lent = self.leaving = 0

    def check(self, holders: Iterable[Holder], decoding: Iterable[SimRequest]) -> str:
        """ "" if the books balance, else what is wrong.

        ``holders`` are all that hold blocks; those of them in ``decoding`` are counted by
        their tokens, because decode steps do not update them one by one.
        """
        shared = len(self._references) * self.unit_blocks
        tokens = {id(r): -(-r.computed // self.block_tokens) for r in decoding}
        private = sum(
            max(tokens.get(id(r), 0), r.num_blocks)
            - r.num_units * self.unit_blocks
            - self.num_away(r.id)
            + self.per_request
            for r in holders
        )
        if shared + private + self.lent != self.held:
            return (
                f"{self.held} blocks held, but units hold {shared}, requests {private} and "
                f"others {self.lent}"
            )
        if any(key not in self._references for keys in self._pins.values() for key in keys):
            return "a pinned unit is not held"
        cached = len(self._unused) * self.unit_blocks
        if self.held + cached > self.total:
            return f"{self.held} held and {cached} cached blocks exceed {self.total}"
        return ""

    def _matching_units(self, request: SimRequest) -> int:
        if not self.caching:
            return 0
        most = min(len(request.prefix_keys), (request.pending - 1) // self.unit_tokens)
        references, unused = self._references, self._unused
        units = 0
        for key in request.prefix_keys:
            if units == most or (key not in references and key not in unused):
                break
            units += 1
        return units

    def _evict(self) -> None:
        unused = self._unused
        room = self.total - self.held
        while len(unused) * self.unit_blocks > room and unused:
            unused.popitem(last=False)
