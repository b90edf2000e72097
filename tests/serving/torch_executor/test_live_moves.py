"""Requests that move between workers while they run: the same tokens, whatever happens."""

import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from plimsoll.serving.executors.torch.messages import Failed
from plimsoll.serving.generation import SamplingParams
from plimsoll.serving.policies import ChunkedPrefillPolicy
from plimsoll.serving.policy import (
    Admit,
    Arrive,
    Join,
    Leave,
    Move,
    MoveDone,
    Refused,
    Tick,
)
from tests.serving.torch_executor.tiny_llama import (
    Asked,
    make_folder,
    open_run,
    requests,
    serve_all,
    spec,
)

PLAIN = ChunkedPrefillPolicy(token_budget=64)
NUM = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def alone(folder: Path) -> list[list[int]]:
    return serve_all(open_run(folder, [spec(PLAIN, 300)]), requests(NUM, shared=64))


@dataclass
class Restless:
    """At every tick a random running request moves to another instance."""

    tick_s: float = 0.002
    events: frozenset[type] = frozenset({Arrive, Leave, Join, Tick, MoveDone, Refused})
    heard: list[Any] = field(default_factory=list)

    def on(self, view: Any, event: Any) -> list[Any]:
        up = [inst.id for inst in view.instances if inst.up]
        moving = view.mem.setdefault("moving", set())
        if isinstance(event, Arrive):
            return [Admit(event.request, up[event.request % len(up)])] if up else []
        if isinstance(event, Leave):
            return [Admit(request, up[0]) for request in event.requests] if up else []
        if isinstance(event, MoveDone | Refused):
            self.heard.append(event)
            moving.discard(event.request if isinstance(event, MoveDone) else event.decision.request)
        elif isinstance(event, Tick) and len(up) > 1:
            source = int(view.rng.choice(up))
            running = [r.id for r in view.instances[source].decoding(0) if r.id not in moving]
            if running:
                chosen = running[int(view.rng.integers(len(running)))]
                moving.add(chosen)
                target = next(i for i in up if i != source)
                return [Move(chosen, source, target, "live")]
        return []

    @property
    def num_moved(self) -> int:
        return sum(isinstance(event, MoveDone) for event in self.heard)


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("num_blocks", [300, 70])
def test_tokens_do_not_depend_on_where_they_come_from(
    folder: Path, alone: list[list[int]], ahead: bool, num_blocks: int
) -> None:
    router = Restless()
    policy = ChunkedPrefillPolicy(token_budget=64, ahead=ahead)
    run = open_run(folder, [spec(policy, num_blocks) for _ in range(2)], router=router)
    assert serve_all(run, requests(NUM, shared=64)) == alone
    assert router.num_moved >= 10
    assert all(engine.inst._pool.held == 0 for engine in run.engines)
    assert all(engine.num_known == 0 for engine in map(_runner, run._workers))


def _runner(worker: Any) -> Any:
    return worker._runner


def test_over_a_slow_link(folder: Path, alone: list[list[int]]) -> None:
    router = Restless()
    run = open_run(
        folder, [spec(PLAIN, 300) for _ in range(2)], router=router, link_bytes_per_s=3e6
    )
    assert serve_all(run, requests(NUM, shared=64)) == alone
    assert router.num_moved >= 3


def test_clients_that_leave_meanwhile(folder: Path, alone: list[list[int]]) -> None:
    run = open_run(folder, [spec(PLAIN, 300) for _ in range(2)], router=Restless())
    asked = requests(NUM, shared=64)
    ids = [run.submit(one.conversation()) for one in asked]
    rng = random.Random(0)
    for gone in ids[::2]:
        time.sleep(rng.uniform(0, 0.02))
        run.cancel(gone)
    assert run.wait_idle(60)
    for i, one in enumerate(asked):
        assert one.delivered == alone[i][: len(one.delivered)]
        if i % 2:
            assert one.delivered == alone[i]
    run.close()
    assert not run.failure
    assert all(engine.inst._pool.held == 0 for engine in run.engines)


def test_a_destination_killed_at_any_time(folder: Path) -> None:
    """Requests of the source go on there, with nothing leaked on either side."""

    class OneWay(Restless):
        def on(self, view: Any, event: Any) -> list[Any]:
            if isinstance(event, Arrive):
                return [Admit(event.request, 0)]
            moves = super().on(view, event)
            once = not view.mem.get("tried")
            moves = [m for m in moves if not isinstance(m, Move) or (m.source == 0 and once)]
            if any(isinstance(m, Move) for m in moves):
                view.mem["tried"] = True
            return moves

    (whole,) = serve_all(
        open_run(folder, [spec(PLAIN, 300)]),
        [Asked([3] * 300, SamplingParams(max_tokens=60, temperature=0.0))],
    )
    rng = random.Random(1)
    kept = 0
    for _ in range(12):
        router = OneWay(tick_s=0.01)
        run = open_run(
            folder, [spec(PLAIN, 300) for _ in range(2)], router=router, link_bytes_per_s=3e6
        )
        one = Asked([3] * 300, SamplingParams(max_tokens=60, temperature=0.0))
        run.submit(one.conversation())
        time.sleep(rng.uniform(0.0, 0.15))
        run._inbox.put((1, Failed("killed")))
        assert run.wait_idle(60)
        run.close()
        assert not run.failure
        assert len(one.over) == 1
        if router.num_moved == 0:
            kept += 1
            assert one.delivered == whole
        else:
            assert one.delivered == whole[: len(one.delivered)]
        assert all(engine.inst._pool.held == 0 for engine in run.engines)
    assert kept >= 2
