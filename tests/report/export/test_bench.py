"""The exported load is the workload: lengths, times, shared prefixes, promise."""

import json
import shlex

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plimsoll.report.export import export_plan
from plimsoll.report.export.trace import BLOCK_TOKENS, trace_text
from plimsoll.spec.workload import Workload
from tests.export_plans import COLOCATED, context, workload


def rows(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def scripts(num_in_flight: int = 0) -> dict[str, list[str]]:
    facts = context(COLOCATED, workload=workload(num_in_flight=num_in_flight))
    return {
        f.name: shlex.split(f.text.replace("\\\n", " "), comments=True)
        for f in export_plan(COLOCATED, "bench", facts)
        if f.name.endswith(".sh")
    }


@given(
    gaps_ms=st.lists(st.integers(0, 10_000), min_size=1, max_size=30),
    seed=st.integers(0, 2**16),
)
def test_the_trace_keeps_every_request(gaps_ms: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = len(gaps_ms)
    load = Workload(
        name="any",
        arrival_s=np.cumsum(np.array(gaps_ms)) / 1e3,
        prompt_tokens=rng.integers(1, 4000, n),
        output_tokens=rng.integers(1, 900, n),
    )
    found = rows(trace_text(load))
    assert [r["input_length"] for r in found] == load.prompt_tokens.tolist()
    assert [r["output_length"] for r in found] == load.output_tokens.tolist()
    times = np.array([r["timestamp"] for r in found]) / 1e3
    assert np.allclose(times, load.arrival_s - load.arrival_s[0], atol=1e-6)
    ids = [r["hash_ids"] for r in found]
    assert [len(i) for i in ids] == (-(-load.prompt_tokens // BLOCK_TOKENS)).tolist()  # type: ignore[arg-type]
    flat = [i for row in ids for i in row]  # type: ignore[attr-defined]
    assert len(set(flat)) == len(flat)  # nothing shared


def test_shared_prefixes_share_their_ids_and_nothing_else() -> None:
    first, second, third, fourth = (r["hash_ids"] for r in rows(trace_text(workload())))
    assert first[:2] == second[:2]  # type: ignore[index]
    assert first[2] != second[2]  # type: ignore[index]
    assert not {*first} & {*third} and not {*first} & {*fourth}  # type: ignore[misc]
    assert [len(i) for i in (first, second, third, fourth)] == [3, 3, 1, 1]  # type: ignore[arg-type]


def test_an_open_loop_replays_times_and_a_closed_one_keeps_its_number() -> None:
    opened, closed = scripts(0), scripts(3)
    assert "--self-timed" in opened["vllm-bench.sh"]
    assert "--fixed-schedule" in opened["aiperf.sh"]
    assert any("kind=replay" in w for w in opened["guidellm.sh"])
    for name, flag in (("vllm-bench.sh", "--max-concurrency"), ("aiperf.sh", "--concurrency")):
        words = closed[name]
        assert words[words.index(flag) + 1] == "3"
    assert "--no-self-timed" in closed["vllm-bench.sh"]
    assert any("kind=concurrent,streams=3" in w for w in closed["guidellm.sh"])


def test_the_promise_becomes_bounds_in_milliseconds() -> None:
    found = scripts()
    assert {"ttft:2000", "tpot:60"} <= set(found["vllm-bench.sh"])
    at = found["vllm-bench.sh"].index("--metric-percentiles")
    assert found["vllm-bench.sh"][at + 1] == "50,90,95,99"
    assert "time_to_first_token:2000 inter_token_latency:60" in found["aiperf.sh"]
    assert any(w.endswith("slo.ttft_ms=2000,slo.tpot_ms=60") for w in found["guidellm.sh"])


@pytest.mark.parametrize("name", ["vllm-bench.sh", "guidellm.sh", "aiperf.sh"])
def test_the_load_goes_to_the_port_the_engines_open(name: str) -> None:
    front = next(
        f.text for f in export_plan(COLOCATED, "vllm", context(COLOCATED)) if f.name == "router.sh"
    )
    words = shlex.split(front.replace("\\\n", " "), comments=True)
    assert words[words.index("--port") + 1] == "8000"
    assert any("8000" in w for w in scripts()[name])
