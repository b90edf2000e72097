"""When to stop sampling one question: pure rules that see only what has come back.

With a verifier the first right answer ends it; until then each wrong one makes it less likely that
the question is easy, or solvable at all, and the next sample is bought while what it is expected
to gain is worth its price. The prior is a share of solvable questions and a Beta(a, b) of how often
a sample of these is right, as fitted on a pilot (``plimsoll.laws.saturation_fit``).
Without one the answers vote, and sampling ends once the leader can hardly be overtaken.
Leaves out: samples under way at the same time; a caller that draws several asks before each.
Sources: arXiv 2505.20522 (gain against price); arXiv 2305.11860 (votes).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, exp, lgamma
from typing import ClassVar

from plimsoll.spec.errors import SpecError

__all__ = ["AdaptiveSamples", "SettledVotes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveSamples:
    """Sample until one is right, the next is not worth its price, or ``most`` have been drawn.

    ``value`` of a solved question and ``price`` of a sample are in one unit.

    Raises:
        SpecError: a prior, value, price or limit that cannot be.
    """

    kind: ClassVar[str] = "adaptive-samples"
    a: float
    b: float
    f_max: float
    value: float
    price: float
    most: int

    def __post_init__(self) -> None:
        if not (self.a > 0 and self.b > 0 and 0 < self.f_max <= 1):
            raise SpecError(
                f"prior Beta({self.a:g}, {self.b:g}) of {self.f_max:g}; expected a and b above 0 "
                "and a share from above 0 to 1"
            )
        if not (self.value > 0 and self.price > 0 and self.most >= 1):
            raise SpecError(
                f"value {self.value:g}, price {self.price:g}, at most {self.most}; expected all "
                "above 0"
            )

    def chance(self, num_wrong: int) -> float:
        """Probability that the next sample is right after that many wrong ones and no right one."""
        none = exp(_log_beta(self.a, self.b + num_wrong) - _log_beta(self.a, self.b))
        left = 1 - self.f_max + self.f_max * none
        solvable = (
            self.f_max * none / left if left > 0 else 1.0
        )  # all can be solved, however rarely
        return solvable * self.a / (self.a + self.b + num_wrong)

    def more(self, num_samples: int, num_right: int) -> bool:
        """Whether to draw another sample."""
        if num_right > 0 or num_samples >= self.most:
            return False
        return self.chance(num_samples) * self.value >= self.price


@dataclass(frozen=True, slots=True, kw_only=True)
class SettledVotes:
    """Sample until the leading answer is ahead of the next with ``confidence``, or ``most``.

    Raises:
        SpecError: a confidence outside of a half to 1, or limits that cannot be.
    """

    kind: ClassVar[str] = "settled-votes"
    confidence: float
    least: int = 2
    most: int = 64

    def __post_init__(self) -> None:
        if not 0.5 < self.confidence < 1 or not 1 <= self.least <= self.most:
            raise SpecError(
                f"confidence {self.confidence:g}, {self.least} to {self.most} samples; expected a "
                "confidence between 0.5 and 1 and a least of 1 up to the most"
            )

    def lead(self, votes: Sequence[int]) -> float:
        """Probability that the leading answer of ``votes`` (a count an answer) is more frequent
        than the next, with even odds before the first vote."""
        first, second = [*sorted(votes, reverse=True), 0, 0][:2]
        total = first + second + 1
        return sum(comb(total, k) for k in range(first + 1)) / (1 << total)

    def more(self, votes: Sequence[int]) -> bool:
        """Whether to draw another sample."""
        drawn = sum(votes)
        if drawn < self.least:
            return True
        return drawn < self.most and self.lead(votes) < self.confidence


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)
