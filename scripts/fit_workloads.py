"""Make the bundled workload statistics from measured traces.

    python scripts/fit_workloads.py [--data ../shared/data] [--out plimsoll/library/workloads]

Reads request traces and length files, writes one recipe a workload: quantile tables of lengths
with their rank correlation, arrival rates by window or quantiles of gaps, and counts of prefix
reuse. Statistics only: no row of a trace is kept.
"""

import argparse
from pathlib import Path

import numpy as np
import yaml

from plimsoll.spec import io
from plimsoll.spec.generators import (
    Arrivals,
    AtOnce,
    GapQuantiles,
    Independent,
    Lengths,
    MeasuredReuse,
    PoissonArrivals,
    QuantileLength,
    Recipe,
    Sharing,
    WindowArrivals,
)
from plimsoll.spec.statistics import reuse_in, statistics_of
from plimsoll.spec.traces import load_azure, load_lengths, load_mooncake, load_trace
from plimsoll.spec.workload import Workload

AZURE = "Azure/AzurePublicDataset AzureLLMInferenceTrace_{}.csv (CC-BY-4.0)"
MOONCAKE = "kvcache-ai/Mooncake FAST25-release/traces/{}_trace.jsonl (Apache-2.0)"
LEVELS = (
    [0.0, 0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075]
    + [round(0.1 + 0.03 * i, 2) for i in range(14)]
    + [round(0.5 + 0.03 * i, 2) for i in range(14)]
    + [0.9, 0.91, 0.92, 0.93, 0.94, 0.95, 0.96, 0.97, 0.975, 0.98, 0.985, 0.99]
    + [0.9925, 0.995, 0.997, 0.998, 0.999, 0.9995, 1.0]
)
DECILES = 10
SOME_LEVELS = [0.0, 0.01, 0.05, *(round(0.1 * i, 1) for i in range(1, 10)), 0.95, 0.99, 1.0]


def rounded(values: np.ndarray, digits: int = 4) -> tuple[float, ...]:
    """To ``digits`` significant digits, as plain floats."""
    return tuple(float(f"{v:.{digits}g}") for v in values)


def table(values: np.ndarray) -> QuantileLength:
    """The quantile table of lengths."""
    return QuantileLength(levels=tuple(LEVELS), tokens=rounded(np.quantile(values, LEVELS)))


def lengths(workload: Workload, source: str, as_of: str) -> Lengths:
    """Both tables and their rank correlation."""
    return Lengths(
        prompt=table(workload.prompt_tokens),
        output=table(workload.output_tokens),
        rank_correlation=round(statistics_of(workload)["length_rank_correlation"], 3),
        stratified=True,
        source=source,
        as_of=as_of,
    )


def windows(
    workload: Workload, window_s: float, source: str, as_of: str, *, tick_s: float = 0.0
) -> WindowArrivals:
    """Rates of about ``window_s`` long windows and the CV of the gaps inside them."""
    span_s = workload.duration_s + tick_s
    count = max(1, round(span_s / window_s))
    edges_s = np.linspace(0, span_s, count + 1)
    requests = np.histogram(workload.arrival_s, edges_s)[0]
    if tick_s:
        # Gaps are hidden by the ticks: from the dispersion of counts, var/mean = CV^2.
        per_tick = np.bincount((workload.arrival_s / tick_s + 0.5).astype(int))
        local = np.interp((np.arange(len(per_tick)) + 0.5) * tick_s, edges_s[:-1], requests)
        expected = local * tick_s * count / span_s
        cv = float(np.sqrt(np.mean((per_tick - expected) ** 2) / expected.mean()))
    else:
        gaps_s = np.diff(workload.arrival_s)
        inside = np.minimum((workload.arrival_s[1:] / span_s * count).astype(int), count - 1)
        unit = gaps_s * requests[inside] * count / span_s
        cv = float(unit.std() / unit.mean())
    return WindowArrivals(
        window_s=round(span_s / count, 4),
        rates_per_s=rounded(requests * count / span_s),
        cv=round(cv, 3),
        tick_s=tick_s,
        source=source,
        as_of=as_of,
    )


def gap_table(workload: Workload, source: str, as_of: str) -> GapQuantiles:
    """Quantiles of the gaps, dense in the tail where idle times are."""
    gaps_s = np.sort(np.diff(workload.arrival_s))
    n = len(gaps_s)
    # Knots between the sorted gaps, so that each 1/n of the table has the mean of one gap.
    middle = (gaps_s[1:] + gaps_s[:-1]) / 2
    knots_s = np.concatenate(([gaps_s[0]], middle, [2 * gaps_s[-1] - middle[-1]]))
    tail = 1 - np.unique(np.geomspace(1, n / 10, 55).astype(int)) / n
    body = [0.0, 0.005, 0.01, 0.02, *(round(0.05 * i, 2) for i in range(1, 19))]
    levels = sorted({0.0, 1.0, *body, *(round(float(x), 6) for x in tail)})
    return GapQuantiles(
        levels=tuple(levels),
        gaps_s=rounded(np.interp(levels, np.arange(n + 1) / n, knots_s), 5),
        source=source,
        as_of=as_of,
    )


