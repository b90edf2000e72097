"""How much of the prompts a cache saves: the trace's own arithmetic, and turns of a session."""

import json
from pathlib import Path

import numpy as np
import pytest

from plimsoll.cost.clock import LinearClock
from plimsoll.serving.executors.simulated import InstanceSpec, SimulatedExecutor
from plimsoll.serving.policies import POLICIES as KINDS
from plimsoll.serving.policies import ChunkedPrefillPolicy, PrefillFirstPolicy
from plimsoll.serving.routers import PrefixAffinePolicy, RoundRobinPolicy
from plimsoll.spec.workload import Workload

TRACE = Path(__file__).parents[2] / "../shared/data/traces/mooncake_conversation.jsonl"
CLOCK = LinearClock(step_base_s=1e-3, token_s=1e-7)
ROWS = 2000


def trace():
    """Prompt lengths and block hashes of a real trace, or of a made one where it is not here."""
    if TRACE.exists():
        with TRACE.open() as file:
            rows = [json.loads(line) for line, _ in zip(file, range(ROWS), strict=False)]
        return [(row["input_length"], row["hash_ids"]) for row in rows]
    rng = np.random.default_rng(0)
    made = []
    for i in range(ROWS):
        blocks = int(rng.integers(1, 30))
        split = int(rng.integers(0, blocks + 1))
        root = int(rng.integers(0, 50))
        keys = [root * 100 + d if d < split else 10**6 + i * 100 + d for d in range(blocks)]
        made.append((blocks * 512 - int(rng.integers(0, 512)), keys))
    return made


def one_by_one(rows, outputs=1, gap_s=10.0):
    return Workload(
        name="reuse",
        arrival_s=np.arange(len(rows)) * gap_s,
        prompt_tokens=np.array([prompt for prompt, _ in rows]),
        output_tokens=np.full(len(rows), outputs),
        prefix_keys=np.array([key for _, keys in rows for key in keys], dtype=np.int64),
        prefix_start=np.cumsum([0, *(len(keys) for _, keys in rows)]),
        prefix_block_tokens=512,
    )


