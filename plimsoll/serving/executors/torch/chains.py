"""Chains of blocks on real processes: ``ChainBooks`` decides, agents of gloo compute.

One process a device. The scheduler here knows tokens and positions; hidden states go from agent to
agent. An agent that dies is lost with what it held: requests resume behind the last block whose
output another agent still has. Decisions see linear prices, times are real. Keys and values that
must move are computed again. Left out: arrivals over time, sampling (tokens are the likeliest),
copies of keys and values between agents.
"""

import itertools
import multiprocessing
import pickle
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

from plimsoll.serving.executors.chain_books import ChainBooks
from plimsoll.serving.executors.chain_requests import (
    BlockInfo,
    ChainRequest,
    Device,
    Item,
    Send,
    Start,
)
from plimsoll.serving.executors.torch.chain_agent import (
    Drop,
    Forward,
    Load,
    Part,
    PeerLost,
    RunBlock,
    ServedBlock,
    agent_main,
)
from plimsoll.serving.routers.chains import ChainPolicy
from plimsoll.spec.errors import ExecutionError

__all__ = ["ChainServer", "LinearPrices", "Prompt", "Served"]

_START_S = 300.0
_WAIT_S = 120.0


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is asked: an application, token ids, and how many tokens to add."""

    app: str
    tokens: tuple[int, ...]
    max_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What came of it: tokens by request, mean requests of a batch by block, and the books' event
    and decision logs, from which a run can be played again."""

    tokens: tuple[tuple[int, ...], ...]
    batch: Mapping[str, float]
    wall_s: float
    resumed: int
    guesses: int
    right_guesses: int
    events: tuple[tuple[object, ...], ...]
    decisions: tuple[tuple[object, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearPrices:
    """``Prices`` of a small machine: a batch, a token, a message, a token of it. No copies."""

    batch_s: float = 2e-3
    token_s: float = 1e-4
    message_s: float = 2e-4
    message_token_s: float = 1e-6

    def run_s(self, block: str, first_tokens: int, num_decodes: int) -> float:
        """See ``Prices``."""
        return self.batch_s + self.token_s * (first_tokens + num_decodes)

    def hidden_s(self, source: int, target: int, num_tokens: int) -> float:
        """See ``Prices``."""
        return 0.0 if source == target else self.message_s + self.message_token_s * num_tokens

    def copy_s(self, block: str, source: int, target: int, num_tokens: int) -> float:
        """See ``Prices``; never the cheaper way."""
        return float("inf")

    def load_s(self, block: str) -> float:
        """See ``Prices``; weights are here and go through a pipe."""
        return 0.1


class ChainServer:
    """Agents with blocks. ``placed``: the names of the blocks of each agent.

    Use as a context manager: processes start on entry and end on exit.
    """

    def __init__(
        self,
        policy: ChainPolicy,
        blocks: Sequence[ServedBlock],
        apps: Mapping[str, Sequence[str]],
        placed: Sequence[Sequence[str]],
        *,
        equivalents: Mapping[str, tuple[str, ...]] | None = None,
        lose_after: Mapping[int, int] | None = None,
        evict_after: Mapping[int, tuple[int, str]] | None = None,
    ) -> None:
        """``lose_after``: after that many batches in all, kill an agent as it runs one;
        ``evict_after``: take a block off an agent. Both are for tests."""
        self._blocks = {block.name: block for block in blocks}
        self._apps = {app: tuple(chain) for app, chain in apps.items()}
        self._placed = [tuple(names) for names in placed]
        self._policy = policy
        self._equivalents = equivalents or {}
        self._lose_after = dict(lose_after or {})
        self._evict_after = dict(evict_after or {})
        self._pipes: list[Connection] = []
        self._processes: list[multiprocessing.process.BaseProcess] = []

    def books(self) -> ChainBooks:
        """Fresh books of this setting, as ``serve`` keeps them."""
        infos = [
            BlockInfo(name=b, weight_bytes=0.0, token_bytes=0.0,
                      equivalents=self._equivalents.get(b, ()))
            for b in self._blocks
        ]  # fmt: skip
        devices = [Device(i, i, float("inf"), set(names)) for i, names in enumerate(self._placed)]
        return ChainBooks(self._policy, infos, self._apps, devices, LinearPrices())

    def __enter__(self) -> "ChainServer":
        context = multiprocessing.get_context("spawn")
        self._place = tempfile.TemporaryDirectory(prefix="plimsoll-chains-")
        meeting = str(Path(self._place.name) / "meeting")
        for rank in range(len(self._placed)):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=agent_main, args=(rank, len(self._placed), meeting, theirs), daemon=True
            )
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        for rank, pipe in enumerate(self._pipes):
            said = pipe.recv() if pipe.poll(_START_S) else f"nothing for {_START_S:.0f} s"
            if said != "ready":
                self.__exit__()
                raise ExecutionError(f"agent {rank} did not start: {said}")
        for pipe, names in zip(self._pipes, self._placed, strict=True):
            for name in names:
                pipe.send(Load(pickle.dumps(self._blocks[name])))
        return self

    def __exit__(self, *_: object) -> None:
        for i, process in enumerate(self._processes):
            self._tell(i, None)
            process.join(timeout=5)
            if process.is_alive():
                process.kill()
                process.join(timeout=5)
        for pipe in self._pipes:
            pipe.close()
        self._place.cleanup()

    def serve(self, prompts: Sequence[Prompt]) -> Served:
        """All prompts at once, to their last token.

        Raises:
            ExecutionError: an agent failed, or none is left for a block.
        """
        return _Service(self, prompts).run()

    def _tell(self, device: int, message: object) -> None:
        """Send; what goes to a process that is gone is lost, as the news of it will say."""
        try:
            self._pipes[device].send(message)
        except (OSError, ValueError):
            return


class _Service:
    """One call of ``serve``."""

    def __init__(self, server: ChainServer, prompts: Sequence[Prompt]) -> None:
        self.server = server
        self.prompts = prompts
        self.books = server.books()
        self.books.log = []
        self.books.guesses.right = self._came_true
        self.guessed: dict[int, int] = {}
        self.checked: list[bool] = []
        self.texts = [list(prompt.tokens) for prompt in prompts]
        self.events: list[tuple[object, ...]] = []
        self.inputs: dict[int, tuple[int, int]] = {}
        self.sizes: dict[str, list[int]] = {}
        self.running: dict[int, Start] = {}
        self.batches = 0
        self.tags = itertools.count(1)
        self.started_s = time.monotonic()

    def run(self) -> Served:
        for i, prompt in enumerate(self.prompts):
            self._event("arrive", i, prompt.app, len(prompt.tokens), prompt.max_tokens)
        while self.books.live:
            self._listen()
        return Served(
            tokens=tuple(
                tuple(text[len(p.tokens) :])
                for text, p in zip(self.texts, self.prompts, strict=True)
            ),
            batch={name: n / count for name, (n, count) in self.sizes.items()},
            wall_s=time.monotonic() - self.started_s,
            resumed=sum(entry[0] == "resume" for entry in self.books.log or ()),
            guesses=len(self.checked),
            right_guesses=sum(self.checked),
            events=tuple(self.events),
            decisions=tuple(self.books.log or ()),
        )

    def _came_true(self, request: ChainRequest) -> bool:
        """Whether the token guessed is the one that the true block then named."""
        right = self.guessed[request.id] == self.texts[request.id][-1]
        self.checked.append(right)
        return right

    def _event(self, name: str, *what: object) -> None:
        """Tell the books what happened, keep it, carry out what follows."""
        now_s = time.monotonic() - self.started_s
        self.events.append((name, *what, now_s))
        tell: Callable[..., list[Send | Start]] = getattr(self.books, name)
        self._carry_out(tell(*what, now_s), now_s)

    def _carry_out(self, effects: list[Send | Start], now_s: float) -> None:
        while effects:
            came: list[Item] = []
            for effect in effects:
                if isinstance(effect, Start):
                    self._start(effect)
                    continue
                item, tag = effect.item, next(self.tags)
                if item.position and effect.source != effect.target:
                    self.inputs[id(item)] = effect.source, tag
                    self.server._tell(
                        effect.source,
                        Forward(
                            item.request.id, item.position - 1, item.start, item.num,
                            effect.target, tag,
                        ),
                    )  # fmt: skip
                came.append(item)
            effects = self.books.arrived(came, now_s) if came else []

    def _start(self, start: Start) -> None:
        parts = []
        for item in start.items:
            request = item.request
            source, tag = self.inputs.pop(id(item), (-1, 0))
            tokens = self.texts[request.id][item.start : item.start + item.num]
            if item.ahead and not item.position:
                tokens = [self.guessed[request.id]]
            parts.append(
                Part(
                    request.id, request.app, item.position, item.start, item.num,
                    self._width(item.block),
                    tuple(tokens) if not item.position else (), source, tag,
                )
            )  # fmt: skip
        self.running[start.device] = start
        self.server._tell(start.device, RunBlock(start.block, tuple(parts)))

    def _width(self, block: str) -> int:
        return self.server._blocks[block].layers[0][0].dims.hidden

    def _listen(self) -> None:
        """Handle what the agents said; deaths first."""
        server = self.server
        up = [d.index for d in self.books.devices if d.up]
        ready = wait([server._pipes[i] for i in up], timeout=_WAIT_S)
        if not ready or not up:
            raise ExecutionError(
                f"no agent said anything for {_WAIT_S:.0f} s; {len(self.books.live)} requests wait"
            )
        answers = []
        for i in up:
            if server._pipes[i] in ready:
                try:
                    answers.append((i, server._pipes[i].recv()))
                except (EOFError, OSError):
                    answers.append((i, None))
        if any(isinstance(answer, PeerLost) for _, answer in answers):
            time.sleep(0.05)  # the pipe of the one that is gone ends at about the same time
            gone = [i for i in up if not server._processes[i].is_alive()]
            answers += [(i, None) for i in gone if (i, None) not in answers]
        for i, answer in sorted(answers, key=lambda pair: pair[1] is not None):
            if answer is None:
                self.running.pop(i, None)
                self._event("lost", i)
            elif isinstance(answer, str):
                raise ExecutionError(f"agent {i}: {answer}")
            elif isinstance(answer, PeerLost):
                self.running.pop(i, None)
                self._event("failed", i)
            else:
                self._done(i, answer)
        homeless = [r for r in self.books.homeless if r.id in self.books.live]
        if homeless and len(homeless) == len(self.books.live):
            block = homeless[0].blocks[0]
            raise ExecutionError(
                f"{len(homeless)} requests wait for a block that no agent has, such as {block} or "
                "what follows it; place it again"
            )

    def _done(self, device: int, sampled: tuple[int, ...]) -> None:
        start = self.running.pop(device)
        for item, token in zip(start.items, sampled, strict=False):
            if not item.stale and item.ahead:
                self.guessed[item.request.id] = token
            elif not item.stale:
                self.texts[item.request.id].append(token)
        sizes = self.sizes.setdefault(start.block, [0, 0])
        sizes[0] += len(start.items)
        sizes[1] += 1
        ending = [i.request.id for i in start.items if i.request.id in self.books.live]
        self._event("done", device)
        for request in ending:
            if request not in self.books.live:
                for i in range(len(self.server._pipes)):
                    self.server._tell(i, Drop(request, -1))
        self.batches += 1
        for after, agent in list(self.server._lose_after.items()):
            if self.batches >= after and self.books.devices[agent].running:
                self.server._processes[agent].kill()
                del self.server._lose_after[after]
        if self.batches in self.server._evict_after:
            index, block = self.server._evict_after[self.batches]
            if self.books.devices[index].running_block != block:
                self._event("evict", index, block)
            else:
                self.server._evict_after[self.batches + 1] = index, block
