"""Minutes of mixed load on the whole server: nothing leaks, every request ends exactly once.

Two replicas in processes of their own, one that recomputes what it preempts and one that swaps to
host memory and then to disk, with far too little KV memory; clients as in ``soak_clients``; a
worker is killed now and then. Every ten seconds the clients pause and everything must be back
where it was. PLIMSOLL_SOAK_S sets how long (600).
"""

import gc
import os
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plimsoll.serving.executors.torch.live_run import LiveRun
from plimsoll.serving.executors.torch.sampling.grammar import Grammars
from plimsoll.serving.executors.torch.text_engine import TextEngine
from plimsoll.serving.executors.torch.worker import ProcessWorker, WorkerSetup
from plimsoll.serving.generation import Delta, Generation
from plimsoll.serving.http.tokens import TextTools
from plimsoll.serving.policies import ChunkedPrefillPolicy
from plimsoll.serving.routers import LeastWorkPolicy
from tests.serving.http.live_server import serving_at
from tests.serving.torch_executor.soak_clients import Client
from tests.serving.torch_executor.tiny_llama import make_folder, spec
from tests.serving.torch_executor.tiny_text import END, text_engine, write_tokenizer

SOAK_S = float(os.environ.get("PLIMSOLL_SOAK_S", "600"))
NUM_CLIENTS = 12
PAUSE_EVERY_S = 10.0
MOST_KILLS = 6  # of two replicas, each of which is started again three times
MOST_GROWTH_BYTES = 48 * 2**20


class Watched:
    """The engine, with every delta counted on its way out."""

    def __init__(self, engine: TextEngine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self.open: set[int] = set()
        self.num_submitted = 0
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def submit(self, generation: Generation, deliver: Callable[[Delta], None]) -> int:
        with self._lock:
            mine = self.num_submitted
            self.num_submitted += 1
            self.open.add(mine)

        def counted(delta: Delta) -> None:
            with self._lock:
                if mine not in self.open:
                    self.wrong.append(f"request {mine}: {delta} after its end")
                if delta.finish is not None:
                    self.open.discard(mine)
                    self.outcomes[delta.finish] += 1
            deliver(delta)

        return self._engine.submit(generation, counted)


class Crowd:
    """Client threads that can be paused."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._going = threading.Event()
        self._over = False
        self._changed = threading.Condition()
        self._num_busy = 0
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._threads = [threading.Thread(target=self._work, args=(i,)) for i in range(NUM_CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _work(self, seed: int) -> None:
        client = Client(self._url, seed)
        while True:
            self._going.wait()
            if self._over:
                break
            with self._changed:
                self._num_busy += 1
            try:
                outcome = client.act()
            except Exception:
                outcome = "wrong"
                self.wrong.append(traceback.format_exc(limit=-4))
            with self._changed:
                self.outcomes[outcome] += 1
                self._num_busy -= 1
                self._changed.notify_all()
        client.close()

    def go(self) -> None:
        """Let them."""
        self._going.set()

    def pause(self) -> None:
        """Wait until each has ended what it does."""
        self._going.clear()
        with self._changed:
            assert self._changed.wait_for(lambda: self._num_busy == 0, 150), "clients hang"

    def end(self) -> None:
        """No more."""
        self._over = True
        self._going.set()
        for thread in self._threads:
            thread.join(150)


def resident_bytes(pid: int) -> int:
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def until(holds: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    end_s = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end_s, what
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_soak(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model")
    write_tokenizer(folder)
    tokenizer = (folder / "tokenizer.json").read_text(encoding="utf-8")
    swap = ChunkedPrefillPolicy(token_budget=64, preempt="swap")
    specs = [
        spec(ChunkedPrefillPolicy(token_budget=64), 80, max_num_seqs=16),
        spec(swap, 80, max_num_seqs=16, host_blocks=400),
    ]
    workers: dict[int, ProcessWorker] = {}

    def start(index: int, answer: Callable[[Any], None]) -> ProcessWorker:
        setup = WorkerSetup(
            folder=folder,
            num_blocks=specs[index].num_blocks,
            block_tokens=specs[index].block_tokens,
            num_threads=1,
            eos_ids=(END,),
            tokenizer=tokenizer,
            host_bytes=40_000.0,
            disk_folder=tmp_path / f"swap-{index}",
        )
        workers[index] = ProcessWorker(setup, answer)
        return workers[index]

    run = LiveRun(specs, LeastWorkPolicy(), start, eos_ids=(END,), check_books=True)
    run.start()
    engine = Watched(text_engine(run, folder, Grammars))
    began_s = time.monotonic()
    memory: list[tuple[int, int]] = []
    num_kills = num_pauses = 0
    limits = {"write_timeout_s": 1.0, "max_concurrent_requests": 64}
    with serving_at(engine, TextTools.read(folder), **limits) as url:  # type: ignore[arg-type]
        crowd = Crowd(url)
        while time.monotonic() - began_s < SOAK_S and not crowd.wrong:
            crowd.go()
            time.sleep(PAUSE_EVERY_S / 2)
            if num_kills < MOST_KILLS * (time.monotonic() - began_s) / SOAK_S - 0.5:
                pid = workers[num_kills % 2].process.pid
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
                num_kills += 1
            time.sleep(PAUSE_EVERY_S / 2)
            crowd.pause()
            assert run.wait_idle(60), "the run is not idle"
            until(lambda: engine.stats().replicas_up == 2, "a replica does not come back")
            until(lambda: engine.stats().used_blocks == 0, "blocks are held by nobody")
            run.check()
            stats = engine.stats()
            assert stats.running == stats.waiting == run.num_alive == 0
            assert not engine.open and not engine.wrong, engine.wrong
            assert engine.num_submitted == engine.outcomes.total()
            assert stats.finished == engine.outcomes["stop"] + engine.outcomes["length"]
            until(lambda: not list(tmp_path.glob("swap-*/*")), "swapped requests stay on disk")
            assert engine.healthy() and not run.failure
            num_pauses += 1
            gc.collect()
            pids = [worker.process.pid or 0 for worker in workers.values()]
            memory.append((resident_bytes(os.getpid()), max(map(resident_bytes, pids))))
            seconds = time.monotonic() - began_s
            sys.stderr.write(
                f"{seconds:6.0f} s: {engine.num_submitted:,} sequences, "
                f"{stats.preemptions:,} preemptions, {num_kills} kills, "
                f"{memory[-1][0] / 2**20:.0f} and {memory[-1][1] / 2**20:.0f} MiB, "
                f"{threading.active_count()} threads, {len(os.listdir('/proc/self/fd'))} files; "
                f"{dict(crowd.outcomes)} {dict(engine.outcomes)}\n"
            )
        crowd.end()
    assert not crowd.wrong, "\n".join(crowd.wrong[:3])
    assert num_kills > 0 or SOAK_S < 60
    assert run.num_preempted > 0 and min(crowd.outcomes[o] for o in ("finished", "left")) > 0
    settled = memory[len(memory) // 4]
    for before, after in zip(settled, memory[-1], strict=True):
        assert after - before < MOST_GROWTH_BYTES, memory
