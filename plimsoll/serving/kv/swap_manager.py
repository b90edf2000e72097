"""Copies of KV between device and host: what each moves, and what must wait for it.

Every copy has an event from the time it is begun until it is told to be done or to have failed.
Blocks that a copy reads or writes may be handed out meanwhile; whoever gets them waits for the
events of exactly those copies (``waits_for``). A copy back to the device waits for the copy out it
reads from, and for those that still read its blocks. Whether the step waits for a copy back or
goes on without the request follows what copies took lately and how many requests run beside it.
With ``reuse`` the host's copy outlives the way back, and only blocks written since are sent again;
after a turn of a session the next turn can begin with it.
Knows no clock and no memory: an executor, simulated or real, says when copies end.
Source: arXiv 2411.18424.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from plimsoll.serving.kv.tiers import HostCopies
from plimsoll.spec.errors import ExecutionError, SpecError
from plimsoll.spec.units import format_bytes

__all__ = ["Copy", "SwapManager", "SwapSpec"]

_LATELY = 0.2
"""Weight of the newest copy in the mean of what a block takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapSpec:
    """Which parts are on, and what a copy costs.

    ``groups``: blocks are handed out in runs of about ``group_blocks`` and copied a run at a time.
    ``asynchronous``: copies run beside steps. ``reuse``: host copies are kept. A block is
    ``pieces_per_block`` pieces apart (layers, keys and values) of ``block_bytes`` in all; a copy's
    launch takes ``launch_s``, the link carries ``bytes_per_s`` each way. A step waits for a copy
    back that takes at most ``short_s``, or with fewer than ``small_batch`` requests beside it.
    """

    groups: bool = False
    asynchronous: bool = False
    reuse: bool = False
    block_bytes: int = 1
    pieces_per_block: int = 1
    launch_s: float = 10e-6
    bytes_per_s: float = 32e9
    group_blocks: int = 60
    short_s: float = 2e-3
    small_batch: int = 2

    def __post_init__(self) -> None:
        if min(self.block_bytes, self.pieces_per_block, self.group_blocks) < 1:
            raise SpecError(
                f"{self}: block_bytes, pieces_per_block and group_blocks must be at least 1"
            )
        if not (self.launch_s >= 0 and self.bytes_per_s > 0 and self.short_s >= 0):
            raise SpecError(
                f"{self}: launch_s and short_s must be zero or more, bytes_per_s above zero"
            )


@dataclass(frozen=True, slots=True)
class Copy:
    """Blocks of one request on their way ``out`` to the host or ``back``.

    ``blocks`` are the device's, for the request's blocks from ``first`` on; ``num_tokens`` the
    tokens the host has when all is there; ``pieces`` the copies it takes; ``after`` the events
    that must have fired before it begins.
    """

    event: int
    request: int
    way: Literal["out", "back"]
    blocks: tuple[int, ...]
    first: int
    num_tokens: int
    pieces: int
    after: tuple[int, ...] = ()


