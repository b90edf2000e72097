"""All that composes at once on the real engine: the same tokens, and the same decisions again.

Chunked prefill, shared prefixes, swaps and live moves on two workers with too little memory for
what is asked; then the same with workers that die at random moments.
"""

import random
import threading
import time
from pathlib import Path

import pytest

from plimsoll.serving.executors.torch.messages import Failed
from plimsoll.serving.executors.torch.replay import replay
from plimsoll.serving.policies import ChunkedPrefillPolicy
from plimsoll.serving.policy import Move, Park
from tests.serving.torch_executor.test_live_moves import Restless
from tests.serving.torch_executor.tiny_llama import (
    make_folder,
    open_run,
    requests,
    serve_all,
    spec,
)

NUM = 120
SWAPPING = ChunkedPrefillPolicy(token_budget=64, preempt="swap")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def alone(folder: Path) -> list[list[int]]:
    """Tokens of each request on one worker with room for all."""
    plain = [spec(ChunkedPrefillPolicy(token_budget=64), 600)]
    return serve_all(open_run(folder, plain), requests(NUM, shared=96))


def test_same_tokens_and_same_decisions_again(folder: Path, alone: list[list[int]]) -> None:
    router = Restless()
    specs = [spec(SWAPPING, 70, host_blocks=80) for _ in range(2)]
    run = open_run(folder, specs, router=router)
    assert serve_all(run, requests(NUM, shared=96)) == alone
    decided = [row[3] for row in run.decisions]
    parks = [a for d in decided for a in getattr(d, "actions", ()) if isinstance(a, Park)]
    assert any(park.how == "swap" for park in parks)
    assert sum(isinstance(d, Move) for d in decided) > 50 and router.num_moved > 20
    assert run.record().requests.cached_tokens.sum() > 0
    assert all(engine.inst._pool.held == 0 for engine in run.engines)
    again = replay(run, specs, run._router)
    assert [row[1:] for row in again.decisions] == [row[1:] for row in run.decisions]


@pytest.mark.parametrize("seed", range(3))
def test_workers_that_die_lose_no_token(folder: Path, alone: list[list[int]], seed: int) -> None:
    """What was delivered is the beginning of the true tokens; what another worker served is whole;
    each request ends once, and the books are even."""
    rng = random.Random(seed)
    router = Restless()
    run = open_run(folder, [spec(SWAPPING, 70, host_blocks=80) for _ in range(2)], router=router)
    asked = requests(NUM, shared=96)
    over = threading.Event()

    def kill() -> None:
        for _ in range(2):
            over.wait(rng.uniform(0.1, 0.6))
            run._inbox.put((rng.randrange(2), Failed("killed")))

    killer = threading.Thread(target=kill)
    for one in asked:
        run.submit(one.conversation())
    killer.start()
    assert run.wait_idle(120)
    over.set()
    killer.join()
    time.sleep(0.05)
    assert run.wait_idle(60)
    run.close()
    assert not run.failure
    assert [len(one.over) for one in asked] == [1] * NUM
    whole = 0
    for one, truth in zip(asked, alone, strict=True):
        assert one.delivered == truth[: len(one.delivered)]
        if one.over[0].finish != "error":
            assert one.delivered == truth
            whole += 1
    assert whole > 0
    assert all(engine.inst._pool.held == 0 for engine in run.engines)
