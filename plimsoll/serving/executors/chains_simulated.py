"""Chains of blocks on simulated devices: ``ChainBooks`` on a clock from ``cost``.

Batches take what the block clock says, adapters in a batch the reading of their weights. Hidden
states and copies cross the link of the two devices: inside a server each pair has its own, between
servers a server sends and receives one message after the other. Left out: the scheduler's own
time beyond ``launch_s`` of the clock and the latency of messages.
"""

import heapq
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from plimsoll.cost.block_clock import BlockClock
from plimsoll.serving.executors.chain_books import ChainBooks
from plimsoll.serving.executors.chain_requests import (
    BlockInfo,
    Device,
    Item,
    Send,
    Start,
)
from plimsoll.serving.routers.chains import ChainPolicy

__all__ = ["Asked", "ChainRun", "ChainSetting", "SimBlock", "run_chains"]

_TICK_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SimBlock:
    """A block on the simulated clock: ``num_layers``, and whether the model's ends are in it."""

    info: BlockInfo
    num_layers: int
    ends: bool
    adapter_bytes: Mapping[str, float] = field(default_factory=dict)
    """By application that brings an adapter for this block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainSetting:
    """Devices and links. ``near`` and ``far``: (seconds a message, bytes/s) inside a server and
    between servers; ``load_bytes_per_s`` brings weights onto a device; ``memory_bytes_per_s``
    reads adapters. ``hidden_bytes`` a token between blocks."""

    clock: BlockClock
    blocks: tuple[SimBlock, ...]
    apps: Mapping[str, tuple[str, ...]]
    servers: tuple[int, ...]
    memory_bytes: float
    placed: tuple[frozenset[str], ...]
    hidden_bytes: float
    near: tuple[float, float]
    far: tuple[float, float]
    load_bytes_per_s: float
    memory_bytes_per_s: float
    mean_context: float = 512.0
    guess_accuracy: float = 0.0
    """Share of a surrogate's guesses that come true."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request of the workload: application, arrival, lengths."""

    app: str
    arrival_s: float
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainRun:
    """What happened, a row a request. ``busy_s`` of all devices; ``batch`` mean requests of a
    batch by block; ``moved_bytes`` of hidden states and of keys and values between devices."""

    first_token_s: npt.NDArray[np.float64]
    end_s: npt.NDArray[np.float64]
    arrival_s: npt.NDArray[np.float64]
    busy_s: float
    makespan_s: float
    batch: Mapping[str, float]
    moved_bytes: tuple[float, float]
    substituted: int
    replicas: tuple[tuple[str, int], ...]
    guesses: int = 0
    log: tuple[tuple[object, ...], ...] = ()

    @property
    def e2e_s(self) -> npt.NDArray[np.float64]:
        """Arrival to last token."""
        return self.end_s - self.arrival_s