def replay(rows, most_units=None):
    """Cached tokens of each prompt with a cache of so many units, dropped least recently used."""
    found, clock, cached = {}, 0, []
    for prompt, keys in rows:
        hit = 0
        while hit < min(len(keys), (prompt - 1) // 512) and keys[hit] in found:
            hit += 1
        cached.append(hit * 512)
        full = keys[: prompt // 512]
        for key in reversed(full):
            clock += 1
            found[key] = clock
        if most_units is not None:
            for key in sorted(found, key=found.__getitem__)[: max(0, len(found) - most_units)]:
                del found[key]
    return np.array(cached)


@pytest.mark.parametrize("kind", ["chunked-prefill", "orca", "prefill-first", "splitfuse"])
def test_the_hit_fraction_of_a_trace_is_that_of_an_offline_replay(kind):
    rows = trace()
    policy = KINDS[kind](8192) if kind == "splitfuse" else KINDS[kind]()
    spec = InstanceSpec(policy=policy, clock=CLOCK, num_blocks=10**7, max_num_seqs=4)
    record = SimulatedExecutor([spec], RoundRobinPolicy()).run(one_by_one(rows))
    expected = replay(rows)
    assert np.array_equal(record.requests.cached_tokens, expected)
    fraction = expected.sum() / sum(prompt for prompt, _ in rows)
    assert 0.05 < fraction < 0.9, "the trace does reuse prefixes"
    assert record.steps.prefill_tokens.sum() == sum(p for p, _ in rows) - expected.sum()


def test_caching_switched_off_computes_every_token():
    rows = trace()[:200]
    spec = InstanceSpec(
        policy=PrefillFirstPolicy(), clock=CLOCK, num_blocks=10**6, prefix_caching=False
    )
    record = SimulatedExecutor([spec], RoundRobinPolicy()).run(one_by_one(rows))
    assert not record.requests.cached_tokens.any()
    assert record.steps.prefill_tokens.sum() == sum(prompt for prompt, _ in rows)


def test_a_small_cache_hits_less_and_a_larger_one_more():
    rows = [row for row in trace() if row[0] < 40_000][:800]
    fractions = []
    for num_blocks in (3_000, 20_000, 200_000, 10**7):
        spec = InstanceSpec(policy=PrefillFirstPolicy(), clock=CLOCK, num_blocks=num_blocks)
        record = SimulatedExecutor([spec], RoundRobinPolicy(), check_books=True).run(
            one_by_one(rows)
        )
        fractions.append(record.requests.cached_tokens.sum())
    assert fractions == sorted(fractions)
    assert fractions[0] < 0.8 * fractions[-1]


def test_prefix_affine_routing_keeps_what_round_robin_scatters():
    rows = trace()[:600]
    spec = InstanceSpec(policy=PrefillFirstPolicy(), clock=CLOCK, num_blocks=10**6)
    cached = [
        SimulatedExecutor([spec] * 4, router).run(one_by_one(rows)).requests.cached_tokens.sum()
        for router in (RoundRobinPolicy(), PrefixAffinePolicy())
    ]
    assert cached[1] == replay(rows).sum() > cached[0]


def sessions(num_sessions, turns, unit=16, new=48, output=40):
    """Turn k's prompt is all that was said before, plus ``new`` tokens."""
    rows = []
    for turn in range(turns):
        prompt = new * (turn + 1) + output * turn
        for session in range(num_sessions):
            keys = [session * 1000 + depth for depth in range(-(-prompt // unit))]
            rows.append((session, prompt, keys))
    return Workload(
        name="sessions",
        arrival_s=np.zeros(len(rows)),
        prompt_tokens=np.array([prompt for _, prompt, _ in rows]),
        output_tokens=np.full(len(rows), output),
        session_id=np.array([session for session, _, _ in rows]),
        think_s=np.tile(np.linspace(0.5, 1.5, num_sessions), turns),
        sessions_wait=True,
        prefix_keys=np.array([key for *_, keys in rows for key in keys], dtype=np.int64),
        prefix_start=np.cumsum([0, *(len(keys) for *_, keys in rows)]),
        prefix_block_tokens=unit,
    )


@pytest.mark.parametrize("policy", [ChunkedPrefillPolicy(), PrefillFirstPolicy()])
def test_a_turn_comes_after_its_pause_and_finds_what_was_said_before(policy):
    workload = sessions(num_sessions=5, turns=4)
    spec = InstanceSpec(policy=policy, clock=CLOCK, num_blocks=10**5)
    r = SimulatedExecutor([spec], RoundRobinPolicy(), check_books=True).run(workload).requests
    for session in range(5):
        rows = np.flatnonzero(workload.session_id == session)
        for before, after in zip(rows[:-1], rows[1:], strict=True):
            pause = workload.think_s[after]
            assert r.arrival_s[after] == pytest.approx(r.finished_s[before] + pause)
            said = workload.prompt_tokens[before] + workload.output_tokens[before] - 1
            assert r.cached_tokens[after] == said // 16 * 16, "generated tokens are found too"
    assert (r.cached_tokens[workload.prompt_tokens == 48] == 0).all()


def test_sessions_under_memory_pressure_lose_cache_but_no_token():
    workload = sessions(num_sessions=12, turns=5)
    cached = []
    for num_blocks in (40, 100, 10_000):
        spec = InstanceSpec(policy=ChunkedPrefillPolicy(), clock=CLOCK, num_blocks=num_blocks)
        r = SimulatedExecutor([spec], RoundRobinPolicy(), check_books=True).run(workload).requests
        assert (r.status == 0).all()
        cached.append(r.cached_tokens.sum())
    assert cached[0] < cached[1] < cached[2]
