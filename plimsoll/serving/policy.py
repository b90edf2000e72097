"""The vocabulary between policies and executors: views, events and decisions.

A policy is a deterministic function of a view. It never reads a clock, does I/O, imports an
executor or sees how long an output will be. The executor owns time and effects: it builds the
view, carries out decisions and answers with events. The same policy file runs under the
simulated and the real executor.

Executor contract. (1) Actions of a ``Step`` apply before its runs. (2) A decision that breaks
an invariant raises ``PolicyError`` naming it: a run longer than the pending tokens, a request
run twice in a step, a run of a parked or moving request, an unknown id. (3) A decision
overtaken by events (request ended, blocks gone, instance lost) comes back as ``Refused`` and
is dropped. (4) A run of a waiting request admits it: the longest cached prefix is attached
first, then blocks for the new tokens are taken.

Tokens. A request has ``pending = prompt + generated - computed`` tokens without KV. A run of
all pending tokens samples the next token at the end of the step; a decoding request has
exactly one pending token. After a recompute preemption ``computed`` is 0 and all tokens are
pending again.
"""

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol

import numpy as np

from plimsoll.cost.clock import StepClock

__all__ = [
    "Abort",
    "Action",
    "Admit",
    "Arrive",
    "Cancel",
    "ClusterPolicy",
    "Ended",
    "Event",
    "InstView",
    "Join",
    "Leave",
    "Lend",
    "Life",
    "Move",
    "MoveDone",
    "Park",
    "Phase",
    "Pin",
    "PoolView",
    "Queue",
    "Recall",
    "Refused",
    "Reject",
    "ReqView",
    "Resume",
    "Retire",
    "Run",
    "Scale",
    "StageDone",
    "Step",
    "StepPolicy",
    "Tick",
    "Unpin",
    "View",
]


class Phase(StrEnum):
    """Where a request is, as its instance sees it."""

    WAITING = "waiting"
    PREFILL = "prefill"
    DECODE = "decode"
    PARKED = "parked"
    RETURNING = "returning"
    """Its KV is on its way back from the host; it holds blocks and runs when all is there."""
    MOVING = "moving"
    HANDED = "handed"
    """Its prompt ran on a prefill instance, which holds the KV until a decode side pulls it."""


class Life(StrEnum):
    """Where an instance is between its start and its end."""

    UP = "up"
    DRAINING = "draining"
    """It runs what it has and takes nothing new."""
    STARTING = "starting"
    STOPPED = "stopped"
    """Retired, or never started; ``Scale`` may start it."""
    LOST = "lost"


class ReqView(Protocol):
    """What a server knows of a request. There is no field for the true output length."""

    id: int
    arrival_s: float
    prompt_tokens: int
    max_tokens: int
    """The client's limit on output tokens; the model's context if it set none."""
    computed: int
    """Tokens whose KV is held."""
    generated: int
    session_id: int
    request_class: str
    priority: int
    preemptions: int
    instance: int
    """Where it is; -1 for nowhere, before it is admitted or after its instance was lost."""
    phase: Phase
    prefix_keys: Sequence[int]

    @property
    def pending(self) -> int:
        """Tokens to compute before the next one can be sampled."""
        ...


