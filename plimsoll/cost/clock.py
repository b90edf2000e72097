"""How long an engine step takes: the clock the simulator reads.

A step runs some prompt chunks and one token of some decoding requests. At a fixed number of
decodes its time is piecewise linear in the total context they read, so a run of equal decode
steps has a closed form and costs the simulator one event.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["LinearClock", "StepClock"]


class StepClock(Protocol):
    """Step times of one replica. ``num_stages`` is its pipeline depth.

    Times are of one pipeline stage (the slowest); a step passes ``num_stages`` of them.
    Data-parallel attention ranks are inside: a batch is spread evenly over them.
    """

    @property
    def num_stages(self) -> int: ...

    def step_s(
        self, chunks: Sequence[tuple[int, int]], num_decodes: int, decode_context: int
    ) -> float:
        """Seconds of one step on one stage.

        ``chunks`` holds (new tokens, tokens already cached before them) of each prompt chunk;
        ``decode_context`` is the total of tokens the decodes attend to, their own included.
        """
        ...

    def decode_line(self, num_decodes: int, decode_context: int) -> tuple[float, float, int]:
        """(base seconds, seconds per context token, context total up to which both hold).

        ``base + slope * c`` equals ``step_s((), num_decodes, c)`` for every c from
        ``decode_context`` to the returned limit.
        """
        ...

    def swap_s(self, num_tokens: int) -> float:
        """Seconds to move the KV of that many tokens between device and host."""
        ...

    def host_s(self, num_decodes: int) -> float:
        """Seconds of a decode step in which the device waits for the host.

        They are hidden where the step was formed while the one before still ran.
        """
        ...


_FOREVER = 2**62


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearClock:
    """A step time given by five coefficients: for closed-form checks and published fits.

    prefill_s + token_s * tokens + square_s * sum(new * (cached + new / 2) * 2)
    + decode_s * decodes + context_s * context, and ``step_base_s`` once a step. A chunk of a
    whole prompt of l tokens has the quadratic term square_s * l**2. ``host_step_s`` of the base are
    the host's.
    """

    step_base_s: float = 0.0
    token_s: float = 0.0
    square_s: float = 0.0
    decode_s: float = 0.0
    context_s: float = 0.0
    host_step_s: float = 0.0
    swap_token_s: float = 0.0
    num_stages: int = 1

    def step_s(
        self, chunks: Sequence[tuple[int, int]], num_decodes: int, decode_context: int
    ) -> float:
        """See ``StepClock``."""
        total = self.step_base_s + self.decode_s * num_decodes + self.context_s * decode_context
        for new, cached in chunks:
            total += self.token_s * new + self.square_s * new * (2 * cached + new)
        return total

    def decode_line(self, num_decodes: int, decode_context: int) -> tuple[float, float, int]:
        """See ``StepClock``."""
        return self.step_base_s + self.decode_s * num_decodes, self.context_s, _FOREVER

    def swap_s(self, num_tokens: int) -> float:
        """See ``StepClock``."""
        return self.swap_token_s * num_tokens

    def host_s(self, num_decodes: int) -> float:
        """See ``StepClock``."""
        return self.host_step_s
