"""FairSwap on simulated instances: who runs, what is refused, what faults leave behind."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from plimsoll.catalog import fastswitch_setting as setting
from plimsoll.serving.executors.simulated import Fault, InstanceSpec, SimulatedExecutor
from plimsoll.serving.kv.swap_manager import SwapSpec
from plimsoll.serving.policies import ChunkedPrefillPolicy, PrefillFirstPolicy
from plimsoll.serving.policies.fairswap import FairSwapPolicy
from plimsoll.serving.policy import Park, Resume
from plimsoll.serving.routers import FreenessPolicy, LeastWorkPolicy
from plimsoll.spec.errors import PolicyError, SpecError
from tests.serving.clusters import CLOCK, assert_same, poisson

ALL = {"groups": True, "asynchronous": True, "reuse": True}
SWAPS = SwapSpec(block_bytes=2 << 20, pieces_per_block=64)
LOAD = poisson(120, rate=20)


def executor(policy: Any = None, *, parts: Any = ALL, replicas: int = 2, **options: Any) -> Any:
    spec = InstanceSpec(
        clock=CLOCK,
        policy=policy or FairSwapPolicy(),
        num_blocks=200,
        max_num_seqs=32,
        host_blocks=options.pop("host_blocks", 2000),
        prefix_caching=False,
        swapping=None if parts is None else replace(SWAPS, **parts),
    )
    router = options.pop("router", LeastWorkPolicy())
    return SimulatedExecutor([spec] * replicas, router, check_books=True, **options)


@pytest.mark.parametrize("parts", [None, {}, ALL, {"asynchronous": True, "short_s": 0.0}], ids=str)
@pytest.mark.parametrize(
    "policy",
    [
        FairSwapPolicy(),
        FairSwapPolicy(priorities="markov", update_frequency=0.2),
        FairSwapPolicy(priorities="served-tokens"),
        ChunkedPrefillPolicy(token_budget=512, preempt="swap"),
        ChunkedPrefillPolicy(token_budget=512, preempt="swap", ahead=True),
        PrefillFirstPolicy(preempt="swap"),
    ],
    ids=str,
)
def test_all_is_served_whatever_is_swapped_how(policy: Any, parts: Any) -> None:
    record = executor(policy, parts=parts).run(LOAD)
    assert record.requests.ok.all() and record.requests.preemptions.sum() > 0
    assert np.array_equal(record.requests.output_tokens, LOAD.output_tokens)
    if parts is not None:
        assert record.meta["swap_in_blocks"] > 100


@pytest.mark.parametrize("router", [LeastWorkPolicy(), FreenessPolicy()], ids=["least", "moves"])
def test_lost_instances_and_failed_copies_lose_nothing(router: Any) -> None:
    for seed in range(3):
        run = executor(
            router=router,
            seed=seed,
            copy_failure_rate=0.05,
            refusal_rate=0.05,
            transfer_s=lambda source, target, tokens: 0.02 + 2e-5 * tokens,
            faults=(Fault(instance=seed % 2, down_at_s=3.0, up_at_s=5.0),),
        )
        record = run.run(LOAD)
        assert record.requests.ok.all()
        assert np.array_equal(record.requests.output_tokens, LOAD.output_tokens)


def test_closed_while_a_copy_is_in_flight() -> None:
    """Copies so slow that nearly every cancelled request has one under way."""
    rng = np.random.default_rng(0)
    patience = np.where(rng.random(len(LOAD)) < 0.5, rng.uniform(0.1, 6, len(LOAD)), np.inf)
    slow = {**ALL, "bytes_per_s": 2e9, "short_s": 0.0}
    record = executor(parts=slow).run(LOAD.with_changes(cancel_after_s=patience))
    kept = record.requests.ok
    assert 20 < (~kept).sum() < 70
    assert np.array_equal(record.requests.output_tokens[kept], LOAD.output_tokens[kept])


def test_stepping_and_fast_forward_are_one() -> None:
    for policy in (FairSwapPolicy(), ChunkedPrefillPolicy(token_budget=512, preempt="swap")):
        fast = executor(policy).run(LOAD)
        assert_same(fast, executor(policy, fast_forward=False).run(LOAD))


def test_the_highest_run_and_change_at_their_time() -> None:
    """Two requests of which one fits; priorities swap every ten iterations."""

    def source(view: Any, requests: Any) -> dict[int, float]:
        asked = view.mem["asked"] = view.mem.get("asked", 0) + 1
        return {r.id: float((r.id + asked) % 2) for r in requests}

    load = poisson(2, rate=1e6).with_changes(
        prompt_tokens=np.array([1600, 1600]), output_tokens=np.array([50, 50])
    )
    load = load.with_changes(max_tokens=np.array([50, 50]))
    policy = FairSwapPolicy(update_frequency=0.1, priorities=source, token_budget=2000)
    run = executor(policy, replicas=1, log_decisions=True)
    record = run.run(load)
    assert record.requests.ok.all()
    acts = [a for *_, step in run.decisions for a in getattr(step, "actions", ())]
    parks = [a.request for a in acts if isinstance(a, Park)]
    assert len(parks) >= 6 and all(a != b for a, b in zip(parks, parks[1:], strict=False))
    assert [a.request for a in acts if isinstance(a, Resume)][:3] == [0, 1, 0]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (lambda view, rs: {r.id: float("nan") for r in rs}, "priority that is NaN"),
        (lambda view, rs: {**{r.id: 1.0 for r in rs}, 999: 2.0}, "named request 999"),
        (lambda view, rs: {}, "gave request 0 no priority"),
    ],
)
def test_bad_priorities_are_named(source: Any, says: str) -> None:
    with pytest.raises(PolicyError, match=says):
        executor(FairSwapPolicy(priorities=source)).run(LOAD)


def test_impossible_settings_are_named() -> None:
    with pytest.raises(SpecError, match="expected one of random, markov, served-tokens"):
        FairSwapPolicy(priorities="oldest")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="above 0 and at most 1"):
        FairSwapPolicy(update_frequency=0.0)
    with pytest.raises(SpecError, match=r"swap space of .*398 MiB .* less than one request"):
        executor(host_blocks=199).run(LOAD)
    with pytest.raises(SpecError, match="set prefix_caching false"):
        InstanceSpec(clock=CLOCK, policy=FairSwapPolicy(), num_blocks=9, swapping=SWAPS)


def test_a_full_host_has_requests_computed_again() -> None:
    policy = FairSwapPolicy(update_frequency=0.2)
    run = executor(policy, host_blocks=200, replicas=1, log_decisions=True)
    assert run.run(LOAD).requests.ok.all()
    acts = [a for *_, step in run.decisions for a in getattr(step, "actions", ())]
    hows = [a.how for a in acts if isinstance(a, Park)]
    assert hows.count("swap") > 20 and hows.count("recompute") > 20


def test_turns_of_sessions_begin_where_the_last_ended() -> None:
    load = setting.sessions(1.0, 0, num_turns=250)
    kept, dropped = (setting.serve(load, parts) for parts in (("reuse",), ()))
    assert kept.requests.ok.all() and dropped.requests.ok.all()
    assert dropped.requests.cached_tokens.sum() == 0
    cached = kept.requests.cached_tokens
    assert cached.sum() > 0 and (cached < load.prompt_tokens).all()
    first_turn = np.unique(load.session_id, return_index=True)[1]
    assert (cached[first_turn] == 0).all()


def test_served_tokens_are_spread_evenly() -> None:
    """Of two tenants one asks for three times as much; counters give both the same."""
    owner = np.array([0, 1, 1, 1] * 30)
    load = LOAD.with_changes(class_index=owner, classes=("a", "b"))
    spread = {}
    for source in ("served-tokens", "random"):
        run = executor(FairSwapPolicy(priorities=source), replicas=1)  # type: ignore[arg-type]
        served = run.run(load, until_s=12.0).requests
        began = np.where(np.isnan(served.first_token_s), 0, served.prompt_tokens)
        got = [(began + 2 * served.output_tokens)[owner == i].sum() for i in (0, 1)]
        spread[source] = abs(got[0] - got[1]) / sum(got)
    assert spread["served-tokens"] < 0.12 < 0.3 < spread["random"]
