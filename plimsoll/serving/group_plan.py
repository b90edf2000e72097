"""A batch in groups of prompts that share a prefix, in the order in which they are to run.

A group computes its prefix once and its members follow at once, so the prefix lives shortly.
Groups with much to decode for each prompt token go first: their tokens then fill the later
steps beside prompts. Prompt tokens are counted after sharing. Prefixes are shared in whole
blocks, and the last token of a prompt always runs.
Leaves out: how the groups are found (``serving.plan_groups``).
Source: arXiv 2412.03594, sections 4 and 5.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from plimsoll.spec.errors import InfeasibleError, SpecError

__all__ = ["GroupPlan", "PlannedGroup", "PrefixGroup", "order_groups"]

Order = Literal["descending", "ascending", "given"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixGroup:
    """Prompts (by number) that share their first ``prefix_tokens`` tokens."""

    prefix_tokens: int
    members: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedGroup:
    """A group to run. ``prefix_tokens`` are whole blocks, 0 for a prompt alone.

    ``waves`` are its members in order, cut so that each wave fits into memory as predicted.
    ``prompt_tokens`` are computed for it in all, ``decode_tokens`` predicted.
    """

    prefix_tokens: int
    waves: tuple[tuple[int, ...], ...]
    prompt_tokens: int
    decode_tokens: float

    @property
    def members(self) -> tuple[int, ...]:
        """Requests of all waves."""
        return tuple(member for wave in self.waves for member in wave)

    @property
    def ratio(self) -> float:
        """Predicted output tokens for each prompt token that is computed."""
        return self.decode_tokens / self.prompt_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPlan:
    """Groups in order. ``decode_tokens[i]`` is the predicted output of request i.

    ``prefill_tokens`` is what a run that follows the plan computes of the prompts, exactly: nothing
    is shared but the groups' prefixes, and no request or prefix gives its memory up.
    """

    groups: tuple[PlannedGroup, ...]
    decode_tokens: tuple[float, ...]
    prompt_tokens: int
    block_tokens: int

    @property
    def prefill_tokens(self) -> int:
        """Prompt tokens to compute."""
        return sum(group.prompt_tokens for group in self.groups)

    @property
    def saved_fraction(self) -> float:
        """Share of prompt tokens that need not be computed, against no sharing at all."""
        return 1.0 - self.prefill_tokens / self.prompt_tokens

    @property
    def order(self) -> tuple[int, ...]:
        """Requests in the order of the plan."""
        return tuple(member for group in self.groups for member in group.members)


def order_groups(
    groups: Sequence[PrefixGroup],
    prompt_tokens: Sequence[int],
    decode_tokens: Sequence[float],
    *,
    block_tokens: int = 16,
    kv_tokens: int = 0,
    order: Order = "descending",
) -> GroupPlan:
    """The plan of a batch: ``groups``, and every prompt in none of them alone.

    ``kv_tokens`` is the memory for KV, 0 for any. ``order`` by ratio of decode to prompt tokens, or
    as given; ties stay in order of the first member.

    Raises:
        SpecError: a length is not positive, or a prompt is in two groups or too short for its own.
        InfeasibleError: a prefix, or a request with its prefix, is larger than the memory.
    """
    _check(groups, prompt_tokens, decode_tokens)
    planned, grouped = [], set()
    for group in groups:
        prefix = group.prefix_tokens // block_tokens * block_tokens
        if len(group.members) > 1 and prefix:
            members = group.members
            grouped.update(members)
            planned.append(
                _plan(prefix, members, prompt_tokens, decode_tokens, block_tokens, kv_tokens)
            )
    for prompt in range(len(prompt_tokens)):
        if prompt not in grouped:
            planned.append(
                _plan(0, (prompt,), prompt_tokens, decode_tokens, block_tokens, kv_tokens)
            )
    if order != "given":
        sign = -1.0 if order == "descending" else 1.0
        planned.sort(key=lambda group: (sign * group.ratio, min(group.members)))
    return GroupPlan(
        groups=tuple(planned),
        decode_tokens=tuple(decode_tokens),
        prompt_tokens=sum(prompt_tokens),
        block_tokens=block_tokens,
    )


def _check(
    groups: Sequence[PrefixGroup], prompt_tokens: Sequence[int], decode_tokens: Sequence[float]
) -> None:
    if len(prompt_tokens) != len(decode_tokens) or not prompt_tokens:
        raise SpecError(
            f"{len(prompt_tokens)} prompts and {len(decode_tokens)} predicted outputs; expected "
            "one for each and at least one"
        )
    for prompt, (length, decode) in enumerate(zip(prompt_tokens, decode_tokens, strict=True)):
        if length < 1 or not 0 < decode < float("inf"):
            raise SpecError(
                f"prompt {prompt} has {length} tokens and {decode} predicted output tokens; both "
                "must be positive"
            )
    seen: set[int] = set()
    for group in groups:
        for member in group.members:
            if not 0 <= member < len(prompt_tokens) or member in seen:
                raise SpecError(f"prompt {member} is in two groups or in none of the batch")
            if prompt_tokens[member] <= group.prefix_tokens:
                raise SpecError(
                    f"prompt {member} has {prompt_tokens[member]} tokens and cannot share "
                    f"{group.prefix_tokens}; the last one always runs"
                )
            seen.add(member)


def _plan(
    prefix: int,
    members: Sequence[int],
    prompt_tokens: Sequence[int],
    decode_tokens: Sequence[float],
    block_tokens: int,
    kv_tokens: int,
) -> PlannedGroup:
    """Cut a group into waves that fit beside its prefix."""
    if kv_tokens and prefix > kv_tokens:
        raise InfeasibleError(
            f"a shared prefix of {prefix:,} tokens is larger than the memory for {kv_tokens:,}; "
            "shorten it, or use more or larger devices",
            binding="KV memory",
        )
    waves: list[tuple[int, ...]] = []
    wave: list[int] = []
    free = room = kv_tokens - prefix
    for member in members:
        tokens = prompt_tokens[member] - prefix + int(decode_tokens[member])
        tokens = -(-tokens // block_tokens) * block_tokens
        if kv_tokens and tokens > room:
            raise InfeasibleError(
                f"request {member} takes {prefix + tokens:,} tokens of KV with its output, the "
                f"memory holds {kv_tokens:,}; shorten it, or use more or larger devices",
                binding="KV memory",
            )
        if kv_tokens and tokens > free:
            waves.append(tuple(wave))
            wave, free = [], room
        free -= tokens
        wave.append(member)
    waves.append(tuple(wave))
    own = sum(prompt_tokens[member] - prefix for member in members)
    return PlannedGroup(
        prefix_tokens=prefix,
        waves=tuple(waves),
        prompt_tokens=prefix + own,
        decode_tokens=sum(decode_tokens[member] for member in members),
    )
