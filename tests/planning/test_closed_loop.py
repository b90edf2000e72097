"""The closed form of a closed loop against the simulator, and its limits."""

import math
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest

from plimsoll.cost.clock import LinearClock, StepClock
from plimsoll.cost.step import replica_clock
from plimsoll.planning.closed_loop import (
    Admission,
    LoopLoad,
    LoopPieces,
    LoopTimes,
    aggregated_pieces,
    aggregated_times,
    decode_step_s,
    disaggregated_times,
    prompt_alone_s,
    shared_prompt_s,
)
from plimsoll.serving.executors.simulated import InstanceSpec, SimulatedExecutor
from plimsoll.serving.policies import ChunkedPrefillPolicy
from plimsoll.serving.routers import DisaggPolicy, LeastWorkPolicy
from plimsoll.spec.fleet import load_device
from plimsoll.spec.model_files import load_model
from plimsoll.spec.plan import Parallel
from plimsoll.spec.record import RunRecord
from plimsoll.spec.workload import Workload

REPLICAS = (
    ("llama-3.1-8b", "h100-sxm", Parallel()),
    ("llama-3.1-8b", "l40s", Parallel(tp=2)),
    ("llama-3.1-70b", "h100-sxm", Parallel(tp=4)),
    ("llama-3.1-70b-fp8", "h200-sxm", Parallel(tp=8)),
    ("qwen3-32b-fp8", "h200-sxm", Parallel()),
    ("qwen3-30b-a3b", "a100-sxm-80", Parallel(tp=2)),
    ("gpt-oss-120b", "b200-sxm", Parallel()),
    ("mixtral-8x7b", "h100-sxm", Parallel(tp=4)),
)
LINES = (
    LinearClock(step_base_s=0.008, token_s=3e-5, square_s=5e-10, decode_s=5e-5, context_s=1e-8),
    LinearClock(step_base_s=0.02, token_s=1e-4, square_s=2e-9, decode_s=2e-4, context_s=5e-8),
)
SHORTEST = 0.8
SPREAD = (1.0 - SHORTEST) / ((1.0 + SHORTEST) / 2)
BLOCK = 16
RESERVE = 0.6
"""Share of its output that a request's cache must hold to count as held (vLLM's profile)."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One closed loop; ``bound``: what holds ``running`` below ``in_flight``."""

    seed: int
    clock: StepClock
    in_flight: int
    running: int
    bound: str
    prompt: int
    output: int
    drawn: bool
    rounds: int
    budget: int
    prefill_workers: int = 1
    decode_workers: int = 1

    @property
    def workload(self) -> Workload:
        rng = np.random.default_rng(self.seed)
        n = self.in_flight * self.rounds

        def lengths(stated: int) -> np.ndarray:
            shortest = math.ceil(SHORTEST * stated) if self.drawn else stated
            return rng.integers(shortest, stated + 1, n)

        return Workload(
            name="closed loop",
            arrival_s=np.zeros(n),
            prompt_tokens=lengths(self.prompt),
            output_tokens=lengths(self.output),
            num_in_flight=self.in_flight,
        )

    @property
    def load(self) -> LoopLoad:
        mean = (1.0 + SHORTEST) / 2 if self.drawn else 1.0
        return LoopLoad(
            in_flight=float(self.in_flight),
            prompt_tokens=mean * self.prompt,
            output_tokens=mean * self.output,
            spread=SPREAD if self.drawn else 0.0,
            rounds=float(self.rounds),
        )


@cache
def clock(index: int) -> StepClock:
    if index < 0:
        return LINES[-1 - index]
    model, device, parallel = REPLICAS[index]
    return replica_clock(load_model(model), load_device(device), parallel)


def draw(seed: int, count: int) -> list[Cell]:
    """Random cells: about 11 % of them bounded by places, 4 % by the cache."""
    rng = np.random.default_rng(seed)

    def log_uniform(low: float, high: float) -> int:
        return round(math.exp(rng.uniform(math.log(low), math.log(high))))

    cells = []
    for index in range(count):
        line = rng.random() < 0.15
        which = -1 - int(rng.integers(len(LINES))) if line else int(rng.integers(len(REPLICAS)))
        in_flight = log_uniform(1, 256)
        kind, part = rng.random(), rng.uniform(0.4, 0.95)
        bound = "places" if kind < 0.15 else "cache" if kind < 0.21 else ""
        held = max(1, int(part * in_flight)) if bound and in_flight >= 4 else in_flight
        cells.append(
            Cell(
                seed=seed + index,
                clock=clock(which),
                in_flight=in_flight,
                running=held,
                bound=bound if held < in_flight else "",
                prompt=log_uniform(128, 8192),
                output=log_uniform(64, 2048),
                drawn=bool(rng.random() < 0.6),
                rounds=int(rng.integers(3, 11)),
                budget=int(rng.choice([2048, 8192, 16384])),
                prefill_workers=int(rng.integers(1, 5)),
                decode_workers=int(rng.integers(1, 3)),
            )
        )
    return cells


