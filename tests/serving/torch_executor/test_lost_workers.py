"""Workers that die again and again: every request ends, those that come afterwards too."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from plimsoll.serving.executors.torch.live_run import LiveRun
from plimsoll.serving.executors.torch.messages import Embed, Failed, Ready, StepWork
from plimsoll.serving.policies import ChunkedPrefillPolicy
from plimsoll.serving.routers import LeastWorkPolicy
from tests.serving.torch_executor.tiny_llama import make_folder, open_run, requests, spec


class Doomed:
    """Is ready, and dies of its first step."""

    num_started = 0

    def __init__(self, answer: Callable[[Any], None]) -> None:
        type(self).num_started += 1
        self._answer = answer
        answer(Ready(1))

    def send(self, message: Any) -> None:
        if isinstance(message, StepWork) and message.work:
            self._answer(Failed("it had to be"))

    def close(self) -> None:
        return


def test_requests_end_when_no_worker_is_left() -> None:
    run = LiveRun(
        [spec(ChunkedPrefillPolicy(token_budget=64), 100)],
        LeastWorkPolicy(),
        lambda index, answer: Doomed(answer),
        check_books=True,
    )
    run.start()
    asked = requests(8)
    for one in asked:
        run.submit(one.conversation())
        assert run.wait_idle(20)
    assert Doomed.num_started == 4
    said = [one.over[0].error for one in asked]
    assert all("worker that served" in why for why in said[:3])
    assert all("no worker is left" in why or "worker that served" in why for why in said[3:4])
    assert set(said[4:]) == {"no worker is left to serve requests"}
    vectors: list[Any] = []
    run.embed(Embed(0, [1, 2], "mean"), vectors.append)
    run.close()
    assert vectors == ["no worker is left to serve requests"]
    assert all(len(one.over) == 1 and one.over[0].finish == "error" for one in asked)
    assert run.num_alive == 0 and not run.failure


def test_what_comes_after_the_end_is_told_so(tmp_path: Path) -> None:
    run = open_run(make_folder(tmp_path), [spec(ChunkedPrefillPolicy(token_budget=64), 100)])
    run.close()
    (late,) = requests(1)
    run.submit(late.conversation())
    vectors: list[Any] = []
    run.embed(Embed(0, [1, 2], "mean"), vectors.append)
    assert [text.finish for text in late.over] == ["error"]
    assert late.over[0].error == vectors[0] == "the server is shutting down"
