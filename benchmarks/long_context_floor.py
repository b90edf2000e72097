"""Is the analytical peak a floor on this machine, and how far above it does plain code run?

Usage: python benchmarks/long_context_floor.py [repeats]
"""

import platform
import sys

import torch

from plimsoll.catalog.cpu_floor import measure_cpu_floor

if __name__ == "__main__":
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, fp32")
    print(f"one thread, {repeats} repeats, first pass counted as warm-up by taking the best")
    print(measure_cpu_floor(repeats=repeats).summary())
