"""Workers that start and stop during a run: the same tokens, the same decisions as simulated."""

import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from plimsoll.serving.executors.torch.messages import Embed, Failed
from plimsoll.serving.executors.torch.replay import replay
from plimsoll.serving.policies import ChunkedPrefillPolicy
from plimsoll.serving.policy import (
    Admit,
    Arrive,
    Ended,
    Join,
    Leave,
    Life,
    Move,
    Retire,
    Scale,
    Tick,
)
from plimsoll.serving.routers import AutoscaledPolicy, FreenessPolicy, LeastWorkPolicy
from tests.serving.torch_executor.test_live_moves import Restless, _runner
from tests.serving.torch_executor.tiny_llama import (
    make_folder,
    open_run,
    requests,
    serve_all,
    spec,
)

PLAIN = ChunkedPrefillPolicy(token_budget=64)
NUM = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def alone(folder: Path) -> list[list[int]]:
    return serve_all(open_run(folder, [spec(PLAIN, 300)]), requests(NUM, shared=64))


@dataclass
class Tidal(Restless):
    """Running requests move at random; instances are drained and started at random."""

    events: frozenset[type] = Restless.events | {Ended}
    acts: list[Any] = field(default_factory=list)

    def on(self, view: Any, event: Any) -> list[Any]:
        admits = [inst for inst in view.instances if inst.admits]
        if isinstance(event, Arrive):
            return [Admit(event.request, admits[event.request % len(admits)].id)]
        if isinstance(event, Leave | Join):
            self.heard.append(event)
            return []
        if isinstance(event, Ended):
            return []
        decision = getattr(event, "decision", None)
        if isinstance(decision, Scale | Retire):
            return []
        found = []
        if isinstance(event, Tick):
            moving = view.mem.setdefault("moving", set())
            for inst in view.instances:  # what drains empties, one after the other
                running = [r.id for r in inst.decoding(0) if r.id not in moving]
                if inst.life is Life.DRAINING and running and admits:
                    moving.add(running[0])
                    found.append(Move(running[0], inst.id, admits[0].id, "live"))
            roll = view.rng.random()
            if roll < 0.15:
                found.append(Retire(int(view.rng.integers(len(view.instances)))))
            elif roll < 0.3:
                found.append(Scale(1))
            self.acts += found
            return found
        return super().on(view, event)

    def num(self, kind: type) -> int:
        return sum(isinstance(event, kind) for event in self.heard)


@pytest.mark.parametrize("ahead", [False, True])
def test_tokens_do_not_depend_on_who_comes_and_goes(
    folder: Path, alone: list[list[int]], ahead: bool
) -> None:
    router = Tidal()
    policy = ChunkedPrefillPolicy(token_budget=64, ahead=ahead)
    specs = [spec(policy, 300, at_start=i < 2) for i in range(3)]
    run = open_run(folder, specs, router=router)
    asked = requests(NUM, shared=64)
    rng = random.Random(ahead)
    for one in asked:
        run.submit(one.conversation())
        time.sleep(rng.uniform(0, 0.02))
    assert run.wait_idle(120)
    spans = run.lives.spans(run.now_s)
    run.close()
    assert not run.failure
    assert [one.delivered for one in asked] == alone
    assert router.num(Leave) >= 2 and router.num(Join) >= 1
    assert len(spans) >= 3
    assert all(engine.inst._pool.held == 0 for engine in run.engines)
    assert all(runner.num_known == 0 for runner in map(_runner, filter(None, run._workers)))


def test_with_the_freeness_router_and_its_scaling(folder: Path, alone: list[list[int]]) -> None:
    router = AutoscaledPolicy(
        FreenessPolicy(low_steps=5, high_steps=10, tick_s=0.005),
        low_steps=150,
        high_steps=600,
        hold_s=0.02,
        cooldown_s=0.02,
    )
    run = open_run(folder, [spec(PLAIN, 300, at_start=i < 1) for i in range(3)], router=router)
    asked = requests(NUM, shared=64)
    for one in asked:
        run.submit(one.conversation())
        time.sleep(0.004)
    assert run.wait_idle(120)
    run.close()
    assert not run.failure
    assert [one.delivered for one in asked] == alone
    acts = [row[3] for row in run.decisions if isinstance(row[3], Scale | Retire)]
    assert any(isinstance(act, Scale) for act in acts)
    record = run.record()
    assert len(record.meta["up_spans"]) >= 2
    assert len(set(record.requests.instance.tolist())) >= 2


