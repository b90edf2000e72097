"""Bringing swapped requests back, oldest first, as far as blocks and sequences allow."""

from plimsoll.serving.policy import Action, InstView, Resume

__all__ = ["bring_back"]


def bring_back(
    inst: InstView, slot: int, free: int, *, reserve: int = 0
) -> tuple[tuple[Action, ...], int]:
    """Resumes that fit into ``free`` blocks with ``reserve`` to spare, and the blocks left.

    A request alone on the instance comes back whatever the reserve.
    """
    pool = inst.pool
    num_running = inst.num_decoding(slot) + len(inst.prefilling(slot))
    actions: list[Action] = []
    for request in inst.parked(slot):
        need = pool.blocks_for(request, request.computed + 1)
        alone = num_running == 0 and need <= free
        if num_running >= inst.max_num_seqs or (need + reserve > free and not alone):
            break
        free -= need
        num_running += 1
        actions.append(Resume(request.id))
    return tuple(actions), free
