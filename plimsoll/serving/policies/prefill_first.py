"""vLLM's first scheduler: waiting prompts run whole and before decodes; preempt when full.

If any waiting prompt can be admitted the step is prompts only and decodes stall; otherwise all
decodes run. When the pool cannot give every decode its next block, the newest are put aside:
``recompute`` sends them to the front of the queue, ``swap`` moves their KV to the host and
brings it back when it fits. A watermark of 1 % of blocks stays free at admission.
Left out: copy-on-write for parallel sampling. Source: arXiv 2309.06180.
"""

from dataclasses import dataclass
from typing import Literal

from plimsoll.serving.policies.admission import in_order
from plimsoll.serving.policies.chunks import stuck
from plimsoll.serving.policies.preempt import make_room, others_need
from plimsoll.serving.policies.swapped import bring_back
from plimsoll.serving.policy import Action, InstView, Park, Run, Step, View

__all__ = ["PrefillFirstPolicy"]


@dataclass(frozen=True, slots=True)
class PrefillFirstPolicy:
    """``PrefillFirst`` in a plan. ``max_batched_tokens`` bounds the prompts of one step."""

    max_batched_tokens: int = 8192
    preempt: Literal["recompute", "swap"] = "recompute"
    watermark_fraction: float = 0.01

    def step(self, view: View, inst: InstView, slot: int) -> Step:
        """Prompts if any fits, otherwise all decodes."""
        pool = inst.pool
        parked = inst.parked(slot)
        num_decodes = inst.num_decoding(slot)
        spare = pool.free - others_need(inst, slot)
        if inst.waiting and not parked:
            runs = self._prompts(inst, num_decodes, spare)
            if runs:
                return Step(runs=runs)
        actions: tuple[Action, ...]
        actions, num_decodes = make_room(inst, slot, self.preempt)
        if parked and not actions:
            reserve = int(self.watermark_fraction * pool.total)
            free = pool.free - pool.decode_blocks(slot) - others_need(inst, slot)
            actions, _ = bring_back(inst, slot, free, reserve=reserve)
            num_decodes += len(actions)
        if not actions and not num_decodes and inst.waiting:  # better prompts than nothing
            runs = self._prompts(inst, inst.num_decoding(slot), spare)
            blocked = None if runs else stuck(inst, slot)
            if blocked is not None:
                return Step(actions=(Park(blocked.id, "recompute"),))
            return Step(runs=runs)
        return Step(actions=actions, decode_all=num_decodes > 0, steady=not actions)

    def _prompts(self, inst: InstView, num_decodes: int, free: int) -> tuple[Run, ...]:
        pool = inst.pool
        room = inst.max_num_seqs - num_decodes
        tokens = self.max_batched_tokens
        reserve = int(self.watermark_fraction * pool.total)
        runs: list[Run] = []
        for request in in_order(inst):
            if not room:
                break
            pending = request.pending - pool.cached_tokens(request)
            alone = not runs and inst.num_running == 0
            if pending > tokens and runs:
                break
            need = pool.blocks_for(request, pending)
            if need + reserve > free and not (alone and need <= free):
                break
            free -= need
            tokens -= pending
            room -= 1
            runs.append(Run(request.id, pending))
        return tuple(runs)
