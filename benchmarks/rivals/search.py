"""One plan search beside another: the same model, fleet, lengths and bounds.

Qwen3-32B in FP8 on 32 H200, 4,000 tokens in and 500 out, TTFT 300 ms and TPOT 10 ms, aggregated
and disaggregated. CPU seconds, user and system, of the first search of a process and of later ones
in the same process (median); imports are not counted.
Left out: whether the plans are equally good; each tool ranks by its own model of time.
"""

import json
import statistics
from pathlib import Path

import ours
import venvs
from venvs import Unavailable

QUESTION = {
    "model_path": "Qwen/Qwen3-32B-FP8",
    "total_gpus": 32,
    "system": "h200_sxm",
    "isl": 4000,
    "osl": 500,
    "ttft": 300.0,
    "tpot": 10.0,
}
NAME = "AIConfigurator"


def _line(tool: str, first_s: float, later_s: float, plans: str) -> str:
    return f"{tool:<16}{first_s:>9.2f}{later_s:>9.2f}  {plans}"


def report(cache: Path, repeats: int) -> None:
    """Print a line a tool."""
    print("Qwen3-32B FP8 on 32 x H200-SXM, 4,000/500 tokens, TTFT 300 ms, TPOT 10 ms")
    print(f"{'CPU s':<16}{'first':>9}{'later':>9}  plans")
    later_times_s: list[float] = []
    try:
        found = ours.search(repeats)
        plans = f"{found.plans:,} evaluated or pruned"
        print(_line("Plimsoll", found.first_cpu_s, found.later_cpu_s, plans))
        later_times_s.append(found.later_cpu_s)
    except Unavailable as error:
        print(f"Plimsoll left out: {error}")
    try:
        python = venvs.python_of(cache, "aiconfigurator", venvs.REQUIREMENTS["aiconfigurator"])
        driver = "drive_aiconfigurator.py"
        question = {"repeats": repeats, "arguments": QUESTION}
        answer, _ = venvs.ask(python, driver, "search", json.dumps(question))
        first_s, *later = answer["cpu_s"]
        kept = ", ".join(f"{count} {name}" for name, count in answer["kept"].items())
        later_s = statistics.median(later) if later else first_s
        plans = f"does not say; kept on its fronts: {kept}"
        print(_line(NAME, first_s, later_s, plans))
        later_times_s.append(later_s)
    except Unavailable as error:
        print(f"{NAME} left out: {error}")
    if len(later_times_s) == 2 and later_times_s[0] > 0:
        ratio = later_times_s[1] / later_times_s[0]
        print(f"later searches: {ratio:.0f} times the CPU time of Plimsoll's")
