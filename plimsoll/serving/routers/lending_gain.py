"""What a loan gains: tokens per second of debtor and creditor together, before and after.

f(batch, own KV, others' KV) = batch / (decode step over the own KV + attention to what is held for
others). Lent blocks leave room at the debtor for requests that wait, which makes its batch larger
and its dense part cheaper a token; the creditor's steps get longer by the attention it takes over,
and the debtor waits for what of it its own attention does not hide.
Leaves out: the link, prompts.
Source: arXiv 2401.02669v2.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from plimsoll.cost.clock import StepClock

__all__ = ["Side", "best_loan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """An instance as the model sees it: requests that decode, tokens of KV its steps read."""

    clock: StepClock
    batch: int
    context: int

    def attention_s(self, tokens: int) -> float:
        """Seconds to attend to so many more tokens in a step."""
        batch = max(self.batch, 1)
        return self.clock.step_s((), batch, batch + tokens) - self.clock.step_s((), batch, batch)

    def tokens_per_s(self, more_s: float = 0.0) -> float:
        """Of its own requests, with steps longer by ``more_s``."""
        if not self.batch:
            return 0.0
        return self.batch / (self.clock.step_s((), self.batch, self.context) + more_s)


def best_loan(
    debtor: Side,
    creditor: Side,
    *,
    waiting: Sequence[int],
    free_blocks: int,
    most_blocks: int,
    block_tokens: int,
) -> tuple[int, float]:
    """(blocks to lend, tokens per second gained), (0, 0.0) if no number gains.

    ``waiting`` are the blocks that each request in line at the debtor takes, in order; those that
    come to fit join its batch. ``free_blocks`` are free there, ``most_blocks`` may be lent.
    """
    before = debtor.tokens_per_s() + creditor.tokens_per_s()
    best, best_gain, wanted = 0, 0.0, 0
    for more, blocks in enumerate(waiting, start=1):
        wanted += blocks
        lent = wanted - free_blocks
        if lent > most_blocks:
            break
        if lent <= 0:
            continue
        tokens = lent * block_tokens
        after = Side(
            clock=debtor.clock,
            batch=debtor.batch + more,
            context=max(debtor.context - tokens, 0) + wanted * block_tokens,
        )
        there_s = creditor.attention_s(tokens)
        waits_s = max(0.0, there_s - after.attention_s(after.context))
        gain = after.tokens_per_s(waits_s) + creditor.tokens_per_s(there_s) - before
        if gain > best_gain:
            best, best_gain = lent, gain
    return best, best_gain
