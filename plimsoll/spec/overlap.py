"""A plan of overlap as plain data: which pieces of which operators run when, and with what share.

One *window* of the plan is one layer's worth of work: every piece once, in the order each lane
runs them. A piece may be *ahead*: in a window it then works for the next layer, so that one part
of the batch is in its attention while another is still in the feed-forward of the layer before.
Windows repeat; the first holds only what is ahead, the last only what is not.
Source: arXiv 2408.12757.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from plimsoll.spec.io import PLAIN

__all__ = ["NanoPiece", "OverlapPlan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NanoPiece:
    """``operator`` on the tokens from ``first_token`` up to, not including, ``end_token``.

    ``share`` of the device it asks for: memory and network pieces get it, compute pieces ask for
    all and get what those leave. ``ahead`` 1: it works for the next layer.
    """

    __pydantic_config__: ClassVar = PLAIN
    operator: str
    first_token: int
    end_token: int
    share: float = 1.0
    ahead: int = 0

    def meets(self, other: "NanoPiece") -> bool:
        """Whether the token ranges have a token in common."""
        return self.first_token < other.end_token and other.first_token < self.end_token


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlapPlan:
    """Pieces in the order of a window, and what they come to.

    ``iteration_s``: all ``layers``; ``sequential_s``: the same operators uncut, one by one.
    ``warnings`` say where the search stopped short.
    """

    __pydantic_config__: ClassVar = PLAIN
    format_version: Literal[1] = 1
    batch_tokens: int
    layers: int
    pieces: tuple[NanoPiece, ...]
    iteration_s: float
    sequential_s: float
    warnings: tuple[str, ...] = ()

    @property
    def speedup(self) -> float:
        """Time one by one over time overlapped."""
        return self.sequential_s / self.iteration_s

    @property
    def tokens_per_s(self) -> float:
        """Tokens of the dense batch, prompts included, over the time of an iteration."""
        return self.batch_tokens / self.iteration_s
