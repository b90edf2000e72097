"""How long a user waits for the first answer: `plimsoll --help` and `plimsoll fit`.

    python benchmarks/start_up.py

Bars: help below 0.5 s, fit below 1 s. Wall time of whole processes, one warm-up and seven
repeats; the baseline is a Python process that does nothing, in the same run.
"""

import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUN = "from plimsoll.cli.main import run; run()"
REPEATS = 7
CASES = (
    ("python -c pass", ["-c", "pass"], None),
    ("plimsoll --help", ["-c", RUN, "--help"], 0.5),
    ("plimsoll fit", ["-c", RUN, "fit", "qwen3-32b", "--on", "8xH100-SXM"], 1.0),
)


def seconds(words: list[str]) -> float:
    """Wall time of one process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *words], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def main() -> int:
    """Print a row a case; 1 if a bar is missed by the median."""
    print(f"Python {platform.python_version()}, {platform.machine()}, {REPEATS} repeats")
    missed = False
    for name, words, bar in CASES:
        seconds(words)
        times = sorted(seconds(words) for _ in range(REPEATS))
        median = statistics.median(times)
        verdict = "" if bar is None else f"  bar {bar:g} s  {'met' if median <= bar else 'MISSED'}"
        missed |= bar is not None and median > bar
        print(f"{name:<16} median {median:.3f} s ({times[0]:.3f} to {times[-1]:.3f}){verdict}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
