"""Host copies of KV that outlive a swap: what of a request is still valid in host memory.

KV is only ever appended to, so a copy of a request's first tokens stays true for as long as those
tokens are its own. A swap-out sends only blocks that hold tokens the host lacks; a last block that
was partly filled when it was sent and has grown since is sent again whole. Where host memory is
short, copies of requests of lower priority are cut from their end, block by block, and what they
lost is sent again when they leave the next time. Only copies are cut, never the only place where
tokens are: a request that is swapped out is safe from it. Blocks are counted, not numbered.
Invariant (``check``): blocks of all copies are at most ``total``, and a request that is swapped
out is whole.
Source: arXiv 2411.18424 (reuse of KV across turns).
"""

from dataclasses import dataclass

from plimsoll.spec.errors import ExecutionError, InfeasibleError, SpecError

__all__ = ["HostCopies", "SwapOut"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapOut:
    """Blocks ``first`` to ``last - 1`` of a request are to be copied to the host.

    ``cut`` maps each other request to the tokens that its copy has left, where it lost some.
    """

    first: int
    last: int
    cut: dict[int, int]

    @property
    def num_blocks(self) -> int:
        """Blocks to send."""
        return self.last - self.first


@dataclass(slots=True)
class _Copy:
    """``valid_tokens`` from the first on are as on the device; ``away``: there is no other."""

    valid_tokens: int
    priority: float
    away: bool


class HostCopies:
    """See the module text. ``total`` blocks of ``block_tokens`` tokens, ``block_bytes`` each."""

    def __init__(self, *, total: int, block_tokens: int, block_bytes: int) -> None:
        if total < 0 or min(block_tokens, block_bytes) < 1:
            raise SpecError(
                f"host memory of {total} blocks, {block_tokens} tokens and {block_bytes} bytes "
                "each: blocks must not be below 0, tokens and bytes at least 1"
            )
        self.total = total
        self.block_tokens = block_tokens
        self.block_bytes = block_bytes
        self.used = 0
        self._copies: dict[int, _Copy] = {}

    def valid_tokens(self, request: int) -> int:
        """Leading tokens of a request whose KV in host memory is true."""
        copy = self._copies.get(request)
        return copy.valid_tokens if copy else 0

    def swap_out(self, request: int, num_tokens: int, *, priority: float) -> SwapOut:
        """A request with ``num_tokens`` tokens leaves the device; what has to be sent.

        Copies of requests with lower ``priority`` that are on the device make room, the lowest
        first. The copy counts from now on; call ``fail`` if sending did not succeed.

        Raises:
            InfeasibleError: it does not fit beside what may not be cut; nothing was changed.
            ExecutionError: the request is swapped out already, or has fewer tokens than before.
        """
        copy = self._copies.get(request)
        valid = copy.valid_tokens if copy else 0
        if copy and copy.away:
            raise ExecutionError(f"request {request} is swapped out already")
        if num_tokens < valid:
            raise ExecutionError(
                f"request {request} has {num_tokens} tokens, but {valid} were copied before; "
                "drop its copy first"
            )
        needed = self._blocks(num_tokens)
        cut = self._make_room(request, needed, self._blocks(valid), priority)
        self.used += needed - self._blocks(valid)
        self._copies[request] = _Copy(num_tokens, priority, True)
        first = valid // self.block_tokens if valid < num_tokens else needed
        return SwapOut(first=first, last=needed, cut=cut)

    def swap_in(self, request: int) -> int:
        """A request is on the device again, its copy stays; how many blocks were to be read.

        Raises:
            ExecutionError: it is not swapped out.
        """
        copy = self._copies.get(request)
        if copy is None or not copy.away:
            raise ExecutionError(f"request {request} is not swapped out")
        copy.away = False
        return self._blocks(copy.valid_tokens)

    @property
    def room(self) -> int:
        """Blocks that a swap-out of the highest priority can have: all but those of requests that
        are swapped out."""
        away = (copy for copy in self._copies.values() if copy.away)
        return self.total - sum(self._blocks(copy.valid_tokens) for copy in away)

    def hand_on(self, request: int, heir: int, num_tokens: int) -> None:
        """A request ended whose first ``num_tokens`` tokens another may begin with: its copy of
        them is the heir's now, in place of an older one."""
        copy = self._copies.get(request)
        if copy is None:
            return
        tokens = min(num_tokens, copy.valid_tokens)
        self._cut(request, tokens)
        if heir in self._copies:
            self._cut(heir, 0)
        if tokens:
            copy.away = False
            self._copies[heir] = self._copies.pop(request)

    def claim(self, request: int) -> None:
        """The copy is all there is of a request's KV: it must not be cut before ``swap_in``."""
        self._copies[request].away = True

    def fail(self, request: int, sent_tokens: int) -> None:
        """Sending failed: only ``sent_tokens`` leading tokens are there; the rest is lost.

        What was not sent is no part of the copy, and the request is no longer swapped out.
        """
        copy = self._copies.get(request)
        if copy is None or not 0 <= sent_tokens <= copy.valid_tokens:
            raise ExecutionError(f"request {request} has no copy of {sent_tokens} tokens")
        copy.away = False
        self._cut(request, sent_tokens)

    def drop(self, request: int) -> None:
        """The request ended, or its tokens changed: its copy is worth nothing. None is fine."""
        if request in self._copies:
            self._cut(request, 0)

    def check(self) -> str:
        """ "" if the books balance, else what is wrong."""
        counted = sum(self._blocks(copy.valid_tokens) for copy in self._copies.values())
        if counted != self.used:
            return f"{self.used} blocks counted, copies hold {counted}"
        if self.used > self.total:
            return f"copies hold {self.used} of {self.total} blocks"
        return ""

    def _blocks(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_tokens)

    def _make_room(self, request: int, needed: int, held: int, priority: float) -> dict[int, int]:
        """Cut copies until ``needed`` blocks fit in place of ``held``; tokens left of each."""
        short = self.used + needed - held - self.total
        others = sorted(
            (copy.priority, i)
            for i, copy in self._copies.items()
            if i != request and not copy.away and copy.priority < priority
        )
        spare = sum(self._blocks(self._copies[i].valid_tokens) for _, i in others)
        if short > spare:
            available = self.total - self.used + held + spare
            raise InfeasibleError(
                f"request {request} needs {needed * self.block_bytes:,} bytes of host memory and "
                f"{available * self.block_bytes:,} can be had",
                binding="host memory for swapped requests",
                change=f"{(short - spare) * self.block_bytes:,} bytes more",
            )
        cut: dict[int, int] = {}
        for _, i in others:
            if short <= 0:
                break
            blocks = self._blocks(self._copies[i].valid_tokens)
            lost = min(short, blocks)
            self._cut(i, (blocks - lost) * self.block_tokens)
            cut[i] = self.valid_tokens(i)
            short -= lost
        return cut

    def _cut(self, request: int, tokens: int) -> None:
        copy = self._copies[request]
        self.used += self._blocks(tokens) - self._blocks(copy.valid_tokens)
        copy.valid_tokens = tokens
        if not tokens:
            del self._copies[request]
