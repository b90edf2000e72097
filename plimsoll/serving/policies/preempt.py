"""Making room for decodes: put the newest running requests aside until the rest can go on.

The rule of vLLM: the request that started last is preempted first. Source: arXiv 2309.06180.
"""

from typing import Literal

from plimsoll.serving.policy import InstView, Park

__all__ = ["make_room"]


def make_room(
    inst: InstView, slot: int, how: Literal["recompute", "swap"]
) -> tuple[tuple[Park, ...], int]:
    """Parks so that one more token for each remaining decode of the slot fits, newest first.

    Returns them and the decodes that can go on, 0 if none can before blocks held for KV on
    its way here are free. Requests that hold KV but do not run yet (handed over by a prefill
    instance) go first, then partly prefilled ones: neither stalls a reader. Both are computed
    again. The oldest decode is never parked.
    """
    pool = inst.pool
    free = pool.free
    host = pool.host_free
    need = pool.decode_blocks(slot)
    left = inst.num_decoding(slot)
    parks: list[Park] = []
    if need > free:
        for request in (*reversed(inst.waiting), *reversed(inst.prefilling(slot))):
            if need <= free:
                break
            if request.computed:
                parks.append(Park(request.id, "recompute"))
                free += pool.blocks_freed(request)
    for request in reversed(inst.decoding(slot)):
        if need <= free or left == 1:
            break
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
