"""What requests share: conversations that grow turn by turn, and measured prefix reuse.

``Conversations`` builds sessions: turn t's prompt is a shared system prompt, all earlier prompts
and outputs, and new text; its prefix keys are those of the turn before and more. ``MeasuredReuse``
starts from requests whose lengths are already drawn (so that these keep the measured
distribution) and makes some of them continue an earlier one: a parent whose prompt has about the
shared size, sent about the measured delay before. Each request continues at most once.
Left out: branching conversations, documents shared between users.
"""

from bisect import bisect_left
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from plimsoll.spec.errors import SpecError
from plimsoll.spec.generators.arrivals import NotNegative, Positive
from plimsoll.spec.generators.lengths import (
    Level,
    check_quantiles,
    interpolate_quantiles,
    stratified_uniform,
)
from plimsoll.spec.generators.streams import stream
from plimsoll.spec.io import PLAIN

__all__ = ["Conversations", "Independent", "MeasuredReuse", "Sharing", "reuse_columns"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Share = Annotated[float, Field(ge=0, le=1)]
Block = Annotated[int, Field(ge=1, le=10**6)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Independent:
    """No request has anything to do with another."""

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["independent"] = "independent"
    source: str = ""
    as_of: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversations:
    """Sessions of several turns; arrivals are session starts, prompt lengths new text a turn.

    Turns are geometric with ``mean_turns`` (the first included) up to ``max_turns``; think times
    lognormal. A session also ends before its prompt exceeds ``max_context_tokens`` (0: no limit).
    ``planned_tpot_s`` only spaces the stated times of later turns; when the workload is run with
    ``sessions_wait`` a turn starts ``think_s`` after the turn before really ended.
    """

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["conversations"] = "conversations"
    mean_turns: Annotated[float, Field(ge=1, le=1000)]
    max_turns: Annotated[int, Field(ge=1, le=10_000)] = 100
    think_median_s: Positive
    think_sigma: Annotated[float, Field(ge=0, le=5)] = 1.0
    system_prompt_tokens: Annotated[int, Field(ge=0, le=10**7)] = 0
    block_tokens: Block = 16
    max_context_tokens: Annotated[int, Field(ge=0, le=10**9)] = 0
    planned_tpot_s: NotNegative = 0.02
    source: str = ""
    as_of: str = ""

    def turns(self, num_sessions: int, seed: int) -> Ints:
        """Turns of each session."""
        drawn = stream(seed, "turns").geometric(1 / self.mean_turns, num_sessions)
        return np.minimum(drawn, self.max_turns).astype(np.int64)

    def columns(self, start_s: Floats, turns: Ints, new: Ints, output: Ints, seed: int) -> Any:
        """All workload columns, one row a turn, in order of their stated times.

        ``new`` and ``output`` hold a row a turn, session after session.
        """
        session = np.repeat(np.arange(len(turns)), turns)
        first = np.concatenate(([0], np.cumsum(turns)[:-1]))
        z = stream(seed, "think times").standard_normal(len(session))
        think_s = self.think_median_s * np.exp(self.think_sigma * z)
        think_s[first] = 0.0

        def before(values: Any) -> Any:
            """Sum over the earlier turns of the same session."""
            total = np.cumsum(values) - values
            return total - total[first][session]

        prompt = self.system_prompt_tokens + before(new + output) + new
        gap_s = think_s + 0.0
        later = np.flatnonzero(think_s > 0)
        gap_s[later] += self.planned_tpot_s * output[later - 1]
        at_s = start_s[session] + before(gap_s) + gap_s
        keep = np.ones(len(session), dtype=bool)
        if self.max_context_tokens:
            keep = prompt + output <= self.max_context_tokens
            keep = before(~keep) + ~keep == 0
        # Keys: blocks of the system prompt are common, the others belong to the session.
        common = self.system_prompt_tokens // self.block_tokens
        blocks = prompt // self.block_tokens
        most = np.zeros(len(turns), dtype=np.int64)
        np.maximum.at(most, session[keep], blocks[keep])
        base = common + np.concatenate(([0], np.cumsum(np.maximum(most - common, 0))[:-1]))
        order = np.flatnonzero(keep)[np.argsort(at_s[keep], kind="stable")]
        starts = np.concatenate(([0], np.cumsum(blocks[order])))
        position = np.arange(starts[-1]) - np.repeat(starts[:-1], blocks[order])
        own = np.repeat(base[session[order]] - common, blocks[order])
        return {
            "arrival_s": at_s[order],
            "prompt_tokens": prompt[order],
            "output_tokens": output[order],
            "session_id": session[order],
            "think_s": think_s[order],
            "prefix_keys": np.where(position < common, position, position + own),
            "prefix_start": starts.astype(np.int64),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredReuse:
    """Prefix reuse as counted in a trace with prefix hashes.

    ``continuing`` holds the share of requests that continue an earlier one in each of equal
    groups by prompt length, shortest first. Of a continuing prompt's blocks, the table
    ``shared_levels``/``shared`` says which part was seen before, and ``delay_levels``/``delay_s``
    how long before. Every prompt starts with the same ``common_blocks``.
    """

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["measured-reuse"] = "measured-reuse"
    block_tokens: Block
    common_blocks: Annotated[int, Field(ge=0, le=10**6)] = 0
    continuing: Annotated[tuple[Share, ...], Field(min_length=1)]
    shared_levels: Annotated[tuple[Level, ...], Field(min_length=2)]
    shared: Annotated[tuple[Share, ...], Field(min_length=2)]
    delay_levels: Annotated[tuple[Level, ...], Field(min_length=2)]
    delay_s: Annotated[tuple[NotNegative, ...], Field(min_length=2)]
    source: str = ""
    as_of: str = ""

    def __post_init__(self) -> None:
        check_quantiles(self.shared_levels, self.shared, what="shared part")
        check_quantiles(self.delay_levels, self.delay_s, what="delay")


Sharing = Annotated[Independent | Conversations | MeasuredReuse, Field(discriminator="kind")]

_BUCKETS_PER_OCTAVE = 5


def _parents(wanted: Ints, send_s: Floats, arrival_s: Floats, full: Ints) -> Ints:
    """For each row with ``wanted`` > 0 an earlier, unused row of about that many blocks, or -1.

    Among rows of the nearest size the one sent nearest to ``send_s`` is taken.
    """
    sizes = np.floor(_BUCKETS_PER_OCTAVE * np.log2(np.maximum(full, 1))).astype(int).tolist()
    targets = np.ceil(_BUCKETS_PER_OCTAVE * np.log2(np.maximum(wanted, 1))).astype(int).tolist()
    top = max(sizes)
    unused: list[list[int]] = [[] for _ in range(top + 1)]
    times = arrival_s.tolist()
    sends = send_s.tolist()
    wants = wanted.tolist()
    fulls = full.tolist()
    result = np.full(len(times), -1, dtype=np.int64)
    for i in range(len(times)):
        if wants[i] > 0:
            target = min(targets[i], top)
            for step in range(2 * _BUCKETS_PER_OCTAVE):
                for size in (target + step, target - step):
                    if 0 <= size <= top and unused[size]:
                        rows = unused[size]
                        at = bisect_left(rows, sends[i], key=times.__getitem__)
                        if at == len(rows) or (
                            at > 0 and sends[i] - times[rows[at - 1]] < times[rows[at]] - sends[i]
                        ):
                            at -= 1
                        result[i] = rows.pop(at)
                        break
                if result[i] >= 0:
                    break
        if fulls[i] > 0:
            unused[sizes[i]].append(i)
    return result


def reuse_columns(reuse: MeasuredReuse, arrival_s: Floats, prompt: Ints, *, seed: int) -> Any:
    """``prefix_keys``, ``prefix_start`` and ``session_id`` for requests with these lengths."""
    n = len(prompt)
    blocks = -(-prompt // reuse.block_tokens)
    full = prompt // reuse.block_tokens
    rank = np.empty(n)
    rank[np.argsort(prompt, kind="stable")] = np.arange(n)
    group = (rank * len(reuse.continuing) / n).astype(np.int64)
    continues = stream(seed, "continuing").random(n) < np.array(reuse.continuing)[group]
    part = interpolate_quantiles(
        reuse.shared_levels, reuse.shared, stratified_uniform(n, seed, "shared part")
    )
    delay_s = interpolate_quantiles(
        reuse.delay_levels, reuse.delay_s, stratified_uniform(n, seed, "delay")
    )
    wanted = np.where(continues, np.maximum(np.rint(part * blocks), 1), 0).astype(np.int64)
    parent = _parents(wanted, arrival_s - delay_s, arrival_s, full)
    shared = np.where(parent >= 0, np.minimum(wanted, full[parent]), 0)
    starts = np.zeros(n + 1, dtype=np.int64)
    np.cumsum(blocks, out=starts[1:])
    if starts[-1] > 2 * 10**9:
        raise SpecError(f"{starts[-1]:,} prefix blocks are too many; ask for fewer requests")
    keys = np.arange(starts[-1], dtype=np.int64) + reuse.common_blocks
    position = np.arange(starts[-1], dtype=np.int64) - np.repeat(starts[:-1], blocks)
    common = position < reuse.common_blocks
    keys[common] = position[common]
    session = np.arange(n, dtype=np.int64)
    begin, reused = starts.tolist(), shared.tolist()
    for i, p in enumerate(parent.tolist()):
        if p >= 0:
            session[i] = session[p]
            keys[begin[i] : begin[i] + reused[i]] = keys[begin[p] : begin[p] + reused[i]]
    return {
        "prefix_keys": keys,
        "prefix_start": starts,
        "session_id": np.unique(session, return_inverse=True)[1].astype(np.int64),
    }
