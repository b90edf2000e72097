"""Live migration of one running request, as a state machine that knows no executor.

KV only grows at its end, so full blocks can be copied while decoding goes on. Each stage copies
the blocks filled since the stage before; when few are left the request stops, the rest is copied
with its last, partly filled block, and it goes on at the target. So the pause depends on how much
one stage leaves over, not on the length of the request.
Left out: copies of blocks that the target has in its prefix cache.
Source: arXiv 2406.03243 (live migration; three stages, 16 blocks in the last).
"""

from dataclasses import dataclass, field

__all__ = ["Copy", "LiveMigration"]


@dataclass(frozen=True, slots=True)
class Copy:
    """Tokens ``first`` to ``stop`` of a request, whole blocks up to the ``last`` copy's end."""

    first: int
    stop: int
    last: bool


@dataclass(slots=True, kw_only=True)
class LiveMigration:
    """``next_copy`` after the start and after each copy says what to copy now.

    ``last_blocks``: the request stops when at most so many blocks are left. ``max_stages``
    copies may be made in all; a request that outruns them stays.
    """

    block_tokens: int
    last_blocks: int = 16
    max_stages: int = 3
    copied: int = field(default=0, init=False)
    """Tokens that are at the target."""
    stage: int = field(default=0, init=False)

    def next_copy(self, held_tokens: int) -> Copy | None:
        """What to copy while the source holds so many tokens; None: the stages have run out.

        A copy with ``last`` may be made only when the request has stopped; ask ``final_copy``
        then, since it may have gone on meanwhile.
        """
        if self.stage == self.max_stages:
            return None
        left = -(-held_tokens // self.block_tokens) - self.copied // self.block_tokens
        if left <= self.last_blocks:
            return Copy(self.copied, held_tokens, last=True)
        if self.stage == self.max_stages - 1:
            return None
        whole = held_tokens // self.block_tokens * self.block_tokens
        return Copy(self.copied, whole, last=False)

    def final_copy(self, held_tokens: int) -> Copy:
        """All that is left of a request that has stopped."""
        return Copy(self.copied, held_tokens, last=True)

    def made(self, copy: Copy) -> None:
        """A copy has arrived."""
        self.copied = copy.stop
        self.stage += 1