class Queue(Protocol):
    """Requests in order, read only: iterate forwards or backwards, count."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[ReqView]: ...

    def __reversed__(self) -> Iterator[ReqView]: ...


class PoolView(Protocol):
    """Paged KV memory of one instance, in blocks.

    ``free`` counts blocks that can be handed out now: never used or held only by the prefix
    cache. ``per_request`` blocks are taken once by each running request (fixed-size state).
    """

    block_tokens: int
    total: int
    per_request: int
    host_free: int
    """Blocks of host memory left for swapped requests."""
    busy: int
    """Of the free blocks, those that copies still read or write; a step given one waits."""
    block_bytes: float
    """Bytes of a block, 0 if nobody said."""
    lent: int
    """Blocks held that belong to no request here: KV of others, or room for KV coming home."""
    most_lent: int
    """The most blocks that may be held for others."""
    leaving: int
    """Blocks that become free once copies of them elsewhere are complete."""
    away: Mapping[int, Mapping[int, int]]
    """Blocks of requests here that others hold: by request, then by holder."""

    @property
    def free(self) -> int: ...

    def cached_tokens(self, request: ReqView) -> int:
        """Leading prompt tokens whose KV the prefix cache holds now (whole blocks)."""
        ...

    def is_pinned(self, request_id: int) -> bool:
        """Whether a prefix is pinned under a request, which may be gone."""
        ...

    def blocks_for(self, request: ReqView, num_tokens: int) -> int:
        """Free blocks that running ``num_tokens`` more of ``request`` would take.

        For a waiting request the cached prefix is counted as attached already; shared
        blocks that only the cache held become unavailable and are counted.
        """
        ...

    def blocks_freed(self, request: ReqView) -> int:
        """Blocks that become free if the request is parked: those nobody shares with it."""
        ...

    def decode_blocks(self, slot: int) -> int:
        """Free blocks that one more token for every decoding request of a slot would take."""
        ...


class InstView(Protocol):
    """One instance (replica), as its own scheduler sees it.

    A slot is one of the batches in flight: a pipeline of p stages has p. ``max_num_seqs``
    bounds the requests running in one slot.
    """

    id: int
    role: Literal["both", "prefill", "decode"]
    life: Life
    up: bool
    """It runs steps: ``life`` is up or draining."""
    admits: bool
    """It takes new requests: ``life`` is up."""
    num_slots: int
    max_num_seqs: int
    max_model_len: int
    clock: StepClock

    @property
    def pool(self) -> PoolView: ...

    @property
    def waiting(self) -> Queue:
        """Admitted to the instance and not running: preempted first, then by priority, of equal
        priority in order of admission."""
        ...

    def prefilling(self, slot: int) -> Queue:
        """Running with more than one pending token, in order of first run."""
        ...

    def decoding(self, slot: int) -> Queue:
        """Running with exactly one pending token, in order of first run."""
        ...

    def parked(self, slot: int) -> Queue:
        """Put aside in host memory, in order of parking. With host copies kept a session's next
        turn begins here, if the policy ``resumes_prompts``: it prefills on when it is back."""
        ...

    @property
    def returning(self) -> Queue:
        """On their way back from the host beside the steps, in order of resuming."""
        ...

    def num_decoding(self, slot: int) -> int: ...

    def held_tokens(self, request: ReqView) -> int:
        """Tokens of a request whose KV is here by now; a decoding one's own ``computed`` may be
        as of the beginning of a run of steps."""
        ...

    @property
    def num_running(self) -> int:
        """Requests holding blocks, all slots."""
        ...

    def lendable(self, request: ReqView) -> int:
        """Blocks of a running request that others may hold: its own, full, still here."""
        ...

    @property
    def outstanding_tokens(self) -> int:
        """Prompt tokens still to compute, plus one for each running request."""
        ...


class View(Protocol):
    """The snapshot a policy reads. ``mem`` is the policy's own state, kept by the run."""

    now_s: float
    rng: np.random.Generator
    mem: MutableMapping[str, object]

    @property
    def instances(self) -> Sequence[InstView]: ...

    def request(self, request_id: int) -> ReqView: ...

    def has(self, request_id: int) -> bool:
        """Whether the request is still alive."""
        ...


@dataclass(frozen=True, slots=True)
class Run:
    """Compute ``num_tokens`` of a request in this step."""

    request: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Admit:
    """Send a request to an instance, for one stage of its life.

    ``borrows``: the blocks it may take in all, more than the instance has; the policy sees to it
    that others hold the rest. A request that takes more than that and the memory has is turned
    away, or ends when it has grown so long.
    """

    request: int
    instance: int
    stage: Literal["all", "prefill", "decode"] = "all"
    borrows: int = 0


@dataclass(frozen=True, slots=True)
class Reject:
    """Refuse a request for good."""

    request: int
    why: str


@dataclass(frozen=True, slots=True)
class Park:
    """Take a running request's blocks: ``recompute`` drops its KV, ``swap`` moves it to host."""

    request: int
    how: Literal["recompute", "swap"]


@dataclass(frozen=True, slots=True)
class Resume:
    """Bring a swapped request back: before this step, or beside it where the instance's swap
    manager finds that better; the request is then ``RETURNING`` and runs in a later step."""

    request: int


@dataclass(frozen=True, slots=True)
class Abort:
    """End a request without finishing it."""

    request: int


@dataclass(frozen=True, slots=True)
class Move:
    """Move a request between instances.

    ``take``: its KV after its prompt ran; the source is free when it has arrived. ``live``: while
    it decodes, in stages, with a short pause at the end; a waiting request without KV goes at
    once. ``MoveDone`` or ``Refused`` says how it ended.
    """

    request: int
    source: int
    target: int
    mode: Literal["take", "live"] = "take"


