"""The catalog entry of Kinetics; its cost model and choices are tested on their own."""

import pytest
import torch

from plimsoll.catalog.contract import Context
from plimsoll.catalog.kinetics import SYSTEM
from plimsoll.catalog.kinetics_sparse import (
    BLOCK,
    DIGITS,
    Setting,
    dense_gap,
    fresh,
    generations,
    problems,
)
from plimsoll.catalog.verdicts import run_system


def test_every_check_passes() -> None:
    rows = list(run_system(SYSTEM, Context(), timed=False, quick=True))
    assert [f"{r.claim}: {r.what}" for r in rows if r.verdict == "fail"] == []
    assert sum(r.verdict == "pass" for r in rows) == 28


@pytest.mark.timing
def test_decode_steps_take_arithmetic_and_traffic() -> None:
    from plimsoll.catalog.kinetics_real import step_fit

    found = step_fit(seed=0)
    assert found.num_params[1] >= 4 * found.num_params[0]
    assert found.r2 >= 0.97 and found.worst <= 0.15
    assert found.flops_only_worst > 0.15


def test_sums_in_scratch_are_sums() -> None:
    prompt, written = problems(5, 3, torch.Generator().manual_seed(0))
    assert prompt.shape == (5, 3 * BLOCK + 1) and written.shape == (5, 3 * BLOCK)
    place, digit = prompt[:, :-1] // 10, prompt[:, :-1] % 5
    assert (place.sort(dim=1).values == torch.arange(3 * BLOCK)).all(), "each place once"
    lines = (place // BLOCK).view(5, 3, BLOCK)
    assert (lines == lines[:, :, :1]).all(), "a line stays together"
    in_order = digit.gather(1, place.argsort(dim=1))
    assert (in_order.cumsum(dim=1) % 5 == (written - 1) % 5).all()


def test_what_is_not_learned_is_cut_and_wrong() -> None:
    model = fresh(torch.Generator().manual_seed(0))
    made = generations(model, Setting(budget=2 * BLOCK), each=2, seed=0)
    assert made.lengths.shape == (2 * DIGITS // BLOCK, 1) and made.lengths.max() <= DIGITS
    assert made.truncated is not None and not (made.right & made.truncated).any()
    assert (made.lengths[made.truncated] == DIGITS).all() and made.right.mean() < 0.5
    assert (made.kv_budget, made.block) == (2 * BLOCK, BLOCK)


def test_with_room_it_is_dense_and_without_it_is_not() -> None:
    model = fresh(torch.Generator().manual_seed(0))
    assert dense_gap(model, budget=3 * DIGITS, seed=0) < 1e-5
    assert dense_gap(model, budget=2 * BLOCK, seed=0) > 1e-2


@pytest.mark.slow
def test_long_sums_are_solved_cheaper_by_block_top_k() -> None:
    from plimsoll.catalog.kinetics_equal_cost import gain, gap

    one = Context(seeds=(0,))
    assert gain(one, blind=False).value >= 5 > gain(one, blind=True).value
    assert gap(one, room=True).value < 1e-5 < gap(one, room=False).value
