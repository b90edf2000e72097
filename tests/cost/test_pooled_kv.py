"""Longest contexts of pooled KV memory, by counting bytes; arXiv 2401.02669."""

import pytest

from plimsoll.catalog.lent_memory import grown_blocks
from plimsoll.cost.pooled_kv import PooledKv, pooled_kv
from plimsoll.spec.errors import InfeasibleError, SpecError
from plimsoll.spec.fleet import load_device
from plimsoll.spec.model_files import load_model

A100 = load_device("a100-sxm-80")


def pool(name: str, num_devices: int, tp: int = 1, lent_fraction: float = 1.0) -> PooledKv:
    return pooled_kv(
        load_model(name), A100, num_devices=num_devices, tp=tp, lent_fraction=lent_fraction
    )


def test_one_instance_by_hand() -> None:
    """32 layers x 2 x 4,096 x 2 B a token; 90 % of 80 GB less 13.5 GB of weights: 112 K tokens."""
    alone = pool("llama-2-7b", 1)
    token_bytes = 32 * 2 * 4096 * 2
    assert alone.alone_tokens * token_bytes < 0.9 * A100.memory_bytes - 13.4e9
    assert alone.alone_tokens == alone.longest_tokens == pytest.approx(112e3, rel=0.05)


@pytest.mark.parametrize(
    ("name", "tp", "num_devices"),
    [("llama-2-7b", 1, n) for n in (1, 2, 4, 8, 16, 32)]
    + [("llama-2-13b", 1, n) for n in (1, 2, 4, 8, 16, 32)]
    + [("llama-2-70b", 8, n) for n in (8, 16, 32)],
)
@pytest.mark.parametrize("lent_fraction", [1.0, 0.5])
def test_growth_by_borrowing_ends_where_the_closed_form_says(
    name: str, tp: int, num_devices: int, lent_fraction: float
) -> None:
    """A request on instance 0 fills it, then borrows through the ledger until all refuse."""
    found = pool(name, num_devices, tp, lent_fraction)
    held = grown_blocks(found)
    assert abs(held * found.block_tokens - found.longest_tokens) <= found.block_tokens


def test_what_is_held_back_is_a_share() -> None:
    found = pool("llama-2-7b", 32)
    share = found.share_for(1_900_000)
    assert pool("llama-2-7b", 32, lent_fraction=share + 1e-3).longest_tokens >= 1_900_000
    assert pool("llama-2-7b", 32, lent_fraction=share - 1e-3).longest_tokens < 1_900_000
    assert found.share_for(1000) == 0.0 and found.share_for(found.longest_tokens) == 1.0


def test_beyond_the_pool_is_refused_with_bytes() -> None:
    found = pool("llama-2-7b", 2)
    with pytest.raises(InfeasibleError, match=r"needs [\d,]+ bytes of KV and the pool holds"):
        found.share_for(found.longest_tokens + 1)
    with pytest.raises(InfeasibleError, match="no room for KV on an instance of 1"):
        pool("llama-2-70b", 8, tp=1)


def test_bad_settings_are_named() -> None:
    with pytest.raises(SpecError, match="12 devices do not make whole instances of 8"):
        pool("llama-2-70b", 12, tp=8)
    with pytest.raises(SpecError, match="not between 0 and 1"):
        pool("llama-2-7b", 2, lent_fraction=1.5)
