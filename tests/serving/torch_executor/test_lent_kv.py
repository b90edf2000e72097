"""KV that real workers hold for each other: the same tokens, bytes by the formula, lost workers."""

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from plimsoll.cost.query_exchange import query_bytes
from plimsoll.evals.real_runs import (
    Asked,
    RealRun,
    await_tokens,
    instance,
    prompts_of,
    random_llama,
)
from plimsoll.serving.policies import ChunkedPrefillPolicy
from plimsoll.serving.policy import Admit, Arrive, Join, Leave, Lend, MoveDone, Refused, Tick
from plimsoll.serving.routers import KvPoolPolicy

pytestmark = pytest.mark.slow
STEPS = ChunkedPrefillPolicy(token_budget=64)
LENGTHS = [(560, 60)]
HEADS, HEAD_DIM, LAYERS = 4, 16, 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def alone(folder: Path) -> list[list[int]]:
    with RealRun(folder, [instance(STEPS)]) as run:
        return run.serve(prompts_of(LENGTHS, seed=0))


def pooled(folder: Path, num_blocks: int) -> RealRun:
    router = KvPoolPolicy(tick_s=0.002, heartbeat_s=0.0, reserve_fraction=0.4)
    run = RealRun(folder, [instance(STEPS, num_blocks=num_blocks)] * 4, router, peers=True)
    run.live._check = True
    return run


@pytest.fixture(scope="module")
def thirds(folder: Path) -> Iterator[tuple[RealRun, list[list[int]]]]:
    """Four workers, each with a third of the blocks that the request needs."""
    needed = -(-sum(LENGTHS[0]) // 16)
    with pooled(folder, needed // 3) as run:
        yield run, run.serve(prompts_of(LENGTHS, seed=0))


def test_thirds_of_a_request_on_four_workers_give_its_tokens(thirds: Any, alone: Any) -> None:
    run, tokens = thirds
    assert tokens == alone
    assert {d[3].target for d in run.live.decisions if isinstance(d[3], Lend)} == {1, 2, 3}


def test_bytes_follow_the_formula_whatever_the_context(thirds: Any) -> None:
    run, _ = thirds
    exchanged = run.live.engines[0].exchanged
    decodes = [(b, n) for b, n in exchanged if n <= 3 * LAYERS]
    assert len(decodes) >= 50 and {n for _, n in decodes} == {3 * LAYERS}
    expected = query_bytes(HEADS, HEAD_DIM)
    assert all(expected <= b / n <= 1.05 * expected for b, n in decodes)
    assert len(set(decodes)) == 1, "flat while the context grows"


def test_a_killed_creditor_costs_its_debtor_time_and_no_token(folder: Path, alone: Any) -> None:
    (asked,) = prompts_of(LENGTHS, seed=0)
    with pooled(folder, 20) as run:
        run.send(asked)
        await_tokens([asked], 20)
        holders = run.live.engines[0].inst.pool.away[0]
        killed = next(iter(holders))
        os.kill(run.workers[killed].process.pid or 0, signal.SIGKILL)
        run.wait()
        record = run.record.requests
    assert [asked.tokens] == alone and asked.over[0].finish == "length"
    assert record.preemptions[0] >= 1


@dataclass
class Restless:
    """At every tick blocks of running requests go to other workers."""

    tick_s: float = 0.003
    events: frozenset[type] = frozenset({Arrive, Leave, Join, Tick, MoveDone, Refused})
    done: list[MoveDone] = field(default_factory=list)

    def on(self, view: Any, event: Any) -> Sequence[Any]:
        if isinstance(event, Arrive):
            return [Admit(event.request, event.request % 3)]
        if isinstance(event, MoveDone):
            self.done.append(event)
        if not isinstance(event, Tick):
            return ()
        found = []
        for inst in view.instances:
            for request in (*inst.decoding(0), *inst.prefilling(0)):
                if view.rng.random() < 0.1:
                    target = (inst.id + 1 + int(view.rng.integers(2))) % 3
                    blocks = int(view.rng.integers(1, 6))
                    found.append(Lend(request.id, blocks, inst.id, target))
        return found


def test_many_requests_that_lend_all_the_time_keep_their_tokens(folder: Path) -> None:
    """I3, with memory so short that requests are put aside as well."""
    lengths = [(20 + 37 * i % 300, 10 + 11 * i % 50) for i in range(30)]

    def tokens(run: RealRun) -> list[list[int]]:
        with run:
            asked: list[Asked] = prompts_of(lengths, seed=1)
            return run.serve(asked)

    expected = tokens(RealRun(folder, [instance(STEPS)]))
    router = Restless()
    run = RealRun(folder, [instance(STEPS, num_blocks=60)] * 3, router, peers=True)
    run.live._check = True
    assert tokens(run) == expected
    assert len(router.done) > 50 and run.live.num_preempted > 0
