"""How fast does the simulator run, on one core, and what do runs of equal steps save?

    python benchmarks/simulator_speed.py            all cases
    python benchmarks/simulator_speed.py loop hour  some of them

hour    the Azure conversation hour of 2023 on 16 replicas        bar: 5 s CPU
moves   the same with dispatch by freeness and live moves          bar: 40 s CPU
million one million requests of the bundled `chat` workload       bar: 180 s CPU, 4 GiB resident
loop    64 in flight on one replica, lengths of `chat`            bar: 5.5 M output tokens/s CPU
long    64 in flight on one replica, 1,000 tokens in and out      the same
ablation a slice of the hour, every decode step an event of its own, beside runs of equal steps

Each repeat is a process of its own. Loading the workload and the plan is not timed; the first
simulation of a process is, tables of its clock included, so that nothing is warm. The trace
is read from ../shared/data where it is there, otherwise `chat` of the same size stands in.
"""

import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from plimsoll import __version__
from plimsoll.serving.simulate.run import simulate_plan
from plimsoll.spec.fleet import parse_fleet
from plimsoll.spec.model_files import load_model
from plimsoll.spec.plan import FreenessRouter, LeastWorkRouter, Parallel, Pool, ServingPlan
from plimsoll.spec.workload import Workload
from plimsoll.spec.workload_files import load_workload

ROOT = Path(__file__).resolve().parents[1]
TRACE = ROOT / "../shared/data/traces/azure_llm_2023_conv.csv"
REPEATS = {"hour": 5, "moves": 5, "million": 3, "loop": 5, "long": 5, "ablation": 5}
HOUR_REQUESTS, HOUR_RATE_PER_S = 19_366, 5.4


def hour() -> Workload:
    """The real hour, or as many requests of the same statistics."""
    if TRACE.exists():
        return load_workload(str(TRACE))
    return load_workload("chat", num_requests=HOUR_REQUESTS, rate_per_s=HOUR_RATE_PER_S)


def workload_of(case: str) -> Workload:
    """What a case serves."""
    if case == "million":
        return load_workload("chat", num_requests=1_000_000, rate_per_s=HOUR_RATE_PER_S)
    if case == "loop":
        return load_workload("chat", num_requests=20_000, num_in_flight=64)
    if case == "long":
        n = 5_000
        return Workload(
            name="1000-1000",
            arrival_s=np.zeros(n),
            prompt_tokens=np.full(n, 1000),
            output_tokens=np.full(n, 1000),
            num_in_flight=64,
        )
    if case == "ablation" and TRACE.exists():
        return load_workload(str(TRACE), max_requests=2_000)
    return hour()


def plan_of(case: str) -> ServingPlan:
    """The plan a case runs on."""
    if case in ("loop", "long"):
        pool = Pool(device="H100-SXM")
        return ServingPlan(model="llama-3.1-8b", fleet="1xH100-SXM", pools=(pool,))
    pool = Pool(device="H100-SXM", replicas=16, parallel=Parallel(tp=4))
    router = FreenessRouter() if case == "moves" else LeastWorkRouter()
    return ServingPlan(model="llama-3.1-70b", fleet="8x(8xH100-SXM)", pools=(pool,), router=router)


def once(case: str, *, fast_forward: bool = True) -> dict[str, float]:
    """One simulation in this process: seconds of CPU, peak memory, what was done."""
    workload, plan = workload_of(case), plan_of(case)
    model, fleet = load_model(plan.model), parse_fleet(plan.fleet)
    start_s = time.process_time()
    record = simulate_plan(plan, model, fleet, workload, fast_forward=fast_forward)
    cpu_s = time.process_time() - start_s
    r = record.requests
    if not r.ok.all():
        raise SystemExit(f"{case}: {int((~r.ok).sum())} requests did not finish")
    return {
        "cpu_s": cpu_s,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "requests": len(workload),
        "output_tokens": int(r.output_tokens.sum()),
        "steps": int(record.steps.num_steps.sum()),
        "rows": len(record.steps),
        "simulated_s": record.end_s,
        "mean_prompt": float(np.mean(workload.prompt_tokens)),
        "mean_output": float(np.mean(workload.output_tokens)),
    }


def in_process(case: str, *options: str) -> dict[str, float]:
    """``once`` in a fresh process."""
    done = subprocess.run(
        [sys.executable, __file__, "--once", case, *options],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"median {statistics.median(values):.2f}, {min(values):.2f} to {max(values):.2f}"


def report(case: str) -> None:
    """Run a case and print it."""
    runs = [in_process(case) for _ in range(REPEATS[case])]
    one, plan = runs[0], plan_of(case)
    replicas = sum(pool.replicas for pool in plan.pools)
    cpu_s = [run["cpu_s"] for run in runs]
    rates = [run["output_tokens"] / run["cpu_s"] / 1e6 for run in runs]
    source = workload_of(case).name if case != "million" else "chat"
    print(
        f"{case}: {source}, {one['requests']:,} requests, mean prompt {one['mean_prompt']:,.0f}, "
        f"mean output {one['mean_output']:,.0f} tokens; {plan.model}, {replicas} x tp "
        f"{plan.pools[0].parallel.tp} on {plan.fleet}, {plan.pools[0].policy.kind}"
    )
    print(
        f"  {one['simulated_s']:,.0f} s simulated, {one['steps']:,} steps in {one['rows']:,} "
        f"events, {one['output_tokens']:,} output tokens"
    )
    print(f"  CPU s, {len(runs)} repeats: {spread(cpu_s)}")
    print(f"  million output tokens per CPU s: {spread(rates)}")
    print(f"  peak resident GiB: {spread([run['peak_bytes'] / 2**30 for run in runs])}")
    if case == "ablation":
        plain = [in_process(case, "plain") for _ in range(REPEATS[case])]
        plain_s = [run["cpu_s"] for run in plain]
        print(f"  every step an event: CPU s: {spread(plain_s)}, {plain[0]['rows']:,} events")
        print(f"  ratio of medians: {statistics.median(plain_s) / statistics.median(cpu_s):.1f}")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments[:1] == ["--once"]:
        print(json.dumps(once(arguments[1], fast_forward="plain" not in arguments)))
    else:
        processor = platform.processor() or platform.machine()
        print(
            f"plimsoll {__version__}, Python {platform.python_version()}, numpy {np.__version__}, "
            f"one core of {processor}"
        )
        for name in arguments or list(REPEATS):
            report(name)
