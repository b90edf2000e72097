"""How long does a user wait for an answer?

Usage: python benchmarks/answer_times.py [repeats]

Each command runs as a whole process, the first run a warm-up that is not counted. Bars: help
0.5 s, fit 1 s, plan of one model on 8 GPUs on the default workload 20 s on two cores, and the
same on the Azure conversation hour (19,366 requests) 30 s.
"""

import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

TRACE = Path(__file__).parents[1] / "../shared/data/traces/azure_llm_2023_conv.csv"
SLO = ["--ttft-p99", "2s", "--tpot-p99", "60ms"]
PLAN = ["plan", "llama-3.1-70b", "--on", "8xH100-SXM"]
COMMANDS: list[tuple[str, float, list[str]]] = [
    ("help", 0.5, ["--help"]),
    ("fit", 1.0, ["fit", "qwen3-32b", "--on", "8xH100-SXM"]),
    ("plan, workload chat", 20.0, [*PLAN, "--workload", "chat", *SLO]),
    ("plan, Azure conversation hour", 30.0, [*PLAN, "--workload", str(TRACE), *SLO]),
]


def seconds(arguments: list[str]) -> float:
    """Wall-clock seconds of one whole process."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "plimsoll.cli.main", *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - started


def main() -> None:
    """Print one row a command."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{'command':<32}{'bar':>8}{'median':>10}{'min':>8}{'max':>8}  {repeats} runs")
    for name, bar_s, arguments in COMMANDS:
        if "Azure" in name and not TRACE.exists():
            print(f"{name:<32}  left out: {TRACE.name} is not here")
            continue
        seconds(arguments)
        times = [seconds(arguments) for _ in range(repeats)]
        median = statistics.median(times)
        verdict = "" if median <= bar_s else "  over the bar"
        spread = f"{median:>8.2f} s{min(times):>8.2f}{max(times):>8.2f}"
        print(f"{name:<32}{bar_s:>6.1f} s{spread}{verdict}")


if __name__ == "__main__":
    main()
