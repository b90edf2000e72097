"""The books of chains: what is held where, what is lost, who waits, and bad settings."""

from typing import Any

import pytest

from plimsoll.serving.executors.chain_books import ChainBooks
from plimsoll.serving.executors.chain_requests import BlockInfo, Device, Item, Send, Start
from plimsoll.serving.routers.chains import ChainPolicy
from plimsoll.spec.errors import ExecutionError, SpecError


class Prices:
    """A second a batch; the rest as given."""

    def __init__(self, copy_s: float = 0.1) -> None:
        self._copy_s = copy_s

    def run_s(self, block: str, first_tokens: int, num_decodes: int) -> float:
        return 1.0

    def hidden_s(self, source: int, target: int, num_tokens: int) -> float:
        return 0.0 if source == target else 0.01

    def copy_s(self, block: str, source: int, target: int, num_tokens: int) -> float:
        return self._copy_s

    def load_s(self, block: str) -> float:
        return 0.1


def books(
    placed: list[set[str]],
    *,
    memory_bytes: float = 1000.0,
    equivalents: tuple[str, ...] = (),
    copy_s: float = 0.1,
    **policy: Any,
) -> ChainBooks:
    infos = [
        BlockInfo(
            name=name,
            weight_bytes=10.0,
            token_bytes=1.0,
            equivalents=equivalents if name == "high" else (),
        )
        for name in ("low", "high", "twin")
    ]
    devices = [Device(i, i, memory_bytes, set(held)) for i, held in enumerate(placed)]
    made = ChainBooks(
        ChainPolicy(**policy), infos, {"app": ("low", "high")}, devices, Prices(copy_s)
    )
    made.log = []
    return made


class Run:
    """Carries out what the books say, one batch after the other."""

    def __init__(self, made: ChainBooks) -> None:
        self.books = made
        self.now_s = 0.0
        self.running: list[Start] = []
        self.items: list[Item] = []

    def take(self, effects: list[Send | Start]) -> None:
        while effects:
            sent = [e.item for e in effects if isinstance(e, Send)]
            self.items += sent
            self.running += [e for e in effects if isinstance(e, Start)]
            effects = self.books.arrived(sent, self.now_s) if sent else []

    def arrive(self, request: int, prompt: int = 5, output: int = 3) -> None:
        self.take(self.books.arrive(request, "app", prompt, output, self.now_s))

    def step(self) -> Start:
        """End the oldest batch."""
        start = self.running.pop(0)
        self.now_s += 1.0
        if self.books.devices[start.device].running:
            self.take(self.books.done(start.device, self.now_s))
        return start

    def finish(self) -> list[Start]:
        found = []
        while self.running:
            found.append(self.step())
        return found


def test_a_request_passes_its_chain_once_a_token_and_leaves_nothing() -> None:
    run = Run(books([{"low"}, {"high"}]))
    run.arrive(0)
    steps = run.finish()
    assert [s.block for s in steps] == ["low", "high"] * 3
    assert [(i.start, i.num) for s in steps for i in s.items][::2] == [(0, 5), (5, 1), (6, 1)]
    assert not run.books.live
    assert [d.used_bytes for d in run.books.devices] == [10.0, 10.0]
    assert all(not any(d.residents.values()) for d in run.books.devices)


def test_a_lost_device_costs_only_what_it_held() -> None:
    """The block before still has its outputs: the next one is computed again from them."""
    run = Run(books([{"low"}, {"high"}, {"high"}]))
    run.arrive(0)
    for _ in range(3):
        run.step()
    assert run.running[0].block == "high"
    lost = run.running.pop().device
    run.take(run.books.lost(lost, run.now_s))
    steps = run.finish()
    assert (steps[0].block, steps[0].items[0].start, steps[0].items[0].num) == ("high", 0, 6)
    assert steps[0].device != lost
    assert [s.block for s in steps] == ["high", "low", "high"], "nothing of low again"
    assert ("resume", 0, 1) in (run.books.log or [])


def test_a_lost_first_block_sends_requests_back_to_their_tokens() -> None:
    run = Run(books([{"low"}, {"high"}, {"low"}]))
    run.arrive(0)
    run.step()
    first = [d for d in run.books.log or [] if d[0] == "send"][0][4]
    run.running.clear()
    assert isinstance(first, int)
    run.books.devices[1].running = []
    run.take(run.books.lost(first, run.now_s))
    steps = run.finish()
    assert (steps[0].block, steps[0].items[0].num) == ("low", 5)
    assert not run.books.live


