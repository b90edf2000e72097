"""How the replicas of a pool swap, from its policy and what its KV and link are.

Only ``fairswap`` pools have a swap manager; others swap a request in one copy. Left out: pipelines,
shared prefixes and fixed-size states, which have no place in copies of one owner's blocks.
"""

from plimsoll.serving.kv.swap_manager import SwapSpec
from plimsoll.spec.errors import SpecError, UnsupportedError
from plimsoll.spec.plan import FairSwap, Pool

__all__ = ["swap_spec"]


def swap_spec(
    pool: Pool,
    *,
    block_bytes: float,
    pieces_per_block: int,
    link_bytes_per_s: float,
    has_states: bool,
) -> SwapSpec | None:
    """None for a pool without a swap manager. ``link_bytes_per_s``: where the plan names none.

    Raises:
        SpecError: the pool shares prefixes.
        UnsupportedError: it is a pipeline, or the model keeps states beside its KV.
    """
    config = pool.policy
    if not isinstance(config, FairSwap):
        return None
    if pool.prefix_caching:
        raise SpecError(
            "plan: prefix_caching is true in a pool of policy fairswap, whose copies are of blocks "
            "that one request owns; set prefix_caching to false"
        )
    if pool.parallel.pp > 1 or has_states:
        found = f"pp = {pool.parallel.pp}" if pool.parallel.pp > 1 else "a model with states"
        raise UnsupportedError(
            f"plan: policy fairswap with {found}: its copies are of KV blocks on replicas of one "
            "stage; use another policy"
        )
    return SwapSpec(
        groups=config.groups,
        asynchronous=config.asynchronous,
        reuse=config.reuse,
        block_bytes=max(1, int(block_bytes)),
        pieces_per_block=pieces_per_block,
        launch_s=config.launch_s,
        bytes_per_s=config.bytes_per_s or link_bytes_per_s,
    )
