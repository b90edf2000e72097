"""NanoFlow end to end on the simulated clock: three length traces, a dense batch of 2048 tokens.

LLaMA-2-70B on 8 x A100-80G as in ``nanoflow_setting``: the measured rows of its operator table,
scaled to each step's own counts. Multiplies and collectives follow tokens but for what every batch
pays, decode attention the KV it reads, prompt attention the pairs it scores. Every request is there
at the start, as in the paper's throughput runs, and the steady part is judged: from the first full
dense batch to the last. The plan is searched once a trace, for the batch its lengths lead to.
Leaves out: embedding, head, sampling and the host, alike in both.
Source: arXiv 2408.12757, figure 7; traces of efeslab/Nanoflow and Azure/AzurePublicDataset.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from plimsoll.catalog.contract import Between, Check, Context, Measured, Report
from plimsoll.catalog.nanoflow_setting import (
    BATCH_TOKENS,
    CURVES,
    DEVICES,
    MEASURED_MS,
    Network,
    dependencies,
    model,
    operators,
)
from plimsoll.cost.kv import kv_bytes_per_token
from plimsoll.cost.overlap_clock import OverlapClock
from plimsoll.cost.overlap_profile import OpProfile
from plimsoll.planning.overlap_search import Table, search_rewrites
from plimsoll.serving.executors.simulated import InstanceSpec, SimulatedExecutor
from plimsoll.serving.policies import ChunkedPrefillPolicy, NanoPolicy
from plimsoll.serving.policy import StepPolicy
from plimsoll.serving.routers import RoundRobinPolicy
from plimsoll.spec.generators import stream
from plimsoll.spec.overlap import OverlapPlan
from plimsoll.spec.parameters import weight_bytes
from plimsoll.spec.record import RunRecord
from plimsoll.spec.workload import Workload

__all__ = ["SERVING_CHECKS", "TRACES", "MeasuredLayer", "SequentialClock", "steady"]

TRACES = {
    "Splitwise": "traces/azure_llm_2023_conv.csv",
    "LMSYS": "traces/nanoflow_lmsys_lengths.csv",
    "ShareGPT": "traces/nanoflow_sharegpt_lengths.csv",
}
How = Literal["overlapped", "sequential", "greedy", "256 requests"]
_NETWORKS: tuple[Network, ...] = ("gathers", "reduces")
_RUN_TOKENS = 2.5e6
_LONGEST = 4096
"""The model's context; longer pairs are left out."""
_BLOCK = 16
_MEMORY_BYTES = 0.95 * DEVICES * 80e9
_DECODE_ATTENTION_BYTES = 462.2e9
_PROMPT_ATTENTION_FLOPS = 916.3e9
_FOREVER = 2**62


class MeasuredLayer:
    """An ``OverlapLayer`` of the measured rows, written with one kind of collectives."""

    def __init__(self, network: Network) -> None:
        self.layers = model().num_layers
        self.dependencies = dependencies(network)
        self._table = operators(network)
        kv_bytes = kv_bytes_per_token(model(), model().quantization.kv_cache)
        bytes_per_s = _DECODE_ATTENTION_BYTES / (MEASURED_MS["decode attention"] * 1e-3)
        flops_per_s = _PROMPT_ATTENTION_FLOPS / (MEASURED_MS["prefill attention"] * 1e-3)
        self.context_s = kv_bytes / bytes_per_s / self.layers
        self.pair_s = 4.0 * model().hidden_size / flops_per_s

    def attention_s(
        self, chunks: Sequence[tuple[int, int]], num_decodes: int, decode_context: int
    ) -> tuple[float, float]:
        """See ``OverlapLayer``."""
        pairs = sum(new * (cached + 0.5 * (new + 1)) for new, cached in chunks)
        return self.context_s * decode_context, self.pair_s * pairs

    def operators(self, tokens: float, decode_s: float, prompt_s: float) -> tuple[OpProfile, ...]:
        """See ``OverlapLayer``."""
        own = {"decode attention": decode_s, "prefill attention": prompt_s}
        return tuple(
            replace(op, best_s=max(own[op.name], 1e-9))
            if op.name in own
            else replace(op, best_s=op.piece_s(tokens / BATCH_TOKENS))
            for op in self._table
        )