class SwapManager:
    """See the module text. Requests are named by their ids, sessions by theirs.

    Raises:
        SpecError: the host does not hold one request of ``longest_blocks`` blocks.
    """

    def __init__(
        self, spec: SwapSpec, *, host_blocks: int, block_tokens: int, longest_blocks: int
    ) -> None:
        if host_blocks < longest_blocks:
            have, need = (format_bytes(n * spec.block_bytes) for n in (host_blocks, longest_blocks))
            raise SpecError(
                f"swap space of {have} ({host_blocks * spec.block_bytes:,} bytes) is less than one "
                f"request can take, {need} ({longest_blocks * spec.block_bytes:,} bytes); give the "
                "host more memory or lower max_model_len"
            )
        self.spec = spec
        self.num_out_blocks = self.num_back_blocks = 0
        """Blocks sent so far, each way."""
        self.num_whole_blocks = 0
        """Blocks that swap-outs of whole requests would have sent."""
        self.num_cut = 0
        """Times that a host copy lost its end to another."""
        self._host_blocks = host_blocks
        self._block_tokens = block_tokens
        self._serial = 0
        self._block_s = 0.0
        self._swaps = 0
        self.clear()

    def clear(self) -> None:
        """Device and host are lost, with every copy under way."""
        self._copies = HostCopies(
            total=self._host_blocks,
            block_tokens=self._block_tokens,
            block_bytes=self.spec.block_bytes,
        )
        self._flying: dict[int, Copy] = {}
        self._touching: dict[int, list[int]] = {}

    @property
    def host_free(self) -> int:
        """Blocks of host memory that a request to be swapped out can have."""
        return self._copies.room

    @property
    def in_flight(self) -> tuple[Copy, ...]:
        """Copies whose events have not fired, oldest first."""
        return tuple(self._flying.values())

    def flies(self, event: int) -> bool:
        """Whether the event has not fired."""
        return event in self._flying

    def blocks_of(self, event: int) -> tuple[int, ...]:
        """Device blocks of a copy whose event has not fired."""
        copy = self._flying.get(event)
        return copy.blocks if copy else ()

    def host_tokens(self, request: int) -> int:
        """Leading tokens of a request that the host has, or will have."""
        return self._copies.valid_tokens(request)

    def session_tokens(self, session: int) -> int:
        """Leading tokens that the host has of a session none of whose turns is here."""
        return self._copies.valid_tokens(_named(session))

    # What happens to requests

    def leave(self, request: int, table: Sequence[int], num_tokens: int) -> tuple[Copy, list[int]]:
        """A request's KV goes to the host; also the requests and sessions whose host copies lost
        their end for it, the longest unused first.

        Raises:
            InfeasibleError: the host has no room; nothing was changed.
        """
        self._swaps += 1
        swap = self._copies.swap_out(request, num_tokens, priority=self._swaps)
        self.num_out_blocks += swap.num_blocks
        self.num_whole_blocks += -(-num_tokens // self._block_tokens)
        self.num_cut += len(swap.cut)
        copy = self._begin(request, "out", table[swap.first : swap.last], swap.first, num_tokens)
        return copy, list(swap.cut)

    def come_back(self, request: int, table: Sequence[int]) -> Copy:
        """A request's KV comes back into the blocks of ``table``.

        Raises:
            ExecutionError: it is not swapped out.
        """
        tokens = self._copies.valid_tokens(request)
        num = -(-tokens // self._block_tokens)
        if num == 0 or num > len(table):
            raise ExecutionError(
                f"request {request} has {num} blocks in host memory and {len(table)} on the device"
            )
        blocks = table[:num]
        own = (c.event for c in self._flying.values() if c.request == request and c.way == "out")
        after = dict.fromkeys((*own, *self.waits_for(blocks)))
        self.num_back_blocks += num
        return self._begin(request, "back", blocks, 0, tokens, tuple(after))

    def waits_for(self, blocks: Iterable[int]) -> tuple[int, ...]:
        """Events of the copies under way that read or write any of these blocks."""
        if not self._touching:
            return ()
        found = (event for b in blocks for event in self._touching.get(b, ()))
        return tuple(dict.fromkeys(found))

    def had_better_wait(self, copy: Copy, num_running: int) -> bool:
        """Whether a step with ``num_running`` requests beside it should wait for a copy back.

        Never while the request's own copy out is under way: that may still fail.
        """
        if not self.spec.asynchronous:
            return True
        if any(self._flying[e].request == copy.request for e in copy.after):
            return False
        if num_running < self.spec.small_batch:
            return True
        return 0 < self._block_s * len(copy.blocks) <= self.spec.short_s

    def done(self, event: int, took_s: float = 0.0) -> Copy | None:
        """A copy is complete, ``took_s`` after it was asked for; None if it was given up."""
        copy = self._land(event)
        if copy is None:
            return None
        if copy.way == "back":
            if copy.blocks and took_s > 0:
                now_s = took_s / len(copy.blocks)
                before_s = self._block_s or now_s
                self._block_s = before_s + _LATELY * (now_s - before_s)
            self._copies.swap_in(copy.request)
            if not self.spec.reuse:
                self._copies.drop(copy.request)
        return copy

    def failed(self, event: int) -> Copy | None:
        """A copy failed: the request must be computed again; None if nobody waits for it."""
        copy = self._land(event)
        if copy is not None:
            self.drop(copy.request)
        return copy

    def drop(self, request: int) -> None:
        """A request ended or is computed again. Copies under way keep their events."""
        self._copies.drop(request)
        for event, copy in self._flying.items():
            if copy.request == request:
                self._flying[event] = _orphan(copy)

    def hand_on(self, request: int, session: int, num_tokens: int) -> None:
        """A turn ended; the next begins with its first ``num_tokens`` tokens."""
        self._copies.hand_on(request, _named(session), num_tokens)

    def adopt(self, request: int, session: int, num_tokens: int) -> int:
        """A turn begins that shares ``num_tokens`` tokens with the last; those of them that the
        host has, which are the request's now."""
        self._copies.hand_on(_named(session), request, num_tokens)
        tokens = self._copies.valid_tokens(request)
        if tokens:
            self._copies.claim(request)
        return tokens

    def check(self) -> str:
        """ "" if the books balance, else what is wrong."""
        counted: dict[int, list[int]] = {}
        for event, copy in self._flying.items():
            for block in copy.blocks:
                counted.setdefault(block, []).append(event)
        if counted != self._touching:
            return "blocks of copies under way are not those noted"
        return self._copies.check()

    def _begin(
        self,
        request: int,
        way: Literal["out", "back"],
        blocks: Sequence[int],
        first: int,
        num_tokens: int,
        after: tuple[int, ...] = (),
    ) -> Copy:
        self._serial += 1
        runs = len(blocks)
        if self.spec.groups and blocks:
            runs = 1 + sum(b != a + 1 for a, b in zip(blocks, blocks[1:], strict=False))
        pieces = runs * self.spec.pieces_per_block
        copy = Copy(self._serial, request, way, tuple(blocks), first, num_tokens, pieces, after)
        self._flying[copy.event] = copy
        for block in blocks:
            self._touching.setdefault(block, []).append(copy.event)
        return copy

    def _land(self, event: int) -> Copy | None:
        copy = self._flying.pop(event, None)
        if copy is None:
            return None
        for block in copy.blocks:
            events = self._touching[block]
            events.remove(event)
            if not events:
                del self._touching[block]
        return None if copy.request == _NOBODY else copy


_NOBODY = -1


def _orphan(copy: Copy) -> Copy:
    """A copy whose request is gone; its blocks are still read or written."""
    return Copy(
        copy.event, _NOBODY, copy.way, copy.blocks, copy.first, copy.num_tokens, copy.pieces
    )


def _named(session: int) -> int:
    """A session's name among requests, which are never below zero."""
    return -2 - session
