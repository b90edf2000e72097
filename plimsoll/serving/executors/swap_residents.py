"""Requests of one instance whose KV is copied beside the steps: landing, failing, waiting.

The copies are ``executors.swaps.Swaps``'; here requests change their state by them. What parks and
resumes requests is ``Residents``'.
"""

from plimsoll.serving.executors.requests import SimRequest
from plimsoll.serving.executors.residents import Residents
from plimsoll.serving.executors.slots import Slot
from plimsoll.serving.kv.numbered import NumberedPool
from plimsoll.serving.policy import Phase

__all__ = ["SwapResidents"]


class SwapResidents(Residents):
    """See the module text; of use where ``swaps`` is not None."""

    def redo_lost(self, now_s: float) -> None:
        """Requests whose copy failed are computed again."""
        assert self.swaps is not None
        lost, self.swaps.lost = self.swaps.lost, []
        for request_id in lost:
            request = self.alive[request_id]
            before = request.pending
            self.detach(request)
            self._put_back(request, before, now_s)
            if request.parked_at_s is None:
                request.parked_at_s = now_s

    def begin_parked(self, request: SimRequest) -> bool:
        """A turn of a session whose last turn left KV on the host is swapped out with it."""
        swaps = self.swaps
        if swaps is None or request.computed or request.generated:
            return False
        tokens = swaps.adopt(request, self.shared_tokens(request))
        if not tokens:
            return False
        request.add_computed(tokens)
        self._recorder.cached_tokens[request.id] = tokens
        self.inst.outstanding_tokens += request.pending
        request.phase = Phase.PARKED
        request.slot = 0
        self.inst._parked[0][request.id] = request
        return True

    def shared_tokens(self, request: SimRequest) -> int:
        """Tokens of a new turn that are the session's earlier ones; one at least stays to run."""
        return request.prompt_tokens - 1

    def wait_for_copies(self, slot: Slot, now_s: float) -> float:
        """Give the decodes of the step that begins their blocks; how long it waits for copies."""
        assert self.swaps is not None
        pool = self.inst._pool
        assert isinstance(pool, NumberedPool)
        if slot.num_decodes:
            pool.take(pool.blocks_of_steps(slot.index, 0, 1))
            slot.accounted = 1
            for request in self.inst._decoding[slot.index].values():
                computed = request.computed
                if computed % pool.block_tokens == 0:  # else its last block has room
                    pool.cover(request, computed + 1)
        self.swaps.wait_for_blocks(now_s)
        return self.swaps.stall_s(now_s)

    def copied(self, event: int, now_s: float, *, failed: bool = False) -> bool:
        """A copy beside the steps ended: its request goes on; whether that changed anything."""
        assert self.swaps is not None
        landed = self.swaps.copied(event, now_s, failed=failed)
        if landed is not None:
            request = self.alive[landed]
            del self.inst._returning[landed]
            self.end_park(request, now_s)
            request.phase = Phase.WAITING
            self.landed.append(request)
        if not self.swaps.lost:
            return landed is not None
        self.redo_lost(now_s)
        return True
