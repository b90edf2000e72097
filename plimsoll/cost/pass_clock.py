"""The time of a forward pass as three terms: weights or tokens, the KV read, a fixed cost.

pass = max(weight_s, token_s * tokens) + context_s * KV tokens read + base_s. A pass with few
tokens waits for the weights, one with many for arithmetic; how many sequences share them does
not matter. Decodes read their context; a prompt chunk reads the tokens cached before it and its
own, so that later chunks of a long prompt cost more. ``prefill_speed`` below 1 prices prompt
tokens higher than decode tokens, for engines whose prompt kernels are slower. Leaves out: the
quadratic arithmetic of attention, tile and wave effects, communication.
Source: arXiv 2401.08671 section 3 (the time of a pass follows its token count).
"""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["PassClock"]

_FOREVER = 2**62


@dataclass(frozen=True, slots=True, kw_only=True)
class PassClock:
    """A ``StepClock``: seconds to read the weights, per token, per KV token read, and per pass."""

    weight_s: float
    token_s: float
    context_s: float
    base_s: float
    prefill_speed: float = 1.0
    swap_token_s: float = 0.0
    num_stages: int = 1

    def step_s(
        self, chunks: Sequence[tuple[int, int]], num_decodes: int, decode_context: int
    ) -> float:
        """See ``StepClock``; an empty pass takes no time."""
        if not chunks and num_decodes == 0:
            return 0.0
        new = sum(n for n, _ in chunks)
        read = decode_context + sum(n + cached for n, cached in chunks)
        compute_s = self.token_s * (num_decodes + new / self.prefill_speed)
        return max(self.weight_s, compute_s) + self.context_s * read + self.base_s

    def decode_line(self, num_decodes: int, decode_context: int) -> tuple[float, float, int]:
        """See ``StepClock``: one straight line for any context, at a given batch."""
        base_s = max(self.weight_s, self.token_s * num_decodes) + self.base_s
        return base_s, self.context_s, _FOREVER

    def swap_s(self, num_tokens: int) -> float:
        """See ``StepClock``."""
        return self.swap_token_s * num_tokens

    def host_s(self, num_decodes: int) -> float:
        """See ``StepClock``; not told apart here."""
        return 0.0
