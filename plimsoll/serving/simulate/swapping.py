"""How the replicas of a pool swap, from its policy and what its KV and link are.

Only ``fairswap`` pools have a swap manager; others swap a request in one copy. Left out: pipelines,
shared prefixes and fixed-size states, which have no place in copies of one owner's blocks.
"""

from plimsoll.serving.kv.swap_manager import SwapSpec
from plimsoll.spec.errors import UnsupportedError
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
        UnsupportedError: the model keeps states beside its KV.
    """
    config = pool.policy
    if not isinstance(config, FairSwap):
        return None
    if has_states:
        raise UnsupportedError(
            "plan: policy fairswap with a model with states: its copies are of KV blocks; use "
            "another policy"
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