def reuse(workload: Workload, source: str, as_of: str) -> MeasuredReuse:
    """Who continues whom, by prompt length, with the shared part and the delay."""
    seen = reuse_in(workload)
    n = len(workload)
    continues = seen.shared_blocks > seen.common_blocks
    group = np.argsort(np.argsort(workload.prompt_tokens, kind="stable")) * DECILES // n
    parts = (seen.shared_blocks / seen.blocks)[continues]
    delays_s = (workload.arrival_s - workload.arrival_s[seen.parent])[continues]
    return MeasuredReuse(
        block_tokens=workload.prefix_block_tokens,
        common_blocks=seen.common_blocks,
        continuing=tuple(round(float(continues[group == g].mean()), 4) for g in range(DECILES)),
        shared_levels=tuple(SOME_LEVELS),
        shared=rounded(np.quantile(parts, SOME_LEVELS)),
        delay_levels=tuple(SOME_LEVELS),
        delay_s=rounded(np.quantile(delays_s, SOME_LEVELS)),
        source=source,
        as_of=as_of,
    )


def recipe(
    name: str,
    description: str,
    workload: Workload,
    arrivals: Arrivals,
    sharing: Sharing,
    source: str,
    as_of: str,
    num_requests: int = 0,
) -> Recipe:
    """One bundled workload."""
    return Recipe(
        name=name,
        description=description,
        num_requests=num_requests or len(workload),
        arrivals=arrivals,
        lengths=lengths(workload, source, as_of),
        sharing=sharing,
        measured={k: float(f"{v:.5g}") for k, v in statistics_of(workload).items()},
    )


def join(paths: list[Path]) -> Workload:
    """Several length files as one."""
    parts = [load_trace(path) for path in paths]
    order = np.argsort(np.concatenate([p.arrival_s for p in parts]), kind="stable")
    return Workload(
        name="joined",
        arrival_s=np.concatenate([p.arrival_s for p in parts])[order],
        prompt_tokens=np.concatenate([p.prompt_tokens for p in parts])[order],
        output_tokens=np.concatenate([p.output_tokens for p in parts])[order],
    )


def recipes(data: Path) -> list[Recipe]:
    """All bundled workloads."""
    traces = data / "traces"
    made = []

    source, as_of = AZURE.format("conv"), "2023-11-16"
    trace = load_azure(traces / "azure_llm_2023_conv.csv")
    made.append(
        recipe(
            "chat",
            "One production hour of a conversation service; no prefix information.",
            trace,
            windows(trace, 60.0, source, as_of),
            Independent(),
            source,
            as_of,
        )
    )
    source = AZURE.format("code")
    trace = load_azure(traces / "azure_llm_2023_code.csv")
    made.append(
        recipe(
            "code",
            "One production hour of a code completion service: long idle times between bursts.",
            trace,
            gap_table(trace, source, as_of),
            Independent(),
            source,
            as_of,
        )
    )
    source, as_of = MOONCAKE.format("conversation"), "2025-02"
    trace = load_mooncake(traces / "mooncake_conversation.jsonl")
    made.append(
        recipe(
            "long-chat",
            "One production hour of a long-context chat service; times in steps of 3 s.",
            trace,
            windows(trace, 300.0, source, as_of, tick_s=3.0),
            reuse(trace, source, as_of),
            source,
            as_of,
        )
    )
    source = MOONCAKE.format("synthetic")
    trace = load_mooncake(traces / "mooncake_synthetic.jsonl")
    made.append(
        recipe(
            "agent",
            "Long prompts that mostly repeat, short answers: tool use and document questions.",
            trace,
            windows(trace, 300.0, source, as_of),
            reuse(trace, source, as_of),
            source,
            as_of,
        )
    )
    source = "microsoft/apex_plus summarization request lengths, commit 8769096 (MIT)"
    trace = join(sorted((data / "apex" / "lengths").glob("summarization_025_4DP2TP_*.csv")))
    made.append(
        recipe(
            "summarize",
            "Articles in, abstracts out; Poisson arrivals at the rate of the replayed trace.",
            trace,
            PoissonArrivals(rate_per_s=round(trace.rate_per_s, 3), source=source, as_of="2025-05"),
            Independent(),
            source,
            "2025-05",
        )
    )
    source = "efeslab/Nanoflow lmsys-chat-1m lengths (Apache-2.0)"
    trace = load_lengths(traces / "nanoflow_lmsys_lengths.csv")
    made.append(
        recipe(
            "batch",
            "Offline work: all chat prompts are there at the start.",
            trace,
            AtOnce(source="by definition", as_of="2024-08"),
            Independent(),
            source,
            "2024-08",
            num_requests=10_000,
        )
    )
    return made


def main() -> None:
    """Write every recipe."""
    root = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=root / "../shared/data")
    parser.add_argument("--out", type=Path, default=root / "plimsoll/library/workloads")
    options = parser.parse_args()
    for made in recipes(options.data):
        text = "# Made by scripts/fit_workloads.py.\n" + yaml.safe_dump(
            io.plain(made), sort_keys=False, default_flow_style=None, width=98
        )
        io.write_text(text, options.out / f"{made.name}.yaml")
        print(f"{made.name}: {len(text):,} bytes")


if __name__ == "__main__":
    main()
