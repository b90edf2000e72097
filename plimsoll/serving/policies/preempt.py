"""Making room for decodes: put the newest running requests aside until the rest can go on.

The rule of vLLM: the request that started last is preempted first. Source: arXiv 2309.06180.

The slots of a pipeline share one pool, so a slot may lack blocks that others hold. It waits
for them only with the request that arrived first of all that run (``senior``); everything else
gives way when it cannot go on, so that two slots never wait for each other.
"""

from operator import attrgetter
from typing import Literal

from plimsoll.serving.policy import InstView, Park, ReqView

__all__ = ["make_room", "others_need", "senior"]


def others_need(inst: InstView, slot: int) -> int:
    """Blocks that the next tokens of the other slots' decodes take; not to be given away."""
    if inst.num_slots == 1:
        return 0
    pool = inst.pool
    return sum(pool.decode_blocks(other) for other in range(inst.num_slots) if other != slot)


def senior(inst: InstView) -> ReqView | None:
    """Of all that run in the slots of a pipeline, the request that arrived first."""
    if inst.num_slots == 1:
        return None
    running = [
        request
        for slot in range(inst.num_slots)
        for request in (*inst.decoding(slot), *inst.prefilling(slot))
    ]
    return min(running, key=lambda request: (request.arrival_s, request.id), default=None)


def make_room(
    inst: InstView, slot: int, how: Literal["recompute", "swap"]
) -> tuple[tuple[Park, ...], int]:
    """Parks so that one more token for each remaining decode of the slot fits: of the lowest
    priority first, of those the newest.

    Returns them and the decodes that can go on, 0 if none can before blocks held for KV on
    its way here are free. Requests that hold KV but do not run yet (handed over by a prefill
    instance) go first, then partly prefilled ones: neither stalls a reader. Both are computed
    again. One decode always stays: the oldest of the slot, in a pipeline the senior.
    """
    pool = inst.pool
    free = pool.free
    host = pool.host_free
    need = pool.decode_blocks(slot)
    left = inst.num_decoding(slot)
    parks: list[Park] = []
    if need <= free:
        return (), left
    if need <= free + pool.leaving:
        return (), 0  # copies elsewhere are about to make room
    eldest = senior(inst)
    for request in (*reversed(inst.waiting), *reversed(inst.prefilling(slot))):
        if need <= free:
            break
        if request.computed and request is not eldest:
            parks.append(Park(request.id, "recompute"))
            free += pool.blocks_freed(request)
    newest_first = reversed(inst.decoding(slot))
    for request in sorted(newest_first, key=attrgetter("priority")):
        if need <= free or (left == 1 and inst.num_slots == 1):
            break
        if request is eldest:
            continue
        blocks = -(-request.computed // pool.block_tokens)
        swap = how == "swap" and blocks <= host
        host -= blocks if swap else 0
        parks.append(Park(request.id, "swap" if swap else "recompute"))
        free += pool.blocks_freed(request)
        need -= request.computed % pool.block_tokens == 0
        left -= 1
    if need > free and left == 1 and not parks:
        only = next(iter(inst.decoding(slot)))
        if free + pool.blocks_freed(only) >= pool.total:
            parks.append(Park(only.id, "recompute"))  # it has outgrown the pool: it must end
            return tuple(parks), 0
    return tuple(parks), left if need <= free else 0
