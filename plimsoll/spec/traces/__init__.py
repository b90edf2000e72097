"""Request traces of the formats people have, told apart by their content.

``load_trace`` looks at the first line: a JSON object a line (Mooncake, plain), a JSON report
(vllm bench serve, guidellm), or a header of columns (Azure, BurstGPT, Vidur, Splitwise, APEX).
Every complaint names the file and the line.
"""

import json
from pathlib import Path

from plimsoll.spec.errors import SpecError
from plimsoll.spec.traces.burstgpt import load_burstgpt
from plimsoll.spec.traces.jsonlines import load_jsonl, load_mooncake
from plimsoll.spec.traces.reports import load_bench_json
from plimsoll.spec.traces.source import WHOLE, Slice, open_trace
from plimsoll.spec.traces.tables import load_azure, load_lengths, load_table
from plimsoll.spec.workload import Workload

__all__ = [
    "Slice",
    "load_azure",
    "load_bench_json",
    "load_burstgpt",
    "load_lengths",
    "load_mooncake",
    "load_trace",
]


def load_trace(path: Path, *, part: Slice = WHOLE, seed: int = 0) -> Workload:
    """The trace at ``path`` in any known format; ``seed`` spreads whole-second ties.

    Raises:
        SpecError: unreadable, of no known format, or with a bad row; names the line.
    """
    with open_trace(path, part) as lines:
        first = next(lines, "")
    if first.lstrip().startswith(("{", "[")):
        try:
            row = json.loads(first)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict) and "input_lens" not in row and "benchmarks" not in row:
            return load_jsonl(path, part=part)
        return load_bench_json(path, part=part)
    if "Request tokens" in first and "Response tokens" in first:
        in_order = Slice(
            start_s=part.start_s, end_s=part.end_s, max_requests=part.max_requests, sort=True
        )
        return load_burstgpt(path, part=part if part.bounded else in_order, seed=seed)
    if "," not in first:
        raise SpecError(
            f"{path}: line 1: {first.strip()[:60]!r} is neither a header of columns nor JSON; "
            "expected a trace (Azure, BurstGPT, Vidur, Splitwise, Mooncake) or a benchmark report"
        )
    return load_table(path, part=part)
