"""Filling what is left of a token budget with prompt chunks; shared by the chunking policies."""

from plimsoll.serving.policies.admission import in_order
from plimsoll.serving.policies.preempt import senior
from plimsoll.serving.policy import InstView, ReqView, Run

__all__ = ["fill_with_chunks", "stuck"]


def fill_with_chunks(
    inst: InstView,
    slot: int,
    *,
    budget: int,
    free: int,
    num_decodes: int,
    max_partial: int,
    guard_whole_prompt: bool,
) -> tuple[Run, ...]:
    """Prompt chunks worth at most ``budget`` tokens and ``free`` blocks.

    Prompts under way come first, then waiting ones in order. At most ``max_partial`` of them
    are left unfinished; they share the budget equally. ``guard_whole_prompt``: a waiting
    prompt starts only if all of it would fit, though only its chunk takes blocks now; in a
    pipeline always, with the rest of the other slots' prompts.
    """
    pool = inst.pool
    block = pool.block_tokens
    runs: list[Run] = []
    promised = 0
    prefilling = inst.prefilling(slot)
    for request in prefilling:
        if budget <= 0 or max_partial == 0:
            return tuple(runs)
        pending = request.pending
        tokens = min(pending, max(1, budget // max_partial))
        tokens = min(tokens, free * block + -request.computed % block)
        if tokens <= 0:
            return tuple(runs)
        need = pool.blocks_for(request, tokens)
        promised += pool.blocks_for(request, pending) - need
        free -= need
        budget -= tokens
        max_partial -= tokens < pending
        runs.append(Run(request.id, tokens))
    room = inst.max_num_seqs - num_decodes - len(prefilling)
    if room <= 0 or budget <= 0 or max_partial == 0 or not inst.waiting:
        return tuple(runs)
    if inst.num_slots > 1:
        guard_whole_prompt = True
        promised += sum(
            pool.blocks_for(request, request.pending)
            for other in range(inst.num_slots)
            if other != slot
            for request in inst.prefilling(other)
        )
    for request in in_order(inst):
        pending = request.pending - pool.cached_tokens(request)
        tokens = min(pending, max(1, budget // max_partial))
        need = pool.blocks_for(request, tokens)
        whole = pool.blocks_for(request, pending) if guard_whole_prompt else need
        if need > free or whole > free - promised * guard_whole_prompt:
            break
        promised += whole - need
        free -= need
        budget -= tokens
        room -= 1
        max_partial -= tokens < pending
        runs.append(Run(request.id, tokens))
        if budget <= 0 or room == 0 or max_partial == 0:
            break
    return tuple(runs)


def stuck(inst: InstView, slot: int) -> ReqView | None:
    """What gives its KV up when nothing at all can run for want of blocks: the newest.

    That is a prompt under way, else a request that was handed over and cannot start. In a
    pipeline only if no other slot can go on either, and never the senior.
    """
    pool = inst.pool
    if pool.leaving:
        return None  # copies elsewhere are about to make room
    for other in range(inst.num_slots):
        if other != slot and inst.num_decoding(other) and pool.decode_blocks(other) <= pool.free:
            return None
    eldest = senior(inst)
    holders = (*reversed(inst.prefilling(slot)), *reversed(inst.waiting))
    found = next((r for r in holders if r is not eldest and r.computed), None)
    if (
        found is None
        or pool.blocks_freed(found) + pool.blocks_for(found, found.pending) > pool.total
    ):
        return None  # longer than this memory: others must hold part of it, or nothing helps
    return found