class SequentialClock:
    """A ``StepClock`` of a layer's operators one by one."""

    num_stages = 1

    def __init__(self, layer: MeasuredLayer) -> None:
        self._layer = layer

    def step_s(
        self, chunks: Sequence[tuple[int, int]], num_decodes: int, decode_context: int
    ) -> float:
        """See ``StepClock``."""
        layer = self._layer
        tokens = num_decodes + sum(new for new, _ in chunks)
        times_s = layer.attention_s(chunks, num_decodes, decode_context)
        others = sum(op.best_s for op in layer.operators(float(tokens), 0.0, 0.0))
        return layer.layers * (others + sum(times_s))

    def decode_line(self, num_decodes: int, decode_context: int) -> tuple[float, float, int]:
        """See ``StepClock``."""
        layer = self._layer
        return self.step_s((), num_decodes, 0), layer.layers * layer.context_s, _FOREVER

    def swap_s(self, num_tokens: int) -> float:
        """See ``StepClock``: over 8 host links of 25 GB/s."""
        kv_bytes = kv_bytes_per_token(model(), model().quantization.kv_cache)
        return num_tokens * kv_bytes / (DEVICES * 25e9)

    def host_s(self, num_decodes: int) -> float:
        """See ``StepClock``."""
        return 0.0


@functools.cache
def _pairs(path: Path) -> np.ndarray:
    """[n, 2] prompt and output tokens of a trace."""
    rows = np.loadtxt(path, delimiter=",", skiprows=1, usecols=(1, 2), dtype=np.int64)
    return rows[(rows.sum(axis=1) <= _LONGEST) & (rows.min(axis=1) > 0)]


@functools.cache
def searched_for(path: Path) -> tuple[Network, OverlapPlan]:
    """The plan for the dense batch that a trace's lengths lead to, and how it is written.

    As many requests end as start, so decodes hold the share of output tokens; a decode is met in
    proportion to its length.
    """
    prompt, output = _pairs(path).astype(float).T
    decodes = BATCH_TOKENS * output.mean() / (prompt + output).mean()
    context = decodes * (prompt * output + output**2 / 2).mean() / output.mean()
    pairs = (BATCH_TOKENS - decodes) * (prompt**2).mean() / 2 / prompt.mean()
    tables = []
    for network in _NETWORKS:
        layer = MeasuredLayer(network)
        table = layer.operators(
            float(BATCH_TOKENS), layer.context_s * context, layer.pair_s * pairs
        )
        tables.append(Table(table, layer.dependencies))
    best, plan = search_rewrites(
        tables, CURVES, batch_tokens=BATCH_TOKENS, layers=model().num_layers
    )
    return _NETWORKS[best], plan


