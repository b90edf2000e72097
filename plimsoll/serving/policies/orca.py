"""Orca: iteration-level batching with whole prompts beside decodes.

Every step runs all decodes, and whole prompts of waiting requests while sequences and blocks
allow. Orca reserves memory for a request's full possible length when it is admitted, so it
never preempts. Left out: selective batching of attention (a kernel matter).
Source: Orca, OSDI 2022 (https://www.usenix.org/conference/osdi22/presentation/yu).
"""

from dataclasses import dataclass

from plimsoll.serving.policies.admission import in_order
from plimsoll.serving.policies.preempt import make_room
from plimsoll.serving.policy import InstView, Run, Step, View

__all__ = ["OrcaPolicy"]


@dataclass(frozen=True, slots=True)
class OrcaPolicy:
    """``OrcaConfig`` in a plan."""

    def step(self, view: View, inst: InstView, slot: int) -> Step:
        """All decodes and as many whole prompts as their worst case allows."""
        pool = inst.pool
        block = pool.block_tokens
        num_decodes = inst.num_decoding(slot)
        if pool.decode_blocks(slot) > pool.free:  # a request that was alone outgrew the pool
            parks, left = make_room(inst, slot, "recompute")
            return Step(actions=parks, decode_all=left > 0)
        room = inst.max_num_seqs - num_decodes
        if not room or not inst.waiting:
            return Step(decode_all=num_decodes > 0, steady=True)
        promised = 0
        for other_slot in range(inst.num_slots):
            for request in inst.decoding(other_slot):
                longest = request.prompt_tokens + request.max_tokens
                promised += -(-longest // block) - -(-request.computed // block)
            for request in inst.prefilling(other_slot):
                longest = request.prompt_tokens + request.max_tokens
                promised += pool.blocks_for(request, longest - request.computed)
        free = pool.free - promised
        runs = []
        for request in in_order(inst):
            pending = request.pending - pool.cached_tokens(request)
            longest = request.prompt_tokens + request.max_tokens
            now = pool.blocks_for(request, pending)
            need = now + (
                -(-longest // block) - -(-(request.prompt_tokens + request.generated) // block)
            )
            alone = not runs and inst.num_running == 0 and now <= pool.free
            if len(runs) == room or (need > free and not alone):
                break
            free -= need
            runs.append(Run(request.id, pending))
        return Step(runs=tuple(runs), decode_all=num_decodes > 0, steady=not runs)
