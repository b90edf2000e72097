"""A published run replayed: the same arrivals and lengths through the simulator and its policy.

The engine is vLLM 0.6.0 as it starts for a model of long context: prompts in chunks of 512 tokens
beside the decodes (engine/arg_utils.py of that release). The clock is the operator model, with a
measured profile of the multiplies where one is given and the engine's own time per step. Replicas
of a data-parallel row are replayed one by one, each with the requests it was sent.
"""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from plimsoll.catalog.apex_runs import RATES, PublishedRun
from plimsoll.cost.efficiency import calibration_for
from plimsoll.cost.host import EngineProfile, engine_profile
from plimsoll.cost.memory import footprint, kv_capacity
from plimsoll.cost.operators import Setting, step_program
from plimsoll.cost.step import ReplicaClock
from plimsoll.cost.tables import ProfileTable, profiled_program, read_mlp_profile
from plimsoll.serving.executors.simulated import InstanceSpec, SimulatedExecutor
from plimsoll.serving.policies.chunked_prefill import ChunkedPrefillPolicy
from plimsoll.serving.simulate.run import router_for
from plimsoll.spec.fleet import load_device
from plimsoll.spec.model_files import load_model
from plimsoll.spec.plan import Parallel, RoundRobinRouter
from plimsoll.spec.workload import Workload

__all__ = [
    "CHUNK_TOKENS",
    "DEVICE",
    "MAX_SEQS",
    "MODEL",
    "TABLE_FILE",
    "Errors",
    "Outcome",
    "bare",
    "clock_for",
    "errors_of",
    "fitted_engine",
    "num_blocks",
    "replay",
    "table_at",
    "workload_of",
]

MODEL = "llama-3.1-70b"
DEVICE = "h100-sxm"
CHUNK_TOKENS = 512
MAX_SEQS = 256
_MEMORY_FRACTION = 0.9
TABLE_FILE = "vidur_profiles/h100_Llama-2-70b-hf_mlp.csv.gz"
"""Llama-2-70B has the layers of Llama-3.1-70B; the LM head, which differs, is not in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a replay gave, by the published definitions: no queueing in ``ttft_s``, and all
    decoding time over all tokens produced."""

    ttft_s: float
    tpot_s: float
    e2e_s: float
    warnings: tuple[str, ...] = ()


def fitted_engine() -> EngineProfile:
    """vLLM 0.6 with its fitted constants."""
    return engine_profile("vllm-0.6")


def bare(engine: EngineProfile) -> EngineProfile:
    """The same kernels with no time of the engine's own."""
    return replace(engine, step_s=0.0, sequence_s=0.0, prompt_launch_s=0.0, request_s=0.0)


@functools.cache
def table_at(path: Path | None) -> ProfileTable | None:
    """The profile in a file, read once; None for none."""
    return None if path is None else read_mlp_profile(path)


def clock_for(
    tp: int, engine: EngineProfile, table: ProfileTable | None
) -> tuple[ReplicaClock, tuple[str, ...], float]:
    """(clock, operators without a profile, largest step profiled) of one replica."""
    model, device = load_model(MODEL), load_device(DEVICE)
    setting = Setting(
        model=model,
        device=device,
        parallel=Parallel(tp=tp),
        weight_dtype=None,
        kv_dtype=model.quantization.kv_cache,
        devices_per_node=device.devices_per_node,
        calibration=calibration_for(device),
        engine=engine,
        routing_exponent=0.0,
    )
    if table is None:
        return ReplicaClock(setting), (), float("inf")
    profiled = profiled_program(step_program(setting), table, model, tp)
    return ReplicaClock(setting, profiled.program), profiled.missing, profiled.most_tokens


def num_blocks(tp: int) -> int:
    """KV blocks of a replica of that degree; this release captures graphs outside its share."""
    model, device = load_model(MODEL), load_device(DEVICE)
    parts = footprint(model, device, Parallel(tp=tp), memory_fraction=_MEMORY_FRACTION)
    capacity = kv_capacity(
        model,
        device,
        Parallel(tp=tp),
        memory_fraction=_MEMORY_FRACTION + parts.graphs_bytes / device.memory_bytes,
        max_batched_tokens=CHUNK_TOKENS,
        max_num_seqs=MAX_SEQS,
    )
    return capacity.num_blocks


def replay(run: PublishedRun, engine: EngineProfile, table: ProfileTable | None) -> Outcome:
    """The run simulated from arrivals and realised lengths."""
    clock, missing, most_tokens = clock_for(run.tp, engine, table)
    spec = InstanceSpec(
        clock=clock,
        policy=ChunkedPrefillPolicy(token_budget=CHUNK_TOKENS),
        num_blocks=num_blocks(run.tp),
        max_num_seqs=MAX_SEQS,
        prefix_caching=False,
    )
    record = SimulatedExecutor([spec], router_for(RoundRobinRouter())).run(run.workload)
    requests, steps = record.requests, record.steps
    largest = int((steps.num_decodes + steps.prefill_tokens).max())
    decoding_s = requests.finished_s - requests.first_token_s
    warnings = tuple(f"no profile of {name}: operator model" for name in missing)
    if largest > most_tokens:
        warnings += (f"steps of {largest:,} tokens, profiled up to {most_tokens:,.0f}",)
    return Outcome(
        ttft_s=float(np.mean(requests.first_token_s - requests.scheduled_s)) + engine.request_s,
        tpot_s=float(decoding_s.sum() / run.workload.output_tokens.sum()),
        e2e_s=float(np.mean(requests.e2e_s)) + engine.request_s,
        warnings=warnings,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """Relative errors of predicted rows, signed."""

    names: tuple[str, ...]
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean absolute error."""
        return float(np.mean(np.abs(self.values)))

    @property
    def worst(self) -> float:
        """Largest absolute error."""
        return float(np.max(np.abs(self.values)))


def errors_of(
    runs: Sequence[PublishedRun], predicted: Iterable[float], measured: Iterable[float]
) -> Errors:
    """Errors by row of the published table: replicas of a row are averaged first."""
    rows: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for run, ours, theirs in zip(runs, predicted, measured, strict=True):
        rows.setdefault(run.row, []).append((ours, theirs))
    names = tuple(f"{trace} {setup} at {RATES[rate]:g}/s" for trace, rate, setup in rows)
    means = [np.mean(values, axis=0) for values in rows.values()]
    return Errors(names=names, values=tuple(float(ours / theirs - 1) for ours, theirs in means))


def workload_of(requests: Sequence[tuple[int, int, int]], name: str) -> Workload:
    """The requests of a trace as asked for."""
    columns = np.array(requests, dtype=np.int64).T
    return Workload(
        name=name,
        arrival_s=columns[0] / 1e9,
        prompt_tokens=columns[1],
        output_tokens=columns[2],
    )
