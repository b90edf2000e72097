"""Published runs of vLLM 0.6.0 as traffic to replay: who arrived when, and what came out.

Two kinds of file. *Lengths*: one row a request of a trace, ``request_id, start_offset_ns,
context_tokens, generated_tokens`` as asked for. *Results*: one line a request with produced less
asked tokens (models stop early, chat templates lengthen prompts), then mean TTFT, time per token
over all tokens, and the sum of latencies. Traces without a file of their own are put together
from those of their replicas, which were dealt in turn.
Source: microsoft/apex_plus (MIT), ``vllm/results`` and the lengths of ``traces``.
"""

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plimsoll.catalog.contract import Context
from plimsoll.spec.errors import SpecError
from plimsoll.spec.workload import Workload

__all__ = [
    "RATES",
    "TRACES",
    "PublishedRun",
    "published",
    "read_lengths",
    "read_run",
    "read_runs",
    "trace_requests",
]

TRACES = ("creation", "lmsys", "summarization")
RATES = {"05": 0.5, "025": 0.25}
_SETUPS = (("8TP", 8, 1), ("2DP4TP", 4, 2), ("4DP2TP", 2, 4), ("4TP", 4, 1), ("2TP", 2, 1))
_LINE = re.compile(r"= (-?\d+), output_len_diff = (-?\d+)\s*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRun:
    """One replica's measured run and the requests it really served.

    ``ttft_s`` is as published: without the time spent queued. ``tpot_s`` is all decoding time
    over all tokens produced.
    """

    trace: str
    rate: str
    setup: str
    replica: int
    tp: int
    workload: Workload
    ttft_s: float
    tpot_s: float
    e2e_s: float

    @property
    def row(self) -> tuple[str, str, str]:
        """Runs of one row of the published table share it."""
        return (self.trace, self.rate, self.setup)


def read_lengths(path: Path) -> list[tuple[int, int, int]]:
    """(nanoseconds from the start, prompt tokens, output tokens asked for) by arrival.

    Raises:
        SpecError: a row that is no request, a negative or falling time; it names the line.
    """
    rows: list[tuple[int, int, int]] = []
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            line = len(rows) + 2
            try:
                offset, prompt, output = (
                    int(row[name])
                    for name in ("start_offset_ns", "context_tokens", "generated_tokens")
                )
            except (KeyError, TypeError, ValueError):
                raise SpecError(
                    f"{path}, line {line}: expected whole numbers in start_offset_ns, "
                    f"context_tokens and generated_tokens, found {row}"
                ) from None
            if offset < 0 or prompt < 1 or output < 1:
                raise SpecError(
                    f"{path}, line {line}: time {offset} ns, {prompt} prompt and {output} output "
                    "tokens; expected a time of 0 or more and at least one token each"
                )
            if rows and offset < rows[-1][0]:
                raise SpecError(
                    f"{path}, line {line}: arrives before the line above; sort by start_offset_ns"
                )
            rows.append((offset, prompt, output))
    if not rows:
        raise SpecError(f"{path}: holds no request")
    return rows


def trace_requests(
    context: Context, trace: str, rate: str, *, part: int = 0, parts: int = 1
) -> list[tuple[int, int, int]]:
    """What ``part`` of ``parts`` replicas was sent of a trace; parts 1: all of it."""
    folder = "apex/lengths"
    label = {1: "", 2: f"_2DP4TP_{part}", 4: f"_4DP2TP_{part}"}[parts]
    name = f"{folder}/{trace}_{rate}{label}.csv"
    if trace != "summarization" or parts == 4:
        return read_lengths(context.file(name))
    quarters = [
        read_lengths(context.file(f"{folder}/{trace}_{rate}_4DP2TP_{i}.csv")) for i in range(4)
    ]
    return sorted(row for quarter in quarters for row in quarter)[part::parts]


def read_run(path: Path, asked: list[tuple[int, int, int]], name: str) -> tuple[Workload, float]:
    """The requests a result file really produced, and the number of them.

    Raises:
        SpecError: the file does not belong to these requests, or lacks a mean.
    """
    text = path.read_text(encoding="utf-8")
    changes = [
        (int(found[1]), int(found[2]))
        for line in text.splitlines()
        if (found := _LINE.search(line)) is not None
    ]
    if len(changes) != len(asked):
        raise SpecError(f"{path}: {len(changes)} requests, but {len(asked)} were sent")
    prompts = np.array([row[1] + change[0] for row, change in zip(asked, changes, strict=True)])
    outputs = np.array([row[2] + change[1] for row, change in zip(asked, changes, strict=True)])
    if outputs.sum() != published(path, "vLLm output len sum"):
        raise SpecError(f"{path}: lengths sum to {outputs.sum()}, not to the sum it states")
    workload = Workload(
        name=name,
        arrival_s=np.array([row[0] for row in asked]) / 1e9,
        prompt_tokens=prompts.astype(np.int64),
        output_tokens=np.maximum(outputs, 1).astype(np.int64),
    )
    return workload, float(len(asked))


def published(path: Path, label: str) -> float:
    """The number a result file states after ``label``.

    Raises:
        SpecError: it states none.
    """
    found = re.search(rf"^{re.escape(label)}: (\S+)", path.read_text(encoding="utf-8"), re.M)
    if found is None:
        raise SpecError(f"{path}: no line '{label}'")
    return float(found[1])


def read_runs(context: Context) -> list[PublishedRun]:
    """Every published run of Llama-3.1-70B that there is a file of.

    Raises:
        UnsupportedError: the measured data are not there.
    """
    runs = []
    context.file("apex/vllm_results/llama_lmsys_05_validation_8TP.txt")
    for trace in TRACES:
        for rate in RATES:
            for setup, tp, parts in _SETUPS:
                for part in range(parts):
                    suffix = f"_{part}" if parts > 1 else ""
                    file = f"apex/vllm_results/llama_{trace}_{rate}_validation_{setup}{suffix}.txt"
                    assert context.data is not None
                    if not (context.data / file).exists():
                        continue
                    path = context.file(file)
                    asked = trace_requests(context, trace, rate, part=part, parts=parts)
                    workload, count = read_run(path, asked, f"{trace} {rate} {setup}{suffix}")
                    runs.append(
                        PublishedRun(
                            trace=trace,
                            rate=rate,
                            setup=setup,
                            replica=part,
                            tp=tp,
                            workload=workload,
                            ttft_s=published(path, "vLLM TTFT"),
                            tpot_s=published(path, "vLLM TPOT"),
                            e2e_s=published(path, "vLLM Total Latency") / count,
                        )
                    )
    return runs
