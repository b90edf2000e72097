"""The longest context of instances that lend each other KV memory, in closed form.

One request fills its own instance and what the others lend: a stated share of their blocks. Each
instance holds a whole copy of the weights, so memory outside KV is paid once an instance; blocks
are counted as ``cost/memory.py`` does. This is a statement on memory only: reads of lent blocks
take their creditor's time.
Source: arXiv 2401.02669.
"""

from dataclasses import dataclass

from plimsoll.cost.kv import kv_bytes_per_token
from plimsoll.cost.memory import footprint, kv_capacity
from plimsoll.spec.errors import InfeasibleError, SpecError
from plimsoll.spec.hardware import Device
from plimsoll.spec.model import ModelSpec
from plimsoll.spec.plan import Parallel

__all__ = ["PooledKv", "pooled_kv"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledKv:
    """KV blocks of ``num_instances`` equal instances; each lends at most ``lent_blocks``."""

    num_instances: int
    instance_blocks: int
    lent_blocks: int
    block_tokens: int
    block_bytes: float
    """Bytes of a block on all devices of an instance together."""

    @property
    def alone_tokens(self) -> int:
        """The longest context of one instance by itself."""
        return self.instance_blocks * self.block_tokens

    @property
    def longest_tokens(self) -> int:
        """The longest context with everything that the others lend."""
        blocks = self.instance_blocks + (self.num_instances - 1) * self.lent_blocks
        return blocks * self.block_tokens

    def share_for(self, tokens: int) -> float:
        """The share of each other instance's blocks that a context of ``tokens`` borrows.

        Raises:
            InfeasibleError: all of them are not enough; needed and available bytes are named.
        """
        needed = -(-tokens // self.block_tokens)
        available = self.num_instances * self.instance_blocks
        if needed > available:
            raise InfeasibleError(
                f"a context of {tokens:,} tokens needs {needed * self.block_bytes:,.0f} bytes of "
                f"KV and the pool holds {available * self.block_bytes:,.0f}",
                binding="KV memory of the pool",
                nearest=f"{available * self.block_tokens:,} tokens",
                change=f"{-(-needed // self.instance_blocks)} instances",
            )
        if needed <= self.instance_blocks:
            return 0.0
        others = self.num_instances - 1
        return (needed - self.instance_blocks) / (others * self.instance_blocks)


def pooled_kv(
    model: ModelSpec,
    device: Device,
    *,
    num_devices: int,
    tp: int = 1,
    lent_fraction: float = 1.0,
    memory_fraction: float = 0.9,
    block_tokens: int = 16,
) -> PooledKv:
    """KV of ``num_devices`` devices as instances of ``tp`` each, by model and memory share.

    Raises:
        SpecError: devices do not make whole instances, or the lent share is not one.
        InfeasibleError: the weights do not fit an instance.
    """
    if num_devices < 1 or num_devices % tp:
        raise SpecError(f"{num_devices} devices do not make whole instances of {tp}")
    if not 0 <= lent_fraction <= 1:
        raise SpecError(f"the share lent to others is {lent_fraction}, not between 0 and 1")
    parallel = Parallel(tp=tp)
    capacity = kv_capacity(
        model, device, parallel, memory_fraction=memory_fraction, block_tokens=block_tokens
    )
    found = footprint(model, device, parallel, memory_fraction=memory_fraction)
    blocks = capacity.num_blocks - capacity.blocks_per_request
    if blocks <= 0:
        raise InfeasibleError(
            f"{model.name} leaves no room for KV on an instance of {tp} {device.name}: "
            f"{found.needed_bytes:,.0f} of {found.limit_bytes:,.0f} bytes a device are taken",
            binding="device memory",
            change="more devices an instance",
        )
    return PooledKv(
        num_instances=num_devices // tp,
        instance_blocks=blocks,
        lent_blocks=int(blocks * lent_fraction),
        block_tokens=block_tokens,
        block_bytes=kv_bytes_per_token(model, model.quantization.kv_cache, tp) * tp * block_tokens,
    )
