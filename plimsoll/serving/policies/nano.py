"""NanoFlow: every step the same dense batch of decodes and prompt chunks, as long as memory lasts.

Each step runs all decodes and fills up to exactly ``token_budget`` tokens with prompt chunks. A
request starts only if the KV of all that run, each taken to decode the mean length, is predicted
to fit at its peak. Where the prediction was too low one request goes to the host, the newest, and
comes back before anything new starts. A dense batch of one size is what an overlap plan is made
for; the plan itself is the executor's and does not change a decision.
Leaves out: copying KV of new tokens to the host while they are computed.
Source: arXiv 2408.12757, section 4.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from plimsoll.serving.policies.admission import in_order
from plimsoll.serving.policies.chunks import stuck
from plimsoll.serving.policies.kv_forecast import peak_blocks
from plimsoll.serving.policies.preempt import make_room, others_need
from plimsoll.serving.policy import Action, InstView, Park, ReqView, Resume, Run, Step, View
from plimsoll.spec.errors import SpecError

__all__ = ["NanoPolicy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NanoPolicy:
    """``Nano`` in a plan. ``token_budget`` is the dense batch.

    ``mean_output_tokens`` is the expected output of a request; ``ahead``: decode steps are formed
    while the ones before run.

    Raises:
        SpecError: the budget is below 1 or the mean not above 0.
    """

    token_budget: int = 2048
    mean_output_tokens: float = 256.0
    ahead: bool = False

    def __post_init__(self) -> None:
        if self.token_budget < 1 or not 0 < self.mean_output_tokens < float("inf"):
            raise SpecError(
                f"nano: token_budget {self.token_budget} and mean_output_tokens "
                f"{self.mean_output_tokens:g}; both must be above 0"
            )

    def step(self, view: View, inst: InstView, slot: int) -> Step:
        """All decodes, then chunks up to the dense batch."""
        pool = inst.pool
        num_decodes = inst.num_decoding(slot)
        free = pool.free - pool.decode_blocks(slot)
        if free < 0:
            return self._swap_one(inst, slot)
        if not inst.waiting and not inst.prefilling(slot) and not inst.parked(slot):
            steady = num_decodes > 0
            return Step(decode_all=steady, steady=steady, ahead=steady and self.ahead)
        batch = _DenseBatch(self, inst, slot, free - others_need(inst, slot))
        batch.fill()
        num_decodes += len(batch.back)
        if not batch.runs and not num_decodes:
            blocked = stuck(inst, slot)
            if blocked is not None:
                return Step(actions=(Park(blocked.id, "recompute"),))
        # What memory cannot hold at its peak now it may hold a few steps on, with the others
        # nearer to their ends; so then the policy wants to be asked again.
        steady = num_decodes > 0 and not batch.runs and not batch.back and not batch.foresees
        return Step(
            actions=tuple(batch.back),
            runs=tuple(batch.runs),
            decode_all=num_decodes > 0,
            steady=steady,
            ahead=steady and self.ahead,
        )

    def _swap_one(self, inst: InstView, slot: int) -> Step:
        """The newest decode to the host if that is enough, else as many as it takes."""
        pool = inst.pool
        need, free = pool.decode_blocks(slot), pool.free
        if inst.num_slots == 1 and inst.num_decoding(slot) > 1:
            newest = min(reversed(inst.decoding(slot)), key=lambda request: request.priority)
            own = newest.computed % pool.block_tokens == 0
            fits = -(-newest.computed // pool.block_tokens) <= pool.host_free
            if fits and need - own <= free + pool.blocks_freed(newest):
                return Step(actions=(Park(newest.id, "swap"),), decode_all=True)
        parks, left = make_room(inst, slot, "swap")
        return Step(actions=parks, decode_all=left > 0)

    def left(self, request: ReqView) -> int:
        """Output tokens still to come; past the mean a request is taken to end next."""
        expected = min(int(self.mean_output_tokens), request.max_tokens)
        return max(1, expected - request.generated)


class _DenseBatch:
    """Fills one step. ``back`` are swapped requests that return, ``runs`` the chunks."""

    def __init__(self, policy: NanoPolicy, inst: InstView, slot: int, free: int) -> None:
        self.back: list[Action] = []
        self.runs: list[Run] = []
        self._policy, self._inst, self._slot = policy, inst, slot
        self._pool = inst.pool
        self._free = free
        num_decodes, num_begun = inst.num_decoding(slot), len(inst.prefilling(slot))
        self._budget = policy.token_budget - num_decodes
        self._room = min(inst.max_num_seqs, policy.token_budget) - num_decodes - num_begun
        """Requests that may still start, so that decodes alone never exceed the dense batch."""
        self._own: list[int] | None = None
        self.foresees = False
        """Whether a request was held back because of the predicted peak."""

    def fill(self) -> None:
        """Prompts under way, then what was swapped out, then waiting requests in order."""
        inst, pool = self._inst, self._pool
        for request in inst.prefilling(self._slot):
            tokens = min(request.pending, self._budget)
            slack = -request.computed % pool.block_tokens
            tokens = min(tokens, self._free * pool.block_tokens + slack)
            if tokens <= 0:
                return
            self._take(request, tokens)
        for request in inst.parked(self._slot):
            need = pool.blocks_for(request, request.computed + 1)
            if self._full or need > self._free or not self._fits(request):
                return
            self.back.append(Resume(request.id))
            self._free -= need
            self._budget -= 1
            self._room -= 1
        if self._full or not inst.waiting:
            return
        for request in in_order(inst):
            pending = request.pending - pool.cached_tokens(request)
            tokens = min(pending, self._budget)
            if pool.blocks_for(request, tokens) > self._free or not self._fits(request):
                return
            self._take(request, tokens)
            self._room -= 1
            if self._full:
                return

    @property
    def _full(self) -> bool:
        return self._budget <= 0 or self._room <= 0

    def _take(self, request: ReqView, tokens: int) -> None:
        self._free -= self._pool.blocks_for(request, tokens)
        self._budget -= tokens
        self.runs.append(Run(request.id, tokens))

    def _fits(self, request: ReqView) -> bool:
        """Whether the predicted peak stays within memory with ``request``; notes it if so. A
        request alone on the instance always may."""
        if self._own is None:
            self._forecast()
        assert self._own is not None
        own, left = request.computed + request.pending, self._policy.left(request)
        num = len(self._own) + 1
        peak = self._base + num * self._pool.per_request
        peak += peak_blocks(
            np.array([*self._own, own], dtype=np.int64),
            np.array([*self._left, left], dtype=np.int64),
            self._pool.block_tokens,
        )
        alone = not self.runs and not self.back and not self._inst.num_running
        if peak > self._pool.total and not alone:
            self.foresees = True
            return False
        self._own.append(own)
        self._left.append(left)
        return True

    def _forecast(self) -> None:
        """What runs already: tokens when all its prompt is in, tokens still to come."""
        pool, policy = self._pool, self._policy
        block = pool.block_tokens
        own, left, held = [], [], 0
        for request in self._running():
            own.append(request.computed + request.pending - 1)
            left.append(policy.left(request))
            held += -(-request.computed // block) + pool.per_request
        self._own, self._left = own, left
        self._base = max(0, pool.total - pool.free - held)
        """Blocks that none of these holds: pinned, on their way, of requests that wait."""

    def _running(self) -> Iterator[ReqView]:
        for slot in range(self._inst.num_slots):
            yield from self._inst.decoding(slot)
            yield from self._inst.prefilling(slot)