class SimPrices:
    """``Prices`` of a setting; a decode counts with the mean context."""

    def __init__(self, setting: ChainSetting) -> None:
        self._setting = setting
        self._blocks = {block.info.name: block for block in setting.blocks}
        self._memo: dict[tuple[str, int, int], float] = {}

    def run_s(self, block: str, first_tokens: int, num_decodes: int) -> float:
        """See ``Prices``; tokens in steps of 64."""
        key = (block, -(-first_tokens // 64), num_decodes)
        found = self._memo.get(key)
        if found is None:
            chunks = ((key[1] * 64, 0),) if first_tokens else ()
            context = int(num_decodes * self._setting.mean_context)
            what = self._blocks[block]
            found = self._memo[key] = self._setting.clock.run_s(
                what.num_layers, chunks, num_decodes, context, ends=what.ends
            )
        return found

    def _link(self, source: int, target: int) -> tuple[float, float]:
        servers = self._setting.servers
        same = source >= 0 and servers[source] == servers[target]
        return self._setting.near if same else self._setting.far

    def hidden_s(self, source: int, target: int, num_tokens: int) -> float:
        """See ``Prices``; token ids from the scheduler take a message."""
        if source == target:
            return 0.0
        latency_s, rate = self._link(source, target)
        return latency_s + (num_tokens * self._setting.hidden_bytes / rate if source >= 0 else 0.0)

    def copy_s(self, block: str, source: int, target: int, num_tokens: int) -> float:
        """See ``Prices``."""
        latency_s, rate = self._link(source, target)
        return latency_s + num_tokens * self._blocks[block].info.token_bytes / rate

    def load_s(self, block: str) -> float:
        """See ``Prices``."""
        return self._blocks[block].info.weight_bytes / self._setting.load_bytes_per_s


def run_chains(
    setting: ChainSetting,
    policy: ChainPolicy,
    asked: Sequence[Asked],
    *,
    replicate: bool = False,
    faults: Sequence[tuple[float, int]] = (),
    log: bool = False,
    seed: int = 0,
) -> ChainRun:
    """Serve a workload in order of arrival. ``faults``: (when, device) of devices that are lost;
    ``seed`` draws which guesses come true.

    Raises:
        SpecError: blocks, applications and devices do not fit together.
    """
    return _Run(setting, policy, asked, log, seed).run(replicate, faults)


class _Run:
    def __init__(
        self,
        setting: ChainSetting,
        policy: ChainPolicy,
        asked: Sequence[Asked],
        log: bool,
        seed: int,
    ) -> None:
        self.setting = setting
        self.asked = asked
        self.blocks = {block.info.name: block for block in setting.blocks}
        devices = [
            Device(i, server, setting.memory_bytes, set(held))
            for i, (server, held) in enumerate(zip(setting.servers, setting.placed, strict=True))
        ]
        self.prices = SimPrices(setting)
        self.books = ChainBooks(
            policy, [b.info for b in setting.blocks], setting.apps, devices, self.prices
        )
        if log:
            self.books.log = []
        draw = np.random.default_rng(seed)
        accuracy = setting.guess_accuracy
        self.books.guesses.right = lambda request: bool(draw.random() < accuracy)
        self._heap: list[tuple[float, int, str, object]] = []
        self._serial = itertools.count()
        self._out_s: dict[int, float] = {}
        self._in_s: dict[int, float] = {}
        self._batches: dict[int, int] = {}
        self.busy_s = 0.0
        self.guesses = 0
        self.hidden_bytes = self.kv_bytes = 0.0
        self.sizes: dict[str, list[int]] = {}
        self.replicas: list[tuple[str, int]] = []

    def run(self, replicate: bool, faults: Sequence[tuple[float, int]]) -> ChainRun:
        """Until every request has ended."""
        requests = {}
        for i, one in enumerate(self.asked):
            self._at(one.arrival_s, "arrive", i)
        for when_s, device in faults:
            self._at(when_s, "lost", device)
        if replicate:
            self._at(_TICK_S, "tick", None)
        books, left, now_s = self.books, len(self.asked), 0.0
        while self._heap:
            now_s, _, kind, what = heapq.heappop(self._heap)
            effects: list[Send | Start] = []
            if kind == "done":
                device, serial = what  # type: ignore[misc]
                if self._batches.get(device) == serial:
                    effects = books.done(device, now_s)
            elif kind == "arrived":
                effects = books.arrived(what, now_s)  # type: ignore[arg-type]
            elif kind == "arrive":
                assert isinstance(what, int)
                one = self.asked[what]
                effects = books.arrive(what, one.app, one.prompt_tokens, one.output_tokens, now_s)
                requests[what] = books.live[what]
            elif kind == "lost":
                assert isinstance(what, int)
                self._batches.pop(what, None)
                effects = books.lost(what, now_s)
            elif kind == "placed":
                block, device = what  # type: ignore[misc]
                effects = books.place(device, block, now_s)
            elif kind == "tick":
                found = books.overload(now_s)
                if found is not None:
                    self.replicas.append(found)
                    self._at(now_s + self.prices.load_s(found[0]), "placed", found)
                if books.live or len(requests) < left:
                    self._at(now_s + _TICK_S, "tick", None)
            self._carry_out(effects, now_s)
        order = [requests[i] for i in range(left)]
        return ChainRun(
            first_token_s=np.array([r.first_token_s for r in order]),
            end_s=np.array([r.end_s for r in order]),
            arrival_s=np.array([r.arrival_s for r in order]),
            busy_s=self.busy_s,
            makespan_s=max((r.end_s for r in order), default=0.0),
            batch={name: n / count for name, (n, count) in self.sizes.items()},
            moved_bytes=(self.hidden_bytes, self.kv_bytes),
            substituted=sum(r.substituted for r in order),
            replicas=tuple(self.replicas),
            guesses=self.guesses,
            log=tuple(books.log or ()),
        )

    def _at(self, when_s: float, kind: str, what: object) -> None:
        heapq.heappush(self._heap, (when_s, next(self._serial), kind, what))

    def _carry_out(self, effects: list[Send | Start], now_s: float) -> None:
        """Start batches, send inputs; what goes one way at one moment is one message."""
        messages: dict[tuple[int, int, int], list[Item]] = {}
        for effect in effects:
            if isinstance(effect, Start):
                self._start(effect, now_s)
            else:
                key = (effect.source, effect.target, effect.copy_from)
                messages.setdefault(key, []).append(effect.item)
        for (source, target, copy_from), items in messages.items():
            self._at(self._cross(source, target, copy_from, items, now_s), "arrived", items)

    def _start(self, start: Start, now_s: float) -> None:
        what = self.blocks[start.block]
        self.guesses += sum(item.ahead.startswith("guess:") for item in start.items)
        chunks = [(item.num, item.start) for item in start.items if item.num > 1]
        decodes = [item.start + 1 for item in start.items if item.num == 1]
        run_s = self.setting.clock.run_s(
            what.num_layers, chunks, len(decodes), sum(decodes), ends=what.ends
        )
        if what.adapter_bytes:
            apps = {item.request.app for item in start.items}
            read = sum(what.adapter_bytes.get(app, 0.0) for app in apps)
            run_s += read / self.setting.memory_bytes_per_s
        self.busy_s += run_s
        sizes = self.sizes.setdefault(start.block, [0, 0])
        sizes[0] += len(start.items)
        sizes[1] += 1
        serial = next(self._serial)
        self._batches[start.device] = serial
        self._at(now_s + run_s, "done", (start.device, serial))

    def _cross(
        self, source: int, target: int, copy_from: int, items: list[Item], now_s: float
    ) -> float:
        """When hidden states and copies of these items are at the target."""
        setting = self.setting
        at_s = now_s
        if source != target:
            size = sum(item.num for item in items) * setting.hidden_bytes if source >= 0 else 0.0
            self.hidden_bytes += size
            at_s = self._wire(source, target, size, now_s)
        if copy_from >= 0:
            size = sum(item.start * self.blocks[item.block].info.token_bytes for item in items)
            self.kv_bytes += size
            at_s = max(at_s, self._wire(copy_from, target, size, now_s))
        return at_s

    def _wire(self, source: int, target: int, size: float, now_s: float) -> float:
        servers = self.setting.servers
        if source < 0:
            return now_s + self.setting.far[0]
        if servers[source] == servers[target]:
            latency_s, rate = self.setting.near
            return now_s + latency_s + size / rate
        latency_s, rate = self.setting.far
        start_s = max(
            now_s, self._out_s.get(servers[source], 0.0), self._in_s.get(servers[target], 0.0)
        )
        end_s = start_s + size / rate
        self._out_s[servers[source]] = self._in_s[servers[target]] = end_s
        return end_s + latency_s
