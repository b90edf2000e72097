"""How fast is the closed-form ranking of a whole plan space?

Usage: python benchmarks/search_speed.py [repeats]

Qwen3-32B with fp8 weights on 32 H200, 4,000 tokens in and 500 out, TTFT 300 ms, TPOT 10 ms,
aggregated and disaggregated. CPU seconds of this process, all threads; imports not counted.
"""

import platform
import statistics
import sys
import time

from plimsoll.planning.plan_space import SpaceOptions
from plimsoll.planning.question import Question
from plimsoll.planning.search import rank
from plimsoll.spec.dtype import DType
from plimsoll.spec.fleet import parse_fleet
from plimsoll.spec.model_files import load_model
from plimsoll.spec.slo import Slo, SloTarget
from plimsoll.spec.workload_files import load_workload


def main() -> None:
    """Print the size of the space and the time to rank it."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    question = Question(
        model=load_model("qwen3-32b"),
        model_name="qwen3-32b",
        fleet=parse_fleet("32xH200-SXM"),
        workload=load_workload("4000/500", num_requests=1000),
        slo=Slo(
            targets=(
                SloTarget(metric="ttft", percentile=50, bound_s=0.3),
                SloTarget(metric="tpot", percentile=50, bound_s=0.01),
            )
        ),
        must_carry=False,
        options=SpaceOptions(weight_dtypes=(DType.FP8,), kv_dtypes=(None, DType.FP8)),
    )
    times = []
    for _ in range(repeats + 1):
        started = time.process_time()
        ranking, _, _ = rank(question)
        times.append(time.process_time() - started)
    cold, warm = times[0], times[1:]
    print(f"{platform.machine()}, Python {platform.python_version()}, {repeats} runs after one")
    print(
        f"plans enumerated {ranking.num_enumerated:,}, estimated {ranking.num_estimated:,}, "
        f"pruned {sum(ranking.pruned.values()):,}"
    )
    print(
        f"CPU seconds: first {cold:.2f}, then median {statistics.median(warm):.2f} "
        f"(min {min(warm):.2f}, max {max(warm):.2f})"
    )
    best = max(ranking.estimates, key=lambda estimate: estimate.score, default=None)
    if best is not None:
        print(f"best by the closed form: {best.rate_per_s_per_device:.3g} requests/s a GPU")


if __name__ == "__main__":
    main()