def test_what_waits_for_an_evicted_block_is_placed_elsewhere() -> None:
    run = Run(books([{"low", "high"}, {"high"}], patience_s=0.0))
    run.arrive(0)
    run.arrive(1)
    run.step()
    device = run.books.devices[0]
    assert device.running_block == "low" and len(device.queues["high"]) == 1
    with pytest.raises(ExecutionError, match="block low runs on device 0; evict it later"):
        run.books.evict(0, "low", run.now_s)
    with pytest.raises(ExecutionError, match="device 1 does not have block low"):
        run.books.evict(1, "low", run.now_s)
    run.take(run.books.evict(0, "high", run.now_s))
    assert ("resume", 0, 1) in (run.books.log or [])
    steps = run.finish()
    assert {s.device for s in steps if s.block == "high"} == {1}
    assert not run.books.live and not device.queues.get("high")


def test_requests_wait_for_a_block_that_nobody_has_and_go_on_when_it_is_there() -> None:
    run = Run(books([{"low"}, {"high"}]))
    run.arrive(0)
    run.take(run.books.evict(1, "high", run.now_s))
    run.finish()
    assert len(run.books.homeless) == 1 and 0 in run.books.live
    run.take(run.books.place(0, "high", run.now_s))
    run.finish()
    assert not run.books.live and not run.books.homeless


def test_memory_is_never_overdrawn_and_nobody_starves() -> None:
    run = Run(books([{"low", "high"}], memory_bytes=60.0))
    for request in range(6):
        run.arrive(request, prompt=8, output=4)
    while run.running:
        run.step()
        device = run.books.devices[0]
        held = sum(sum(r.held) for r in run.books.live.values())
        assert device.used_bytes == 20.0 + held
    assert not run.books.live


def test_once_substituted_a_request_stays_with_its_substitute() -> None:
    run = Run(books([{"low"}, {"high"}, {"twin"}], equivalents=("twin",)))
    run.arrive(0)
    run.step()
    run.books.devices[1].until_s = 60.0
    run.arrive(1, output=4)
    run.running.reverse()
    steps = [run.step(), *run.finish()]
    blocks = {r: [s.block for s in steps for i in s.items if i.request.id == r] for r in (0, 1)}
    assert set(blocks[0]) == {"low", "high"}
    assert blocks[1] == ["low", "twin"] * 4
    never = Run(books([{"low"}, {"high"}, {"twin"}], equivalents=("twin",), substitute=False))
    never.arrive(0)
    never.arrive(1)
    assert {s.block for s in never.finish()} == {"low", "high"}


@pytest.mark.parametrize(("copy_s", "copies"), [(0.1, True), (9.0, False)])
def test_who_leaves_the_owner_copies_or_computes_again(copy_s: float, copies: bool) -> None:
    """Whichever is cheaper; the old place is free of it afterwards."""
    run = Run(books([{"low"}, {"high"}, {"high"}], copy_s=copy_s, margin_s=0.5))
    run.arrive(0)
    while not (run.running and run.running[0].block == "low" and run.running[0].items[0].start):
        run.step()
    request = run.books.live[0]
    owner = run.books.devices[request.where[1]]
    other = Item(request, request.epoch - 1, 1, 0, 1)
    owner.running, owner.running_block, owner.until_s = [other], "high", run.now_s + 60
    run.step()
    (high,) = [s for s in run.running if s.block == "high"]
    assert high.device == 3 - owner.index
    assert high.items[0].start == (5 if copies else 0)
    assert request.where[1] == (high.device if copies else -1)
    assert owner.residents["high"] == 0


def test_bad_settings_are_named() -> None:
    with pytest.raises(SpecError, match="application app: no device has its block high; place it"):
        books([{"low"}])
    with pytest.raises(SpecError, match="device 0: unknown block 'hihg'. Did you mean high"):
        books([{"low", "hihg"}, {"high"}])
    with pytest.raises(SpecError, match="device 0: its blocks take 0.0 GB of 0.0 GB; place fewer"):
        books([{"low", "high"}], memory_bytes=15.0)
    with pytest.raises(SpecError, match="request 7: unknown application 'map'; known are app"):
        books([{"low", "high"}]).arrive(7, "map", 5, 3, 0.0)
