"""Dynamic SplitFuse (DeepSpeed-FastGen): every pass filled to exactly one token budget.

All decodes go first, then prompts in order of arrival, the last one cut; the remainder keeps
its KV and goes first next time. A waiting prompt starts only if all of it would fit in free
blocks (deadlock guard), though only its chunk takes blocks now. When nothing can run while
requests hold blocks, the newest gives its KV up and is computed again later.
Budget: ``cost.saturation.saturation_tokens`` finds the smallest count that saturates the device.
Source: arXiv 2401.08671.
"""

from dataclasses import dataclass

from plimsoll.serving.policies.chunks import fill_with_chunks, stuck
from plimsoll.serving.policies.preempt import make_room, others_need
from plimsoll.serving.policy import InstView, Park, Step, View

__all__ = ["SplitFusePolicy"]


@dataclass(frozen=True, slots=True)
class SplitFusePolicy:
    """``SplitFuse`` in a plan, its budget resolved."""

    token_budget: int

    def step(self, view: View, inst: InstView, slot: int) -> Step:
        """All decodes and prompt chunks, exactly ``token_budget`` tokens if there are any."""
        pool = inst.pool
        num_decodes = inst.num_decoding(slot)
        free = pool.free - pool.decode_blocks(slot)
        if free < 0:
            parks, left = make_room(inst, slot, "recompute")
            return Step(actions=parks, decode_all=left > 0)
        if not inst.waiting and not inst.prefilling(slot):
            return Step(decode_all=num_decodes > 0, steady=True)
        runs = fill_with_chunks(
            inst,
            slot,
            budget=self.token_budget - num_decodes,
            free=free - others_need(inst, slot),
            num_decodes=num_decodes,
            max_partial=1,
            guard_whole_prompt=True,
        )
        if not runs and not num_decodes:
            blocked = stuck(inst, slot)
            if blocked is not None:
                return Step(actions=(Park(blocked.id, "recompute"),))
        return Step(runs=runs, decode_all=num_decodes > 0, steady=not runs)
