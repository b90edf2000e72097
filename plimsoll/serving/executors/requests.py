"""A request inside the simulated executor.

The public attributes are the policy's view (``serving.policy.ReqView``). The true output
length is not here: the executor keeps it where no view leads. A decoding request gains one
token a step together with all others of its slot, so its counts are read off the slot's tick
counter instead of being updated one by one.
"""

from collections.abc import Sequence

from plimsoll.serving.policy import Phase

__all__ = ["SimRequest", "TickCounter"]


class TickCounter:
    """Decode steps a slot has completed."""

    __slots__ = ("tick",)

    def __init__(self) -> None:
        self.tick = 0


class SimRequest:
    """See the module text. ``_offset``: the tick at which it would have had no token yet."""

    __slots__ = (
        "_computed",
        "_counter",
        "_generated",
        "_offset",
        "arrival_s",
        "borrows",
        "first_gap_s",
        "has_blocks",
        "id",
        "instance",
        "join_tick",
        "last_token_s",
        "max_tokens",
        "num_blocks",
        "num_units",
        "parked_at_s",
        "phase",
        "preemptions",
        "prefix_keys",
        "priority",
        "prompt_tokens",
        "request_class",
        "serial",
        "session_id",
        "slot",
        "worst_gap_s",
    )

    def __init__(
        self,
        *,
        id: int,
        arrival_s: float,
        prompt_tokens: int,
        max_tokens: int,
        prefix_keys: Sequence[int] = (),
        session_id: int = -1,
        request_class: str = "",
        priority: int = 0,
    ) -> None:
        self.id = id
        self.arrival_s = arrival_s
        self.prompt_tokens = prompt_tokens
        self.max_tokens = max_tokens
        self.prefix_keys = prefix_keys
        self.session_id = session_id
        self.request_class = request_class
        self.priority = priority
        self.preemptions = 0
        self.phase = Phase.WAITING
        self.instance = -1
        self.slot = -1
        self.serial = 0
        self.num_blocks = 0
        self.num_units = 0
        self.has_blocks = False
        self.last_token_s = 0.0
        self.first_gap_s = 0.0
        self.worst_gap_s = 0.0
        self.join_tick = 0
        self.parked_at_s: float | None = None
        self.borrows = 0
        self._computed = 0
        self._generated = 0
        self._offset = 0
        self._counter: TickCounter | None = None

    @property
    def generated(self) -> int:
        """Output tokens delivered."""
        counter = self._counter
        return self._generated if counter is None else counter.tick - self._offset

    @property
    def computed(self) -> int:
        """Tokens whose KV is held."""
        counter = self._counter
        if counter is None:
            return self._computed
        return self.prompt_tokens + counter.tick - self._offset - 1

    @property
    def pending(self) -> int:
        """Tokens to compute before the next one can be sampled."""
        if self._counter is not None:
            return 1
        return self.prompt_tokens + self._generated - self._computed

    def start_decoding(self, counter: TickCounter) -> None:
        """Follow the slot's counter from now on."""
        self._offset = counter.tick - self._generated
        self._counter = counter

    def stop_decoding(self) -> None:
        """Hold the counts still again."""
        counter = self._counter
        if counter is not None:
            self._generated = counter.tick - self._offset
            self._computed = self.prompt_tokens + self._generated - 1
            self._counter = None

    def add_computed(self, num_tokens: int) -> None:
        """KV of that many more tokens is held."""
        self._computed += num_tokens

    def add_generated(self) -> None:
        """One more token was delivered outside a decode step."""
        self._generated += 1

    def drop_kv(self) -> None:
        """All KV is gone; every token is pending again."""
        self._computed = 0