@dataclass
class OneGoes:
    """Requests in turn; when the sixtieth comes, instance 1 is drained. No ticks."""

    tick_s: float = 0.0
    events: frozenset[type] = frozenset({Arrive, Leave, Join, Ended})
    left: list[Any] = field(default_factory=list)

    def on(self, view: Any, event: Any) -> list[Any]:
        if isinstance(event, Leave):
            self.left.append(event)
        if not isinstance(event, Arrive):
            return []
        admits = [inst.id for inst in view.instances if inst.admits]
        retire = [Retire(1)] if event.request == 60 else []
        return [Admit(event.request, admits[event.request % len(admits)]), *retire]


def test_drained_it_decides_as_simulated(folder: Path) -> None:
    router = OneGoes()
    specs = [spec(PLAIN, 400) for _ in range(2)]
    run = open_run(folder, specs, router=router)
    asked = requests(220, shared=64, longest=120)
    for one in asked:
        run.submit(one.conversation())
        time.sleep(0.001)
    assert run.wait_idle(120)
    run.close()
    again = replay(run, specs, OneGoes())
    real = [row[1:] for row in run.decisions]
    assert [row[1:] for row in again.decisions] == real
    assert (-1, -1, Retire(1)) in real and router.left == [Leave(1, ())]
    assert again.record.meta["up_spans"][1][2] == pytest.approx(
        run.record().meta["up_spans"][1][2], abs=1e-6
    )


@dataclass
class Once(LeastWorkPolicy):
    """Least work, with decisions when a request with a stated number arrives."""

    script: dict[int, Any] = field(default_factory=dict)
    heard: list[Any] = field(default_factory=list)

    def on(self, view: Any, event: Any) -> Any:
        if isinstance(event, Leave | Join):
            self.heard.append(event)
        found = list(LeastWorkPolicy.on(self, view, event))
        if isinstance(event, Arrive) and event.request in self.script:
            found.append(self.script[event.request])
        return found


def serve_with_kill(folder: Path, script: dict[int, Any], at_start: int, kill: int) -> Any:
    router = Once(script=script)
    run = open_run(
        folder, [spec(PLAIN, 300, at_start=i < at_start) for i in range(2)], router=router
    )
    asked = requests(30, longest=100)
    for i, one in enumerate(asked):
        run.submit(one.conversation())
        if i == 15:
            run._inbox.put((1, Failed("killed"))) if kill else None
        time.sleep(0.003)
    assert run.wait_idle(60)
    deadline = time.monotonic() + 20
    while run.engines[1].inst.life is Life.STARTING and time.monotonic() < deadline:
        time.sleep(0.01)
    lives = [engine.inst.life for engine in run.engines]
    run.close()
    assert not run.failure
    assert all(len(one.over) == 1 for one in asked)
    return router, asked, lives


def test_killed_while_draining_it_is_not_started_again(folder: Path) -> None:
    router, asked, lives = serve_with_kill(folder, {14: Retire(1)}, 2, kill=1)
    assert lives == [Life.UP, Life.STOPPED]
    assert [type(event) for event in router.heard] == [Leave]
    ends = [one.over[0].finish for one in asked]
    assert set(ends) <= {"length", "error"} and ends.count("error") <= 15
    assert all(finish == "length" for finish in ends[16:])


def test_killed_while_starting_it_is_tried_again(folder: Path) -> None:
    router, asked, lives = serve_with_kill(folder, {14: Scale(1)}, 1, kill=1)
    assert lives == [Life.UP, Life.UP]
    assert Join(1) in router.heard
    assert all(one.over[0].finish in ("length", "error") for one in asked)


def test_what_an_embedding_is_computed_on_stays_until_it_is_there(folder: Path) -> None:
    router = Once(script={0: Retire(1)})
    run = open_run(folder, [spec(PLAIN, 300) for _ in range(2)], router=router)
    vectors: list[Any] = []
    run.embed(Embed(1, [5] * 200, "mean"), vectors.append)  # the odd ones go to instance 1
    (one,) = requests(1)
    run.submit(one.conversation())
    assert run.wait_idle(60)
    deadline = time.monotonic() + 20
    while run.engines[1].inst.life is not Life.STOPPED and time.monotonic() < deadline:
        time.sleep(0.01)
    run.close()
    assert len(vectors) == 1 and not isinstance(vectors[0], str)
    assert run.engines[1].inst.life is Life.STOPPED
    assert one.over[0].finish == "length"