def _workload(path: Path, seed: int) -> Workload:
    """Pairs of a trace in random order, all there at the start."""
    pairs = _pairs(path)
    num = min(len(pairs), int(_RUN_TOKENS / pairs.sum(axis=1).mean()))
    chosen = pairs[stream(seed, "nanoflow order").permutation(len(pairs))[:num]]
    return Workload(
        name=path.name,
        arrival_s=np.zeros(num),
        prompt_tokens=chosen[:, 0],
        output_tokens=chosen[:, 1],
        max_tokens=np.full(num, _LONGEST),
        source=path.name,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Steady:
    """The part of a run between its first and its last full dense batch."""

    tokens_per_s: float
    full_fraction: float
    """Steps that hold exactly the dense batch."""
    decodes: float
    context: float
    whole_tokens_per_s: float
    """Over the whole run, with its start and its end."""


def steady(record: RunRecord) -> Steady:
    """What a run did while its batch was full; tokens of prompts count as those of outputs."""
    steps = record.steps
    tokens = (steps.prefill_tokens + steps.num_decodes) * steps.num_steps
    time_s = steps.num_steps * (steps.step_s + steps.growth_s * (steps.num_steps - 1) / 2)
    full = (steps.prefill_tokens + steps.num_decodes) == BATCH_TOKENS
    inside = np.flatnonzero(full)
    part = slice(inside[0], inside[-1] + 1) if len(inside) else slice(0, len(tokens))
    weights = steps.num_steps[part]
    return Steady(
        tokens_per_s=float(tokens[part].sum() / time_s[part].sum()),
        full_fraction=float(np.average(full[part], weights=weights)),
        decodes=float(np.average(steps.num_decodes[part], weights=weights)),
        context=float(np.average(steps.decode_context[part], weights=weights)),
        whole_tokens_per_s=float(tokens.sum() / record.end_s),
    )


@functools.lru_cache(maxsize=64)
def _served(path: Path, seed: int, how: How) -> Steady:
    """ "greedy": the plan's pieces, each asking for the whole device; "256 requests": chunked
    prefill with vLLM's default bound, operators one by one."""
    network, plan = searched_for(path)
    layer = MeasuredLayer(network)
    clock: SequentialClock | OverlapClock = SequentialClock(layer)
    if how == "greedy":
        plan = replace(plan, pieces=tuple(replace(piece, share=1.0) for piece in plan.pieces))
    if how in ("overlapped", "greedy"):
        clock = OverlapClock(clock, layer, plan, CURVES)
    workload = _workload(path, seed)
    policy: StepPolicy = NanoPolicy(
        token_budget=BATCH_TOKENS, mean_output_tokens=float(workload.output_tokens.mean())
    )
    if how == "256 requests":
        policy = ChunkedPrefillPolicy(token_budget=BATCH_TOKENS)
    kv_bytes = kv_bytes_per_token(model(), model().quantization.kv_cache)
    blocks = int((_MEMORY_BYTES - weight_bytes(model())) / kv_bytes / _BLOCK)
    spec = InstanceSpec(
        clock=clock,
        policy=policy,
        num_blocks=blocks,
        host_blocks=blocks,
        max_num_seqs=256 if how == "256 requests" else BATCH_TOKENS,
        max_model_len=_LONGEST,
        prefix_caching=False,
    )
    return steady(SimulatedExecutor([spec], RoundRobinPolicy(), seed=seed).run(workload))


def _gain(name: str, how: How) -> Callable[[Context], Measured]:
    """Throughput over that of the same steps with operators one by one."""

    def compute(context: Context) -> Measured:
        path = context.file(TRACES[name])
        seeds = context.seeds if how == "overlapped" else context.seeds[:1]
        runs = [(_served(path, s, how), _served(path, s, "sequential")) for s in seeds]
        values = tuple(ours.tokens_per_s / theirs.tokens_per_s for ours, theirs in runs)
        ours, theirs = runs[0]
        whole = ours.whole_tokens_per_s / theirs.whole_tokens_per_s
        return Measured(
            value=float(np.median(values)),
            values=values,
            detail=f"{ours.tokens_per_s / DEVICES:.0f} against {theirs.tokens_per_s / DEVICES:.0f} "
            f"tokens/s/GPU; {ours.decodes:.0f} decodes over {ours.context / 1e3:.0f}k tokens of KV "
            f"in the mean step; {whole:.3f} with start and end of the run",
        )

    return compute


def _full(name: str, how: How) -> Callable[[Context], Measured]:
    def compute(context: Context) -> Measured:
        path = context.file(TRACES[name])
        values = tuple(_served(path, seed, how).full_fraction for seed in context.seeds)
        return Measured(value=min(values), values=values)

    return compute


def _over_capped(context: Context) -> Measured:
    path = context.file(TRACES["LMSYS"])
    values = tuple(
        _served(path, seed, "overlapped").whole_tokens_per_s
        / _served(path, seed, "256 requests").whole_tokens_per_s
        for seed in context.seeds
    )
    return Measured(value=float(np.median(values)), values=values, detail="LMSYS, the whole run")


SERVING_CHECKS = (
    *(
        Check(
            claim="traces",
            title=f"{name} lengths end to end, overlapped over one by one",
            how="simulated",
            band=Between(1.10, 1.30),
            compute=_gain(name, "overlapped"),
            unit="x",
            ablation=_gain(name, "greedy"),
            ablation_title="the same pieces, each asking for the whole device",
            slow=True,
        )
        for name in TRACES
    ),
    Check(
        claim="traces",
        title="steps with exactly the dense batch, ShareGPT lengths",
        how="simulated",
        band=Between(0.99, 1.0),
        compute=_full("ShareGPT", "overlapped"),
        unit="of steps",
        ablation=_full("ShareGPT", "256 requests"),
        ablation_title="chunked prefill with at most 256 requests",
        slow=True,
    ),
    Check(
        claim="best-rival",
        title="overlapped over chunked prefill with at most 256 requests, one by one",
        how="simulated",
        band=Report("1.91x over the best rival needs the rival's kernels"),
        compute=_over_capped,
        unit="x",
        slow=True,
    ),
)
