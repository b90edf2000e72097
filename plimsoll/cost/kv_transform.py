"""KV compressors as factors: fewer layers, heads, tokens or bits, and what that does not help.

A transform multiplies the KV cache of softmax attention along one or more axes; states of
fixed size (linear attention, state space) are not KV and stay as they are. Factors multiply,
so their order does not matter; a token budget is a minimum, and min(f n, b) is not f min(n, b),
so there it does. Only tokens dropped *before* the prompt runs shorten prefill: the other
factors act on what is stored, and query heads and layers still run. Leaves out the time to
compress, the projections that shared layers save, and what it does to answers.
Source: arXiv 2405.08944 section 4 (axes), 2402.02750 (bits a value of grouped low-bit caches).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from plimsoll.spec.errors import SpecError
from plimsoll.spec.io import PLAIN

__all__ = ["KVTransform", "grouped_bits", "kept_tokens", "prefill_tokens", "stored_fraction"]

Fraction = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class KVTransform:
    """What a compressor leaves of the KV cache.

    ``layer_fraction``: layers with a cache of their own. ``head_fraction``: KV heads kept.
    ``token_fraction`` and ``max_tokens`` (0: no limit): tokens kept. ``bits_fraction``: stored
    bits a value against the uncompressed format. ``drops`` says when tokens are dropped.
    """

    __pydantic_config__: ClassVar = PLAIN
    name: str
    layer_fraction: Fraction = 1.0
    head_fraction: Fraction = 1.0
    token_fraction: Fraction = 1.0
    max_tokens: Annotated[int, Field(ge=0)] = 0
    bits_fraction: Fraction = 1.0
    drops: Literal["before-prefill", "after-prefill"] = "after-prefill"

    def __post_init__(self) -> None:
        for name in ("layer_fraction", "head_fraction", "token_fraction", "bits_fraction"):
            value = getattr(self, name)
            if not (math.isfinite(value) and 0 < value <= 1):
                raise SpecError(f"{self.name}: {name} is {value}; expected above 0, at most 1")
        if self.max_tokens < 0:
            raise SpecError(f"{self.name}: max_tokens is {self.max_tokens}; expected 0 or more")

    @property
    def stored_fraction(self) -> float:
        """Bytes a kept token takes, against the uncompressed cache."""
        return self.layer_fraction * self.head_fraction * self.bits_fraction

    @property
    def drops_tokens(self) -> bool:
        """Whether it keeps fewer tokens than were read."""
        return self.token_fraction < 1 or self.max_tokens > 0

    @property
    def helps(self) -> tuple[str, ...]:
        """Metrics of a serving peak that it can improve."""
        if self.stored_fraction == 1 and not self.drops_tokens:
            return ()
        prefill = self.drops_tokens and self.drops == "before-prefill"
        return ("users", *(("prefill",) if prefill else ()), "decode", "switch")

    @property
    def does_not_help(self) -> tuple[str, ...]:
        """The other metrics, which it leaves exactly as they were."""
        return tuple(m for m in ("users", "prefill", "decode", "switch") if m not in self.helps)


def grouped_bits(bits: int, *, group: int, scale_bits: int = 32) -> float:
    """Stored bits a value with one scale and one zero point (together ``scale_bits``) a group.

    2 bits in groups of 32: 3 bits a value. Source: arXiv 2402.02750.
    """
    if bits < 1 or group < 1 or scale_bits < 0:
        raise SpecError(
            f"bits {bits}, group {group}, scale_bits {scale_bits}: expected bits and group of 1 "
            "or more and scale_bits of 0 or more"
        )
    return bits + scale_bits / group


def stored_fraction(transforms: Iterable[KVTransform]) -> float:
    """Bytes a kept token takes after all of ``transforms``, in any order."""
    return math.prod(transform.stored_fraction for transform in transforms)


def _tokens(num_tokens: int, transforms: Iterable[KVTransform]) -> int:
    kept = float(num_tokens)
    for transform in transforms:
        kept *= transform.token_fraction
        if transform.max_tokens:
            kept = min(kept, transform.max_tokens)
    return max(1, round(kept)) if num_tokens else 0


def kept_tokens(num_tokens: int, transforms: Iterable[KVTransform]) -> int:
    """Tokens in the cache after ``transforms`` in the order given, at least one."""
    return _tokens(num_tokens, transforms)


def prefill_tokens(num_tokens: int, transforms: Iterable[KVTransform]) -> int:
    """Prompt tokens that still run: only drops before prefill shorten it."""
    return _tokens(num_tokens, (t for t in transforms if t.drops == "before-prefill"))
