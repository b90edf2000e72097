"""Decisions about chains of blocks: where a block runs, what a device runs next, what to copy.

An application is a chain of blocks; several chains share blocks, and a block may be resident on
several devices. Every function here is a pure decision over plain views, written once for the
simulated and the real executor of chains. Sending a request's block to a place costs
queue + transfer of the hidden state + keys and values: nothing where they lie, else the cheaper of
copying and computing them again. A block may be replaced by an equivalent one that is idle, once:
the keys and values of a substitute are its own, so the request stays with it.
Source: arXiv 2404.18322; the order of queues, margins and break-even are ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["BlockLoad", "ChainPolicy", "Choice", "Guesses", "QueueView", "Replica", "Waiting"]


@dataclass(frozen=True, slots=True)
class Choice:
    """A place that could run a request's next block; times are expected seconds.

    ``kv_s`` is 0 where its keys and values lie or where there are none yet. ``substitute``: the
    block there is another, equivalent one; ``idle``: nothing runs or waits on the device.
    """

    device: int
    block: str
    queue_s: float
    transfer_s: float
    kv_s: float
    owner: bool = False
    substitute: bool = False
    idle: bool = False


@dataclass(frozen=True, slots=True)
class QueueView:
    """What waits for one block on one device. ``position`` is the block's in the chain of the
    first in line, ``oldest_s`` how long that has waited."""

    block: str
    position: int
    waiting: int
    oldest_s: float


@dataclass(frozen=True, slots=True)
class Waiting:
    """One request in a queue: its application, tokens to run, whether its prompt is to run."""

    app: str
    tokens: int
    first: bool


@dataclass(frozen=True, slots=True)
class BlockLoad:
    """A block's instances: expected wait at each device, by device."""

    block: str
    wait_s: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Replica:
    """Load one more instance of a block onto a device."""

    block: str
    device: int


@dataclass(frozen=True, slots=True)
class Guesses:
    """What surrogates of one block have guessed so far, and the seconds at stake a guess.

    ``saved_s`` where the guess is right; ``wasted_s`` of a device where it is wrong, the
    surrogate's included.
    """

    made: int
    right: int
    saved_s: float
    wasted_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainPolicy:
    """The decisions. ``patience_s``: a queue whose oldest has waited longer goes first.

    ``margin_s`` must be gained by leaving the owner of keys and values; a first placement counts
    the way of the hidden state ``passes`` times, since every token takes it again. Three switches
    take a mechanism away: ``mix_apps`` (one batch holds several applications), ``weigh_kv`` (keys
    and values count in the cost), ``substitute`` (equivalent blocks). ``trial`` guesses are made
    before a surrogate is judged, and one in ``retry`` after it was switched off.
    """

    max_requests: int = 256
    max_tokens: int = 2048
    patience_s: float = 0.2
    margin_s: float = 0.25
    passes: int = 64
    mix_apps: bool = True
    weigh_kv: bool = True
    substitute: bool = True
    speculate: bool = False
    trial: int = 24
    retry: int = 256
    replicate_wait_s: float = 0.25

    def cost_s(self, choice: Choice) -> float:
        """Expected seconds until the block can run there."""
        kv_s = choice.kv_s if self.weigh_kv else 0.0
        return choice.queue_s + choice.transfer_s + kv_s

    def dispatch(self, choices: Sequence[Choice]) -> int:
        """Index of the place to go to; ties go to the owner, then to the lowest device.

        A substitute is taken only where it is idle and cheaper than every true instance.
        """
        offered = [
            i
            for i, choice in enumerate(choices)
            if not choice.substitute or (self.substitute and choice.idle)
        ]

        def key(i: int) -> tuple[float, bool, bool, int]:
            choice = choices[i]
            margin_s = self.margin_s if choice.owner and self.weigh_kv else 0.0
            cost_s = self.cost_s(choice) - margin_s
            return (cost_s, choice.substitute, not choice.owner, choice.device)

        return min(offered, key=key)

    def next_queue(self, queues: Sequence[QueueView]) -> int:
        """Which block a free device runs: overdue ones first, then the last in its chain.

        What has begun a pass ends it, while new prompts and those a pass ahead gather at the first
        block: so groups fall in step, and weights are read once for all.
        """

        def key(i: int) -> tuple[float, int, int, str]:
            q = queues[i]
            overdue = q.oldest_s if q.oldest_s > self.patience_s else 0.0
            return (-overdue, -q.position, -q.waiting, q.block)

        return min(range(len(queues)), key=key)

    def takes_all(self, num: int, tokens: int) -> bool:
        """Whether so many requests with so many tokens go into one batch whoever they are."""
        return self.mix_apps and num <= self.max_requests and tokens <= self.max_tokens

    def batch(self, waiting: Sequence[Waiting]) -> list[int]:
        """Indices of the requests that run together, prompts first, each in order of arrival.

        At least one runs. Without ``mix_apps`` all are of the application of the first.
        """
        order = [i for i, w in enumerate(waiting) if w.first]
        order += [i for i, w in enumerate(waiting) if not w.first]
        if not self.mix_apps:
            app = waiting[order[0]].app
            order = [i for i in order if waiting[i].app == app]
        taken: list[int] = []
        tokens = 0
        for i in order:
            if taken and tokens + waiting[i].tokens > self.max_tokens:
                continue
            taken.append(i)
            tokens += waiting[i].tokens
            if len(taken) == self.max_requests:
                break
        return taken

    def replicate(
        self, loads: Sequence[BlockLoad], free: Mapping[int, float], copy_s: Mapping[str, float]
    ) -> Replica | None:
        """One more instance of the block whose shortest wait is longest, if that pays.

        ``free``: expected wait of devices with room for it, by device. The wait saved must exceed
        ``replicate_wait_s`` and the time to load the block.
        """
        best: tuple[float, str, int] | None = None
        for load in loads:
            here_s = min(load.wait_s.values(), default=0.0)
            for device, wait_s in free.items():
                if device in load.wait_s:
                    continue
                gain_s = here_s - wait_s
                if gain_s > max(self.replicate_wait_s, copy_s[load.block]) and (
                    best is None or (-gain_s, load.block, device) < best
                ):
                    best = (-gain_s, load.block, device)
        return None if best is None else Replica(best[1], best[2])

    def guess(self, seen: Guesses, asked: int) -> bool:
        """Whether to let a surrogate guess; ``asked`` counts the chances so far.

        A second of a device wasted counts as much as a second saved, since others may wait for it.

        On while the expected gain of what was seen is positive; off otherwise, but for one
        chance in ``retry``, so that a surrogate that got better is noticed.
        """
        if not self.speculate:
            return False
        if seen.made < self.trial:
            return True
        share = seen.right / seen.made
        gain_s = share * seen.saved_s - (1 - share) * seen.wasted_s
        return gain_s > 0 or asked % self.retry == 0
