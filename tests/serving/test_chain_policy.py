"""Decisions about chains, one by one."""

from typing import Any

import pytest

from plimsoll.serving.routers.chains import (
    BlockLoad,
    ChainPolicy,
    Choice,
    Guesses,
    QueueView,
    Waiting,
)


def choice(device: int, **more: Any) -> Choice:
    settings = {"block": "b", "queue_s": 0.0, "transfer_s": 0.0, "kv_s": 0.0} | more
    return Choice(device, **settings)


def test_the_cheapest_place_by_queue_transfer_and_keys() -> None:
    policy = ChainPolicy(margin_s=0.0)
    places = [
        choice(0, queue_s=0.3, owner=True),
        choice(1, queue_s=0.1, transfer_s=0.05, kv_s=0.2),
        choice(2, queue_s=0.2, transfer_s=0.02),
    ]
    assert policy.dispatch(places) == 2
    assert policy.dispatch(places[:2]) == 0, "keys and values cost more than the queue"
    assert ChainPolicy(margin_s=0.0, weigh_kv=False).dispatch(places[:2]) == 1


def test_the_owner_is_left_only_for_more_than_the_margin() -> None:
    places = [choice(1), choice(0, queue_s=0.2, owner=True)]
    assert ChainPolicy(margin_s=0.25).dispatch(places) == 1
    assert ChainPolicy(margin_s=0.15).dispatch(places) == 0
    assert ChainPolicy().dispatch([choice(0), choice(1, owner=True)]) == 1


def test_a_substitute_must_be_idle_and_cheaper() -> None:
    true = choice(0, queue_s=0.2)
    idle = choice(1, substitute=True, idle=True)
    busy = choice(1, substitute=True)
    assert ChainPolicy().dispatch([true, idle]) == 1
    assert ChainPolicy().dispatch([true, busy]) == 0
    assert ChainPolicy(substitute=False).dispatch([true, idle]) == 0
    assert ChainPolicy().dispatch([choice(3), idle]) == 0, "a tie goes to the true block"


def test_a_pass_begun_is_ended_first_unless_somebody_waits_too_long() -> None:
    policy = ChainPolicy(patience_s=0.2)
    queues = [QueueView("first", 0, 9, 0.1), QueueView("last", 3, 1, 0.05)]
    assert policy.next_queue(queues) == 1
    late = [QueueView("first", 0, 9, 0.3), QueueView("last", 3, 1, 0.05)]
    assert policy.next_queue(late) == 0


def test_prompts_lead_a_batch_and_its_size_is_bounded() -> None:
    policy = ChainPolicy(max_tokens=100, max_requests=3)
    waiting = [Waiting("a", 1, False), Waiting("b", 90, True), Waiting("a", 50, True)]
    assert policy.batch(waiting) == [1, 0]
    assert policy.batch([Waiting("a", 500, True)]) == [0], "one always runs"
    assert policy.batch([Waiting("a", 1, False)] * 5) == [0, 1, 2]
    assert ChainPolicy(mix_apps=False).batch(waiting) == [1]
    assert policy.takes_all(3, 100) and not policy.takes_all(3, 101)
    assert not ChainPolicy(mix_apps=False).takes_all(1, 1)


def test_the_overloaded_block_is_copied_if_that_pays() -> None:
    policy = ChainPolicy(replicate_wait_s=0.25)
    loads = [BlockLoad("a", {0: 1.0, 1: 0.9}), BlockLoad("b", {0: 0.3})]
    found = policy.replicate(loads, {1: 0.0, 2: 0.1}, {"a": 0.2, "b": 0.2})
    assert found is not None and (found.block, found.device) == ("a", 2)
    assert policy.replicate(loads, {2: 0.1}, {"a": 0.9, "b": 0.9}) is None
    assert policy.replicate(loads, {2: 0.8}, {"a": 0.0, "b": 0.0}) is None


@pytest.mark.parametrize(("right", "on"), [(90, True), (30, False)])
def test_guessing_stops_where_it_loses(right: int, on: bool) -> None:
    policy = ChainPolicy(speculate=True, trial=24, retry=256)
    seen = Guesses(100, right, saved_s=2e-3, wasted_s=4e-3)
    assert policy.guess(seen, 999) is on
    assert policy.guess(seen, 1024), "now and then it is tried again"
    assert policy.guess(Guesses(3, 0, 2e-3, 4e-3), 3), "before enough was seen"
    assert not ChainPolicy().guess(seen, 1024)
