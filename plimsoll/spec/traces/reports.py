"""Workloads out of benchmark reports: what a load generator sent, to be sent again.

``vllm bench serve --save-result --save-detailed`` writes ``input_lens`` and ``output_lens`` (and
``start_times`` in newer versions); without times the stated request rate gives constant gaps,
an infinite rate with a concurrency gives a closed loop. guidellm reports hold requests with
prompt and output tokens and start times per benchmark. Measured latencies are ignored.
Sources: vllm-project/vllm vllm/benchmarks/serve.py, vllm-project/guidellm JSON output.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from plimsoll.spec.errors import SpecError
from plimsoll.spec.io import read_text
from plimsoll.spec.traces.columns import numbers, tokens
from plimsoll.spec.traces.source import WHOLE, Slice
from plimsoll.spec.workload import Workload

__all__ = ["load_bench_json"]

_MAX_REPORT_BYTES = 512 * 10**6


def load_bench_json(path: Path, *, part: Slice = WHOLE) -> Workload:
    """A ``vllm bench serve`` result or a guidellm report; of several runs the largest."""
    text = read_text(path, max_bytes=_MAX_REPORT_BYTES)
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        runs = _appended_runs(path, text)
        if not runs:
            raise SpecError(
                f"{path}: line {error.lineno}: not valid JSON: {error.msg} (column {error.colno})"
            ) from None
        data = runs
    except (RecursionError, ValueError) as error:
        raise SpecError(f"{path}: not readable JSON: {str(error)[:80]}") from None
    if isinstance(data, dict) and "benchmarks" in data:
        return _guidellm(path, data["benchmarks"], part)
    runs = data if isinstance(data, list) else [data]
    runs = [run for run in runs if isinstance(run, dict) and "input_lens" in run]
    if not runs:
        raise SpecError(
            f"{path}: holds neither input_lens (vllm bench serve --save-result --save-detailed) "
            "nor benchmarks (guidellm)"
        )
    return _vllm(path, runs, part)


def _appended_runs(path: Path, text: str) -> list[Any]:
    """Runs of ``--append-result``: one JSON object a line; empty if it is not that."""
    runs = []
    for line in text.splitlines():
        try:
            runs.append(json.loads(line))
        except (ValueError, RecursionError):
            return []
    return runs


def _column(path: Path, run: dict[str, Any], name: str, convert: Any) -> Any:
    values = run.get(name)
    if not isinstance(values, list) or any(
        isinstance(v, bool) or not isinstance(v, int | float) for v in values
    ):
        raise SpecError(f"{path}: {name} must be a list of numbers, one a request")
    try:
        return convert(values, path=path, column=name, first_line=1)
    except SpecError as error:
        where = str(error).replace(": line ", f": {name} entry ", 1)
        raise SpecError(where) from None


def _vllm(path: Path, runs: list[dict[str, Any]], part: Slice) -> Workload:
    sizes = [len(r["input_lens"]) if isinstance(r["input_lens"], list) else 0 for r in runs]
    run = runs[int(np.argmax(sizes))]
    notes = ["read as vllm bench serve result"]
    if len(runs) > 1:
        notes.append(f"the largest of {len(runs)} runs in the file")
    prompt = _column(path, run, "input_lens", tokens)
    output = _column(path, run, "output_lens", tokens)
    rate = run.get("request_rate", "inf")
    try:
        rate_per_s = float(rate)
    except (TypeError, ValueError, OverflowError):
        raise SpecError(f"{path}: request_rate = {str(rate)[:40]!r}; expected a number") from None
    if math.isnan(rate_per_s) or rate_per_s <= 0:
        raise SpecError(f"{path}: request_rate = {rate_per_s}; expected more than zero")
    in_flight = run.get("max_concurrency") or 0
    if isinstance(in_flight, bool) or not isinstance(in_flight, int) or in_flight < 0:
        raise SpecError(f"{path}: max_concurrency = {str(in_flight)[:40]!r}; expected a count")
    closed = math.isinf(rate_per_s)
    if run.get("start_times"):
        time_s = _column(path, run, "start_times", numbers)
    elif closed:
        time_s = np.zeros(len(prompt))
        notes.append(
            f"no times and no rate in the file: {in_flight} requests kept in flight"
            if in_flight
            else "no times and no rate in the file: every request arrives at 0"
        )
    else:
        time_s = np.arange(len(prompt)) / rate_per_s
        notes.append(f"no times in the file: constant gaps at its {rate_per_s:g} requests/s")
    clients = in_flight if closed else 0
    return _finish(path, time_s, prompt, output, part=part, notes=notes, num_in_flight=clients)


def _guidellm(path: Path, benchmarks: Any, part: Slice) -> Workload:
    candidates: list[list[Any]] = []
    for benchmark in benchmarks if isinstance(benchmarks, list) else []:
        requests = benchmark.get("requests") if isinstance(benchmark, dict) else None
        done = requests.get("successful") if isinstance(requests, dict) else requests
        if isinstance(done, list):
            candidates.append(done)
    if not candidates or not max(candidates, key=len):
        raise SpecError(
            f"{path}: a guidellm report without successful requests; write it with all requests"
        )
    rows = max(candidates, key=len)
    notes = ["read as guidellm report"]
    if len(candidates) > 1:
        notes.append(f"the largest of {len(candidates)} benchmarks in the file")
    columns: dict[str, list[Any]] = {"prompt": [], "output": [], "start": []}
    names = {
        "prompt": ("prompt_tokens", "prompt_token_count"),
        "output": ("output_tokens", "output_token_count"),
        "start": ("request_start_time", "start_time"),
    }
    for i, row in enumerate(rows):
        for column, spellings in names.items():
            found = [row[s] for s in spellings if isinstance(row, dict) and row.get(s) is not None]
            if not found:
                raise SpecError(f"{path}: request {i}: {spellings[0]} is missing")
            columns[column].append(found[0])
    return _finish(
        path,
        _column(path, columns, "start", numbers),
        _column(path, columns, "prompt", tokens),
        _column(path, columns, "output", tokens),
        part=part,
        notes=notes,
        num_in_flight=0,
    )


def _finish(
    path: Path,
    time_s: Any,
    prompt: Any,
    output: Any,
    *,
    part: Slice,
    notes: list[str],
    num_in_flight: int,
) -> Workload:
    if not len(time_s) == len(prompt) == len(output):
        raise SpecError(
            f"{path}: {len(prompt)} input lengths, {len(output)} output lengths and "
            f"{len(time_s)} times; expected the same number of each"
        )
    order = np.argsort(time_s, kind="stable")  # reports list requests as they ended
    time_s, prompt, output = time_s[order], prompt[order], output[order]
    good = (prompt > 0) & (output > 0)
    if not good.all():
        notes.append(f"{int((~good).sum()):,} failed requests (no tokens) left out")
    if good.any():
        time_s = time_s - time_s[0]
        good &= (time_s >= part.start_s) & (time_s < part.end_s)
    if part.max_requests:
        good &= np.cumsum(good) <= part.max_requests
    if not good.any():
        raise SpecError(f"{path}: holds no finished request in the part asked for")
    return Workload(
        name=path.name.split(".")[0] or path.name,
        arrival_s=np.maximum(time_s[good] - part.start_s, 0.0),
        prompt_tokens=prompt[good],
        output_tokens=output[good],
        num_in_flight=num_in_flight,
        source=path.name,
        notes=tuple(notes),
    )