@dataclass(frozen=True, slots=True)
class Lend:
    """Have the oldest full blocks of a running request held elsewhere, and attended to there.

    ``source`` holds them now, ``target`` takes them: from the request's instance to a creditor,
    from a creditor home, or from one creditor to another. All ``blocks`` or none; whether it has
    room is the target's own decision at once, which it hands on to nobody. ``MoveDone`` or
    ``Refused`` says how it ended.
    """

    request: int
    blocks: int
    source: int
    target: int


@dataclass(frozen=True, slots=True)
class Recall:
    """A creditor wants ``blocks`` back. What has not gone within ``within_s`` is dropped, and
    the requests it belonged to are computed again."""

    instance: int
    blocks: int
    within_s: float


@dataclass(frozen=True, slots=True)
class Pin:
    """Keep the leading ``num_tokens`` of a request's prompt in the prefix cache until ``Unpin``.

    Whole units of the cache only. They stay though the request ends, and count as held. Refused
    while the cache does not have all of them.
    """

    request: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Unpin:
    """Let go what was pinned under a request, which may be gone. It stays as cache, as any unit."""

    request: int


@dataclass(frozen=True, slots=True)
class Scale:
    """Start ``delta`` stopped instances, lowest id first; each says ``Join`` when it is up.

    Refused, with nothing started, where fewer are stopped.
    """

    delta: int


@dataclass(frozen=True, slots=True)
class Retire:
    """Stop an instance; ``Leave`` says when it has stopped.

    ``drain``: it runs what it has and takes nothing new, requests or moves, until it is empty.
    Else it stops now, and ``Leave`` names the requests it held. Of a starting instance the start
    is called off. Refused for the last one that takes requests of its role.
    """

    instance: int
    drain: bool = True


Action = (
    Admit | Reject | Park | Resume | Abort | Move | Lend | Recall | Pin | Unpin | Scale | Retire
)


@dataclass(frozen=True, slots=True)
class Step:
    """One engine iteration of one slot.

    ``decode_all`` stands for a one-token run of every decoding request that no action of this
    step parks; then ``runs`` lists only prompt chunks. ``steady`` promises that the policy
    would decide the same again until a request arrives, ends, is cancelled or moved, or the
    pool has fewer than ``pool.decode_blocks(slot)`` free blocks; the executor may then run many
    steps as one event. ``ahead`` with ``steady``: the step after is formed while this one runs,
    before its tokens are known, unless something known speaks against it; what arrives meanwhile
    waits for both, and a request that turns out to end in the first runs once more for nothing.
    An empty step (no runs, decode_all False) idles until the next event. ``read_once``: tokens of
    the decodes' context that attention need not read, since it reads a prefix once for all that
    share it. It shortens simulated steps; a real engine takes the time its kernels take.
    """

    actions: tuple[Action, ...] = ()
    runs: tuple[Run, ...] = ()
    decode_all: bool = False
    steady: bool = False
    ahead: bool = False
    read_once: int = 0


@dataclass(frozen=True, slots=True)
class Arrive:
    """A request came in from outside."""

    request: int


@dataclass(frozen=True, slots=True)
class StageDone:
    """A request finished a stage on an instance (its prompt ran, first token sampled)."""

    request: int
    instance: int


@dataclass(frozen=True, slots=True)
class MoveDone:
    """KV of a request arrived at ``target``."""

    request: int
    source: int
    target: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A decision could not be carried out any more."""

    decision: Action | Run
    why: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """The client went away; the executor has already freed what the request held."""

    request: int


@dataclass(frozen=True, slots=True)
class Join:
    """An instance came (back) up, empty."""

    instance: int


@dataclass(frozen=True, slots=True)
class Leave:
    """An instance was lost, or stopped since it was retired; ``requests`` it held need a new
    place, their KV is gone."""

    instance: int
    requests: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tick:
    """Time for periodic work, every ``ClusterPolicy.tick_s``."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A request left an instance for good, finished or not; its blocks are free again."""

    request: int
    instance: int


Event = Arrive | StageDone | Ended | MoveDone | Refused | Cancel | Join | Leave | Tick


class StepPolicy(Protocol):
    """Decides each iteration of an instance."""

    def step(self, view: View, inst: InstView, slot: int) -> Step: ...


class ClusterPolicy(Protocol):
    """Decides where requests go.

    ``tick_s`` 0: no ticks. ``events`` are the kinds it wants beyond ``Arrive`` and ``Leave``,
    which every cluster policy must answer.
    """

    tick_s: float
    events: frozenset[type]

    def on(self, view: View, event: Event) -> Sequence[Action]: ...