def blocks(tokens: float) -> int:
    return -(-math.ceil(tokens) // BLOCK)


def simulate(cell: Cell, num_blocks: int = 1 << 30, late_s: float = 0.0) -> RunRecord:
    """On one replica that runs both; the cache of a cell bound by it holds whole requests."""
    if cell.bound == "cache":
        num_blocks = cell.running * (blocks(cell.prompt + cell.output) + 1)
    spec = InstanceSpec(
        clock=cell.clock,
        policy=ChunkedPrefillPolicy(token_budget=cell.budget),
        num_blocks=num_blocks,
        block_tokens=BLOCK,
        max_num_seqs=cell.running if cell.bound else 256,
    )
    executor = SimulatedExecutor([spec], LeastWorkPolicy(), reach_s=lambda _: late_s)
    record = executor.run(cell.workload)
    assert record.requests.ok.all()
    return record


def simulate_apart(cell: Cell) -> RunRecord:
    """On workers of both kinds; handing over takes no time."""

    def worker(role):
        return InstanceSpec(
            role=role,
            clock=cell.clock,
            policy=ChunkedPrefillPolicy(token_budget=cell.budget),
            num_blocks=1 << 30,
        )

    workers = [worker("prefill")] * cell.prefill_workers + [worker("decode")] * cell.decode_workers
    executor = SimulatedExecutor(workers, DisaggPolicy(), transfer_s=lambda *_: 0.0)
    record = executor.run(cell.workload)
    assert record.requests.ok.all()
    return record


def means(record: RunRecord) -> LoopTimes:
    return LoopTimes(float(np.mean(record.requests.tpot_s)), float(np.mean(record.requests.ttft_s)))


def closed_form(cell: Cell, **changes: float) -> LoopTimes:
    load = cell.load._replace(**changes)
    pieces = aggregated_pieces(cell.clock, load, running=cell.running, budget=cell.budget)
    return aggregated_times(load, pieces, Admission(), xp=np)


def closed_form_apart(cell: Cell) -> LoopTimes:
    """As a deployment is solved: decode runs as many requests as prefill supplies."""
    load, context = cell.load, cell.load.prompt_tokens + cell.load.output_tokens / 2
    prompt, most = round(load.prompt_tokens), max(1, round(cell.in_flight / cell.decode_workers))
    shared_s = shared_prompt_s(
        cell.clock, prompt, cell.budget, most=max(1, cell.in_flight // cell.prefill_workers)
    )
    shared_s /= cell.prefill_workers

    def token_s(running: int) -> float:
        return decode_step_s(cell.clock, running, context)

    def supplied(running: int) -> bool:
        rate_per_s = running * cell.decode_workers / (load.output_tokens * token_s(running))
        return running == 1 or rate_per_s * shared_s <= 1.0

    running = next(count for count in range(most, 0, -1) if supplied(count))
    pieces = LoopPieces(
        token_s=token_s(running),
        step_s=token_s(running),
        prompt_s=0.0,
        shared_prompt_s=shared_s,
        alone_s=prompt_alone_s(cell.clock, prompt, cell.budget),
        running=float(cell.in_flight),
        budget=float(cell.budget),
        workers=float(cell.prefill_workers),
    )
    return disaggregated_times(load, pieces, Admission(), xp=np)


def errors(found: list[LoopTimes], true: list[LoopTimes]) -> tuple[np.ndarray, np.ndarray]:
    """Relative errors of TPOT and TTFT."""
    ratio = np.array(found, dtype=float) / np.array(true, dtype=float) - 1.0
    return ratio[:, 0], ratio[:, 1]


@pytest.fixture(scope="module")
def agreement() -> tuple[list[Cell], np.ndarray, np.ndarray]:
    cells = draw(2026, 200)
    true = [means(simulate(cell)) for cell in cells]
    return cells, *errors([closed_form(cell) for cell in cells], true)


def within(values: np.ndarray, bound: float) -> float:
    return float(np.mean(abs(values) < bound))


def test_agrees_with_the_simulator_on_200_random_cells(agreement):
    """Found: TPOT 0.2 % (median), 1.1 % (P90), 5.1 % (most); TTFT 1.3 %, 4.7 %, 17 %."""
    _, tpot, ttft = agreement
    assert within(tpot, 0.05) >= 0.99 and within(ttft, 0.10) >= 0.98
    assert within(tpot, 0.08) == 1.0 and within(ttft, 0.20) == 1.0
    assert np.median(abs(tpot)) < 0.005 and np.median(abs(ttft)) < 0.02
    assert abs(np.mean(tpot)) < 0.005 and abs(np.mean(ttft)) < 0.01


@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize("bounded", [False, True])
def test_agrees_in_every_kind_of_cell(agreement, drawn, bounded):
    cells, tpot, ttft = agreement
    kind = np.array([c.drawn == drawn and bool(c.bound) == bounded for c in cells])
    assert kind.sum() >= 5
    assert within(tpot[kind], 0.05) >= 0.8 and within(ttft[kind], 0.10) >= 0.8


def test_agrees_where_prompts_fill_every_step():
    """More prompts than the budget takes: what is in flight then decides the queue only."""
    cells = [
        Cell(
            seed=seed,
            clock=clock(seed % len(REPLICAS)),
            in_flight=96,
            running=96,
            bound="",
            prompt=4096,
            output=output,
            drawn=bool(seed % 2),
            rounds=6,
            budget=2048,
        )
        for seed, output in enumerate((64, 96, 128, 160))
    ]
    true = [simulate(cell) for cell in cells]
    assert all(np.mean(run.steps.num_decodes) < 0.9 * 96 for run in true)
    tpot, ttft = errors([closed_form(cell) for cell in cells], [means(run) for run in true])
    assert abs(tpot).max() < 0.05 and abs(ttft).max() < 0.10


def test_littles_law_holds_for_the_simulators_rate(agreement):
    """N = rate * (TTFT + output * TPOT), but for the last round, in which places fall empty."""
    cells, _, _ = agreement
    for cell in [c for c in cells if c.rounds >= 8][:20]:
        run, found = simulate(cell), closed_form(cell)
        rate_per_s = len(run.requests) / run.end_s
        stay_s = found.ttft_s + (cell.load.output_tokens - 1) * found.tpot_s
        in_flight = rate_per_s * stay_s
        assert 0.9 * cell.in_flight < in_flight < 1.03 * cell.in_flight


def test_a_cache_that_preempts_moves_waits_into_tpot():
    """Preemption is left out: TPOT comes out low, but the whole stay follows Little's law."""
    tpot, stay, preempted = [], [], []
    for cell in [c for c in draw(7, 150) if c.bound]:
        tokens = cell.load.prompt_tokens + RESERVE * cell.load.output_tokens
        held = max(cell.running * blocks(tokens), blocks(cell.prompt + cell.output) + 2)
        free = replace(cell, bound="")
        run = simulate(free, num_blocks=held)
        true, found = means(run), closed_form(cell)
        steps = cell.load.output_tokens - 1
        tpot.append(found.tpot_s / true.tpot_s - 1)
        stay.append((found.ttft_s + steps * found.tpot_s) / (true.ttft_s + steps * true.tpot_s) - 1)
        preempted.append(run.requests.preemptions.sum() > 0)
    assert len(tpot) >= 15 and np.mean(preempted) > 0.8
    assert np.median(abs(np.array(stay))) < 0.1
    assert np.median(tpot) < -0.03 and max(tpot) < 0.06


def test_agrees_on_30_random_cells_with_prefill_apart():
    """Over 300: TPOT 0.4 % (median), 3 % (P90); TTFT 4 %, 19 %: equal lengths come in groups."""
    cells = draw(11, 30)
    true = [means(simulate_apart(cell)) for cell in cells]
    tpot, ttft = errors([closed_form_apart(cell) for cell in cells], true)
    assert within(tpot, 0.10) >= 0.95 and within(ttft, 0.20) >= 0.85
    assert np.median(abs(tpot)) < 0.02 and np.median(abs(ttft)) < 0.08


def loop(in_flight: int, **changes: object) -> Cell:
    base = {
        "seed": 1,
        "clock": LINES[0],
        "in_flight": in_flight,
        "running": in_flight,
        "bound": "",
        "prompt": 1000,
        "output": 400,
        "drawn": True,
        "rounds": 10,
        "budget": 8192,
    }
    return Cell(**base | changes)


@pytest.mark.parametrize("budget", [2048, 8192])
@pytest.mark.parametrize("index", [-1, 0, 5])
def test_more_in_flight_is_slower(index, budget):
    counts = (1, 2, 3, 5, 8, 16, 32, 64, 128, 256, 512)
    times = [closed_form(loop(n, clock=clock(index), budget=budget)) for n in counts]
    tpot, ttft = np.array(times, dtype=float).T
    assert np.all(np.diff(tpot) > 0) and np.all(np.diff(ttft) > 0)


@pytest.mark.parametrize("budget", [512, 2048])
def test_one_request_in_flight_has_the_replica_to_itself(budget):
    cell = loop(1, budget=budget, drawn=False)
    found = closed_form(cell)
    assert found.ttft_s == pytest.approx(prompt_alone_s(LINES[0], 1000, budget), rel=1e-4)
    assert found.tpot_s == pytest.approx(decode_step_s(LINES[0], 1, 1200.0))
    true = means(simulate(cell))
    assert (found.tpot_s, found.ttft_s) == pytest.approx((true.tpot_s, true.ttft_s), rel=1e-3)


def test_many_rounds_forget_the_burst():
    """Prompts come evenly over the cycle then; each place's is met but while one's own waits."""
    cell = loop(32)
    long, longer = closed_form(cell, rounds=1e5), closed_form(cell, rounds=1e7)
    assert longer == pytest.approx(long, rel=1e-2)
    assert longer.ttft_s < closed_form(cell).ttft_s
    line, load = LINES[0], cell.load
    waiting = 32 * 2 / (load.output_tokens + 1)
    decoding = 32 - waiting
    plain_s = line.step_base_s + decoding * (line.decode_s + line.context_s * 1080)
    prompt_s = line.token_s * 900 + line.square_s * 900**2
    met = 31 * (load.output_tokens - 1) / (load.output_tokens + 1)
    expected_s = plain_s + met * prompt_s / (load.output_tokens - 1)
    assert longer.tpot_s == pytest.approx(expected_s, rel=0.01)


def test_clients_apart_break_groups_up():
    """Equal lengths end together; clients that are late by different times do not come together."""
    cell = loop(64, drawn=False)
    together, apart = closed_form(cell), closed_form(cell, apart_steps=1.5)
    assert apart.ttft_s < 0.8 * together.ttft_s
    assert apart.tpot_s > together.tpot_s


@pytest.mark.parametrize("late_s", [0.01, 0.05])
def test_agrees_where_requests_take_time_to_reach_the_scheduler(late_s):
    """Their places are empty meanwhile. Of equal lengths whole groups do not wait half a step."""
    cells = [cell for cell in draw(99, 150) if cell.drawn and not cell.bound]
    found = []
    for cell in cells:
        context = cell.load.prompt_tokens + cell.load.output_tokens / 2
        late_steps = late_s / decode_step_s(cell.clock, cell.running, context)
        load = cell.load._replace(late_steps=late_steps)
        pieces = aggregated_pieces(cell.clock, load, running=cell.running, budget=cell.budget)
        found.append(aggregated_times(load, pieces, Admission(fixed_s=late_s), xp=np))
    true = [means(simulate(cell, late_s=late_s)) for cell in cells]
    tpot, ttft = errors(found, true)
    assert within(tpot, 0.05) >= 0.98 and np.median(abs(tpot)) < 0.005
    assert within(ttft, 0.15) >= 0.9 and np.median(abs(ttft)) < 0.04


def test_passing_requests_on_adds_to_the_first_token_only():
    cell = loop(16)
    pieces = aggregated_pieces(cell.clock, cell.load, running=16, budget=cell.budget)
    at_once = aggregated_times(cell.load, pieces, Admission(), xp=np)
    late = aggregated_times(cell.load, pieces, Admission(fixed_s=0.1), xp=np)
    steps = aggregated_times(cell.load, pieces, Admission(steps=2.0), xp=np)
    assert late.tpot_s == at_once.tpot_s
    assert 0.08 < late.ttft_s - at_once.ttft_s <= 0.1
    assert steps.ttft_s - at_once.ttft_s > 1.7 * pieces.step_s


def test_arrays_and_tensors_give_the_same_times_linear_in_the_seconds():
    torch = pytest.importorskip("torch")
    cells = draw(5, 12)
    loads = [cell.load for cell in cells]
    pieces = [aggregated_pieces(c.clock, c.load, running=c.running, budget=c.budget) for c in cells]
    one_by_one = np.array([closed_form(cell) for cell in cells], dtype=float).T

    def columns(rows, make):
        return type(rows[0])(
            *(make(np.array(column, dtype=float)) for column in zip(*rows, strict=True))
        )

    arrays = aggregated_times(
        columns(loads, np.asarray), columns(pieces, np.asarray), Admission(), xp=np
    )
    assert np.allclose(arrays, one_by_one, rtol=1e-12)
    held = columns(pieces, torch.tensor)
    fixed_s = torch.full((len(cells),), 0.01, dtype=torch.float64)
    seconds = [name for name in LoopPieces._fields if name.endswith("_s")]
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    scaled = held._replace(**{name: getattr(held, name) * scale for name in seconds})
    found = aggregated_times(
        columns(loads, torch.tensor), scaled, Admission(fixed_s=fixed_s * scale), xp=torch
    )
    total_s = found.tpot_s.sum() + found.ttft_s.sum()
    slope = torch.autograd.grad(total_s, scale)[0]
    assert float(slope) == pytest.approx(float(total_s.detach()))
    assert np.allclose(found.tpot_s.detach(), one_by_one[0], rtol=1e-12)
