"""The clock made from the measurements against whole forward passes.

Random Llamas run prompt chunks, decode batches and mixed steps through the engine's own paged
context; each is timed and predicted from the hardware file and the shapes. On the first models it
is found how much longer the parts of a whole pass take than alone; on others, which no coefficient
saw, the clock is checked. Leaves out: the engine around the pass.
Source: cost/measured_clock.py.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from plimsoll.cost.measured_clock import measured_clock
from plimsoll.cost.measured_fit import pass_factors
from plimsoll.models.loading import build
from plimsoll.models.packed import pack_linears
from plimsoll.serving.executors.torch.measure.light_operators import llama_config
from plimsoll.serving.executors.torch.measure.paged_pass import (
    PreparedPass,
    num_blocks,
    paged_store,
    paged_work,
)
from plimsoll.serving.executors.torch.measure.sizes import ModelSizes, Sizes, StepSizes
from plimsoll.serving.executors.torch.measure.stopwatch import Stopwatch
from plimsoll.spec.dtype import DType
from plimsoll.spec.hardware import Device
from plimsoll.spec.hf.config import model_from_config
from plimsoll.spec.measured import PassFactors

__all__ = ["PassPoint", "check_passes", "median_error", "whole_pass_factors"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PassPoint:
    """A pass: what ran, what the clock says, what it took."""

    model: str
    kind: str
    chunks: tuple[tuple[int, int], ...]
    contexts: tuple[int, ...]
    parts: Mapping[str, float]
    measured_s: float

    @property
    def predicted_s(self) -> float:
        """The clock's sum."""
        return sum(self.parts.values())

    @property
    def error(self) -> float:
        """Predicted over measured, less one."""
        return self.predicted_s / self.measured_s - 1.0


def median_error(points: Sequence[PassPoint]) -> float:
    """The median of the absolute relative errors."""
    return statistics.median(abs(point.error) for point in points)


def check_passes(
    device: Device, dtype: DType, sizes: Sizes, watch: Stopwatch, kind: torch.dtype
) -> list[PassPoint]:
    """Time and predict every pass of ``sizes.check_models`` and ``sizes.check_steps``."""
    return _passes(device, dtype, sizes, watch, kind, sizes.check_models, sizes.check_steps)


def whole_pass_factors(
    device: Device, dtype: DType, sizes: Sizes, watch: Stopwatch, kind: torch.dtype
) -> PassFactors:
    """What parts take more in whole passes of ``sizes.probe_models``; ``device`` has no factors."""
    points = _passes(device, dtype, sizes, watch, kind, sizes.probe_models, sizes.probe_steps)
    parts = [
        (
            p.parts["linear"] + p.parts["head"],
            p.parts["attention"],
            p.parts["light"] + p.parts["sampling"],
        )
        for p in points
    ]
    return pass_factors(parts, [p.measured_s for p in points])


def _passes(
    device: Device,
    dtype: DType,
    sizes: Sizes,
    watch: Stopwatch,
    kind: torch.dtype,
    models: Sequence[ModelSizes],
    steps: Sequence[StepSizes],
) -> list[PassPoint]:
    points = []
    for hidden, intermediate, heads, layers, vocabulary in models:
        config = llama_config(hidden, intermediate, heads, layers=layers, vocabulary=vocabulary)
        spec = model_from_config(dict(config), name=f"{layers}x{hidden}", where="check")
        clock = measured_clock(spec, device, dtype=dtype, forward_only=True)
        model: Any = build(config, dtype=kind, device=watch.device)
        pack_linears(model)
        for chunks, contexts in steps:
            blocks = num_blocks(chunks, contexts)
            store = paged_store(model.kv_shapes, blocks, kind, watch.device)
            run = PreparedPass(model, store, paged_work(chunks, contexts))
            took_s = min(
                watch.time(run, 3 * sizes.cell_s, least=3).call_s
                for _ in range(min(2, sizes.rounds))
            )
            points.append(
                PassPoint(
                    model=spec.name,
                    kind="mixed" if chunks and contexts else "prefill" if chunks else "decode",
                    chunks=chunks,
                    contexts=contexts,
                    parts=clock.step_parts(chunks, len(contexts), sum(contexts)),
                    measured_s=took_s,
                )
            )
    return points
