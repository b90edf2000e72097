"""What executors of chains keep: blocks, devices, requests, and the work they send about.

Plain records without behavior beyond their own fields. A request is at one position of its chain
at a time; keys and values belong to (request, position), and with them lie the outputs of that
block for the same tokens, from which the next block can be computed again.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["BlockInfo", "ChainRequest", "Device", "Item", "Prices", "Send", "Start"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockInfo:
    """A block as a scheduler knows it: ``weight_bytes``, and ``token_bytes`` that a token keeps
    there (keys, values and the output)."""

    name: str
    weight_bytes: float
    token_bytes: float
    equivalents: tuple[str, ...] = ()
    """Blocks that may stand in for it."""


class Prices(Protocol):
    """Expected seconds, as decisions see them. ``source`` -1: the scheduler itself."""

    def run_s(self, block: str, first_tokens: int, num_decodes: int) -> float:
        """A batch of these prompts' tokens and decodes."""
        ...

    def hidden_s(self, source: int, target: int, num_tokens: int) -> float:
        """Hidden states of that many tokens from device to device."""
        ...

    def copy_s(self, block: str, source: int, target: int, num_tokens: int) -> float:
        """What a block keeps of that many tokens from device to device."""
        ...

    def load_s(self, block: str) -> float:
        """The block's weights onto a device."""
        ...


@dataclass(slots=True)
class ChainRequest:
    """A request: tokens it has, where it is in its chain, and what is held where.

    ``blocks`` is its own copy of the chain: a substitute is written into it. ``where`` and
    ``held`` are the device and the number of tokens held, by position; -1 and 0 for none.
    ``epoch`` grows when work under way no longer counts.
    """

    id: int
    app: str
    blocks: list[str]
    prompt_tokens: int
    max_tokens: int
    arrival_s: float
    where: list[int] = field(default_factory=list)
    held: list[int] = field(default_factory=list)
    generated: int = 0
    position: int = 0
    epoch: int = 0
    device: int = -1
    """Where its next block is to run; -1 while no place is known."""
    copying: int = -1
    """Device that keys and values are on their way from; -1: none are."""
    first_token_s: float = -1.0
    end_s: float = -1.0
    substituted: bool = False

    @property
    def tokens(self) -> int:
        """Tokens known: prompt and output so far."""
        return self.prompt_tokens + self.generated

    @property
    def missing(self) -> int:
        """Tokens to run at the present position."""
        return self.tokens - self.held[self.position]


@dataclass(slots=True)
class Item:
    """A visit of a request to a block: ``num`` tokens from ``start`` on.

    Work on a guess names its block in ``ahead`` and its device in ``place``; it may be
    ``dropped``.
    """

    request: ChainRequest
    epoch: int
    position: int
    start: int
    num: int
    since_s: float = 0.0
    ahead: str = ""
    place: int = -1
    dropped: bool = False

    @property
    def stale(self) -> bool:
        """Whether it no longer counts."""
        return self.dropped or self.epoch != self.request.epoch

    @property
    def block(self) -> str:
        """The block it visits."""
        return self.ahead or self.request.blocks[self.position]

    @property
    def device(self) -> int:
        """Where it runs or is to run."""
        return self.place if self.ahead else self.request.device


@dataclass(slots=True)
class Device:
    """A device: blocks on it, a queue for each, and the batch that runs."""

    index: int
    server: int
    memory_bytes: float
    blocks: set[str] = field(default_factory=set)
    up: bool = True
    used_bytes: float = 0.0
    queues: dict[str, deque[Item]] = field(default_factory=dict)
    prompts: dict[str, int] = field(default_factory=dict)
    """Prompt tokens in each queue."""
    residents: dict[str, int] = field(default_factory=dict)
    """Requests whose keys and values lie here, by block."""
    running: list[Item] = field(default_factory=list)
    running_block: str = ""
    until_s: float = 0.0
    """When the running batch is expected to end."""
    loading: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Send:
    """Bring an item's input to ``target``: hidden states from ``source`` (-1: token ids), and what
    the block keeps from ``copy_from``, -1 for nothing."""

    item: Item
    source: int
    target: int
    copy_from: int


@dataclass(frozen=True, slots=True)
class Start:
    """Run a block on a device over these items."""

    device: int
    block: str
    items: tuple[Item, ...]
