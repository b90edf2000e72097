"""Sarathi-Serve, and vLLM's present scheduler: decodes first, then prompt chunks to a budget.

Each step runs every decode (one token each) and fills the rest of the token budget with chunks
of prompts, those already begun first, then waiting ones in order. A chunk takes only its own
blocks. When decodes lack blocks the newest requests are put aside. ``max_partial_prefills``
prompts may be under way at once and then share the budget. ``ahead``: decode steps are formed
while the ones before run.
Source: arXiv 2403.02310.
"""

from dataclasses import dataclass
from typing import Literal

from plimsoll.serving.policies.chunks import fill_with_chunks, stuck
from plimsoll.serving.policies.preempt import make_room, others_need
from plimsoll.serving.policies.swapped import bring_back
from plimsoll.serving.policy import Action, InstView, Park, Step, View

__all__ = ["ChunkedPrefillPolicy"]

_DECODE = Step(decode_all=True, steady=True)
_DECODE_AHEAD = Step(decode_all=True, steady=True, ahead=True)
_IDLE = Step()


@dataclass(frozen=True, slots=True)
class ChunkedPrefillPolicy:
    """``ChunkedPrefill`` in a plan."""

    token_budget: int = 2048
    max_partial_prefills: int = 1
    preempt: Literal["recompute", "swap"] = "recompute"
    ahead: bool = False

    def step(self, view: View, inst: InstView, slot: int) -> Step:
        """All decodes, then chunks in order of arrival."""
        pool = inst.pool
        num_decodes = inst.num_decoding(slot)
        free = pool.free - pool.decode_blocks(slot)
        if free < 0:
            parks, left = make_room(inst, slot, self.preempt)
            return Step(actions=parks, decode_all=left > 0)
        prefilling = inst.prefilling(slot)
        parked = inst.parked(slot)
        if not inst.waiting and not prefilling and not parked:
            if not num_decodes:
                return _IDLE
            return _DECODE_AHEAD if self.ahead else _DECODE
        actions: tuple[Action, ...] = ()
        if inst.num_slots > 1:
            free -= others_need(inst, slot)
        if parked:
            actions, free = bring_back(inst, slot, free)
            num_decodes += len(actions)
        runs = ()
        if len(actions) == len(parked) or not num_decodes:
            runs = fill_with_chunks(
                inst,
                slot,
                budget=self.token_budget - num_decodes,
                free=free,
                num_decodes=num_decodes,
                max_partial=self.max_partial_prefills,
                guard_whole_prompt=False,
            )
            if not runs and not num_decodes:
                blocked = stuck(inst, slot)
                if blocked is not None:
                    return Step(actions=(Park(blocked.id, "recompute"),))
        steady = not runs and not actions
        return Step(
            actions=actions,
            runs=runs,
            decode_all=num_decodes > 0,
            steady=steady,
            ahead=steady and self.ahead,
        )
