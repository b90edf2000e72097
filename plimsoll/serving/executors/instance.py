"""One simulated instance as policies see it (``serving.policy.InstView``)."""

from collections import deque
from collections.abc import Callable
from typing import Literal

from plimsoll.cost.clock import StepClock
from plimsoll.serving.executors.requests import SimRequest
from plimsoll.serving.kv.paged import PagedPool
from plimsoll.serving.policy import Life, Phase, Queue

__all__ = ["SimInstance"]


class SimInstance:
    """Queues, pool and limits of one instance; nothing here knows the future."""

    __slots__ = (
        "_catch_up",
        "_decoding",
        "_held_tokens",
        "_parked",
        "_pool",
        "_prefilling",
        "admits",
        "_returning",
        "clock",
        "id",
        "life",
        "max_model_len",
        "max_num_seqs",
        "num_slots",
        "outstanding_tokens",
        "role",
        "up",
        "waiting",
    )

    def __init__(
        self,
        *,
        id: int,
        role: Literal["both", "prefill", "decode"],
        clock: StepClock,
        pool: PagedPool,
        max_num_seqs: int,
        max_model_len: int,
        num_slots: int,
    ) -> None:
        self.id = id
        self.role: Literal["both", "prefill", "decode"] = role
        self.become(Life.UP)
        self.clock = clock
        self._pool = pool
        self._catch_up: Callable[[], None] = lambda: None
        self._held_tokens: Callable[[SimRequest], int] = lambda request: request.computed
        self.max_num_seqs = max_num_seqs
        self.max_model_len = max_model_len
        self.num_slots = num_slots
        self.outstanding_tokens = 0
        self.waiting: deque[SimRequest] = deque()
        self._prefilling: list[dict[int, SimRequest]] = [{} for _ in range(num_slots)]
        self._decoding: list[dict[int, SimRequest]] = [{} for _ in range(num_slots)]
        self._parked: list[dict[int, SimRequest]] = [{} for _ in range(num_slots)]
        self._returning: dict[int, SimRequest] = {}

    def become(self, life: Life) -> None:
        """Change ``life``, and what follows from it."""
        self.life = life
        self.up = life is Life.UP or life is Life.DRAINING
        self.admits = life is Life.UP

    @property
    def pool(self) -> PagedPool:
        """Its memory, with the blocks of all steps begun by now."""
        self._catch_up()
        return self._pool

    def prefilling(self, slot: int) -> Queue:
        """Running with more than one pending token, in order of first run."""
        return self._prefilling[slot].values()

    def decoding(self, slot: int) -> Queue:
        """Running with exactly one pending token, in order of joining."""
        return self._decoding[slot].values()

    def parked(self, slot: int) -> Queue:
        """Put aside in host memory, in order of parking."""
        return self._parked[slot].values()

    @property
    def returning(self) -> Queue:
        """On their way back from the host beside the steps, in order of resuming."""
        return self._returning.values()

    def num_decoding(self, slot: int) -> int:
        """Requests decoding in a slot."""
        return len(self._decoding[slot])

    def held_tokens(self, request: SimRequest) -> int:
        """Tokens of a request whose KV is here by now, with all steps that have ended."""
        return self._held_tokens(request)

    def lendable(self, request: SimRequest) -> int:
        """Blocks that others may hold: its own, full, here; not those of the prefix cache."""
        pool = self._pool
        if request.instance != self.id or request.phase not in (Phase.DECODE, Phase.PREFILL):
            return 0
        full = self._held_tokens(request) // pool.block_tokens
        return max(0, full - request.num_units * pool.unit_blocks - pool.num_away(request.id))

    @property
    def num_running(self) -> int:
        """Requests that run, all slots."""
        return sum(map(len, self._decoding)) + sum(map(len, self._prefilling))
