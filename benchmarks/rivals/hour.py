"""One simulated hour beside others: the same requests, cluster, policy and limits.

CPU seconds, user and system, of the simulation call and of the whole process around it, each
repeat a process of its own; the median. Left out: whether the times simulated are equally right,
which the comparison of measured rows shows.
"""

import json
import statistics
from collections.abc import Callable
from pathlib import Path

import ours
import venvs
import vidur
from hour_question import Hour, read_hour
from venvs import Unavailable

AISIMULATE = {
    "model": "meta-llama/Meta-Llama-3.1-70B",
    "system": "h100_sxm",
    "backend": "vllm",
}


def _aisimulate(hour: Hour, cache: Path) -> tuple[float, float, str]:
    python = venvs.python_of(cache, "aisimulate", venvs.REQUIREMENTS["aisimulate"])
    question = AISIMULATE | {
        "requests": [(at_s * 1e3, prompt, output) for at_s, prompt, output in hour.requests],
        "replicas": hour.replicas,
        "tp": hour.tp,
        "token_budget": hour.token_budget,
        "max_batch": hour.max_batch,
    }
    answer, cost = venvs.ask(python, "drive_aisimulate.py", "hour", json.dumps(question))
    told = answer["summary"]
    note = (
        f"{told['completed_requests']:,} requests, mean TTFT {told['mean_ttft_ms']:,.0f} ms, "
        f"mean TPOT {told['mean_tpot_ms']:.1f} ms"
    )
    return answer["cpu_s"], cost.cpu_s, note


def _ours() -> tuple[float, float, str]:
    cpu_s, cost = ours.hour()
    return cpu_s, cost.cpu_s, "benchmarks/simulator_speed.py, case hour"


def _line(tool: str, once: Callable[[], tuple[float, float, str]], repeats: int) -> float | None:
    try:
        runs = [once() for _ in range(repeats)]
    except Unavailable as error:
        print(f"{tool} left out: {error}")
        return None
    call_s, process_s = (statistics.median(run[i] for run in runs) for i in (0, 1))
    print(f"{tool:<16}{call_s:>11.2f}{process_s:>9.2f}  {runs[0][2]}")
    return call_s


def report(file: Path, cache: Path, checkout: Path | None, repeats: int) -> None:
    """Print a line a tool."""
    if not file.exists():
        print(f"hour left out: {file.name} is not here; give --data FOLDER")
        return
    hour = read_hour(file)
    print(
        f"{file.name}: {len(hour.requests):,} requests, {hour.output_tokens:,} output tokens, "
        f"{hour.replicas} x tp {hour.tp} of Llama-3.1-70B on H100,\nchunked prefill "
        f"{hour.token_budget:,}, batch {hour.max_batch}; median of {repeats}"
    )
    print(f"{'CPU s':<16}{'simulation':>11}{'process':>9}")
    mine_s = _line("Plimsoll", _ours, repeats)
    theirs_s = _line("AISimulate", lambda: _aisimulate(hour, cache), repeats)
    if mine_s and theirs_s:
        print(f"simulation: {theirs_s / mine_s:.1f} times the CPU time of Plimsoll's")
    try:
        trained, timed = vidur.simulate(hour, checkout, cache)
    except Unavailable as error:
        print(f"Vidur left out: {error}")
        return
    note = f"A100 nodes, its only profiles; a first run that trains took {trained.cpu_s:,.0f} CPU s"
    print(f"{'Vidur':<16}{'':>11}{timed.cpu_s:>9.2f}  {note}")
