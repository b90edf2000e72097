"""Does a model fit on this hardware, and what is the most it could do there?

Memory is exact arithmetic on the model's shapes; the two speeds shown are what the cost model
says of a single request and of a full batch. No search, no simulation: seconds for nothing.
"""

from dataclasses import dataclass
from typing import Any

from plimsoll.api.commands import command
from plimsoll.api.fit_changes import Asked, cuts_of, nothing_fits
from plimsoll.api.latency_bands import factors
from plimsoll.cost.error_bands import Metric, latency_band
from plimsoll.cost.gemm import multiply_format
from plimsoll.cost.kv import kv_bytes_per_token
from plimsoll.cost.memory import Footprint, footprint, kv_capacity, max_context
from plimsoll.cost.step import replica_clock
from plimsoll.report.band_words import EIGHT_OF_TEN, band_range, widened_words
from plimsoll.report.document import Report, Table
from plimsoll.report.pictures import MemoryPart, MemoryWaterfall
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import SpecError
from plimsoll.spec.fleet import parse_fleet
from plimsoll.spec.hardware import FleetPart
from plimsoll.spec.io import plain
from plimsoll.spec.model import ModelSpec
from plimsoll.spec.model_files import load_model
from plimsoll.spec.origin import Band, Origin
from plimsoll.spec.parameters import active_parameters, total_parameters
from plimsoll.spec.plan import Parallel
from plimsoll.spec.streams import PREFIX_TOKENS, with_streams
from plimsoll.spec.units import format_bytes, format_seconds

__all__ = ["FitAnswer", "FitRow", "fit"]

_MOST_REQUESTS = 1024
_LITTLE_ROOM = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRow:
    """One way to cut the model on one kind of device.

    ``num_requests`` of the stated context fit at once in one replica; ``step_s`` is a decode
    step of one request, ``full_step_s`` of all of them; ``prefill_s`` one prompt of that context.
    """

    device: str
    tp: int
    pp: int
    replicas: int
    memory: Footprint
    memory_bytes: float
    kv_token_bytes: float
    kv_tokens: int
    longest_context: int
    num_requests: int
    step_s: float
    full_step_s: float
    prefill_s: float
    origin: Origin

    @property
    def output_tokens_per_s(self) -> float:
        """Of all replicas, decoding full batches without a pause: an upper bound."""
        return self.replicas * self.num_requests / self.full_step_s


@dataclass(frozen=True, slots=True, kw_only=True)
class FitAnswer:
    """Every cut that fits, best first: most output tokens/s that the memory allows."""

    model: ModelSpec
    model_text: str
    fleet_text: str
    context_tokens: int
    weight_dtype: DType | None
    kv_dtype: DType
    rows: tuple[FitRow, ...]
    too_large: tuple[tuple[str, int, float, float], ...]
    assumptions: tuple[str, ...]

    def report(self) -> Report:
        """See ``Answer``."""
        best = self.rows[0]
        model = self.model
        weights = self.weight_dtype.value if self.weight_dtype else _formats(model)
        total, active = total_parameters(model), active_parameters(model)
        size = f"{total / 1e9:.4g} B parameters"
        if active < 0.95 * total:
            size += f", {active / 1e9:.3g} B active"
        mixed = len({row.device for row in self.rows}) > 1
        table = Table(
            title=f"Ways to cut it, {self.context_tokens:,} tokens a request",
            columns=(
                "cut",
                "copies",
                "weights",
                "KV/token",
                "requests",
                "TPOT 1",
                "full",
                "prefill",
            ),
            rows=tuple(self._cells(row, mixed, row is best) for row in self.rows),
            notes=(
                "* best start: most output tokens/s that memory allows",
                "weights and KV of one GPU; requests at once in one copy; TPOT of one and of all "
                f"of them; prefill of {self.context_tokens:,} tokens",
                self._band_note(best),
                *(
                    f"tp {row.tp}{f' pp {row.pp}' if row.pp > 1 else ''} on {row.device}: little "
                    f"room for KV, {row.kv_tokens:,} tokens"
                    for row in self.rows
                    if row.num_requests < _LITTLE_ROOM
                ),
                *(
                    f"does not fit: tp {tp} on {device}, weights {format_bytes(need)} a GPU of "
                    f"{format_bytes(limit)}"
                    for device, tp, need, limit in self.too_large
                ),
            ),
        )
        words = "copy" if best.replicas == 1 else "copies"
        before = PREFIX_TOKENS if model.streams > 1 else 0
        return Report(
            title=(
                f"{model.name} fits on {self.fleet_text}: {best.replicas} {words} of "
                f"tp {best.tp}{f' pp {best.pp}' if best.pp > 1 else ''}, "
                f"{best.num_requests:,} requests of {self.context_tokens:,} tokens each"
            ),
            subtitle=f"{size}, weights {weights}, KV {self.kv_dtype.value}; "
            f"memory derived from the configuration, times {best.origin.value}",
            command=command("fit", self.model_text, "--on", self.fleet_text, *self._streams()),
            tables=(table,),
            pictures=(_waterfall(best, self.context_tokens + before),),
            assumptions=self.assumptions,
            next_command=command(
                "plan",
                self.model_text,
                "--on",
                self.fleet_text,
                "--ttft-p99",
                "2s",
                "--tpot-p99",
                "60ms",
                *(("--set", f"streams={model.streams}") if self._streams() else ()),
            ),
        )

    def _streams(self) -> tuple[str, ...]:
        return ("--streams", str(self.model.streams)) if self.model.streams > 1 else ()

    def data(self) -> dict[str, Any]:
        """See ``Answer``."""
        return {
            "format_version": 1,
            "model": self.model.name,
            "fleet": self.fleet_text,
            "context_tokens": self.context_tokens,
            "total_parameters": total_parameters(self.model),
            "active_parameters": active_parameters(self.model),
            "rows": [
                {
                    **plain(row),
                    "output_tokens_per_s_bound": row.output_tokens_per_s,
                    **{
                        key: factor
                        for name, band in self.bands(row).items()
                        for key, factor in factors(name, band).items()
                    },
                }
                for row in self.rows
            ],
            "assumptions": list(self.assumptions),
        }

    def bands(self, row: FitRow) -> dict[str, Band]:
        """Error bands of a cut's times: TPOT of one request and of all, and the prefill.

        A prefill alone is the TTFT of a request that waits for nothing.
        """

        def band(metric: Metric, num_requests: int) -> Band:
            return latency_band(
                metric,
                disaggregated=False,
                device=row.device,
                model=self.model,
                prompt_tokens=self.context_tokens,
                output_tokens=None,
                batch_per_device=num_requests / (row.tp * row.pp),
            )

        return {
            "step": band("tpot", 1),
            "full_step": band("tpot", row.num_requests),
            "prefill": band("ttft", 1),
        }

    def _band_note(self, row: FitRow) -> str:
        bands = self.bands(row)
        shown = (
            ("TPOT 1", row.step_s, bands["step"]),
            ("full", row.full_step_s, bands["full_step"]),
            ("prefill", row.prefill_s, bands["prefill"]),
        )
        ranges = ", ".join(f"{name} {band_range(value, band)}" for name, value, band in shown)
        wider = widened_words(*bands.values())
        return f"times of the best start {EIGHT_OF_TEN}: {ranges}{wider}"

    @staticmethod
    def _cells(row: FitRow, mixed: bool, best: bool) -> tuple[str, ...]:
        cut = ("* " if best else "  ") + f"tp {row.tp}" + (f" pp {row.pp}" if row.pp > 1 else "")
        return (
            f"{cut} {row.device}" if mixed else cut,
            str(row.replicas),
            format_bytes(row.memory.weights_bytes),
            format_bytes(row.kv_token_bytes),
            f"{row.num_requests:,}",
            format_seconds(row.step_s),
            format_seconds(row.full_step_s),
            format_seconds(row.prefill_s),
        )


def fit(
    model: str,
    on: str,
    *,
    context_tokens: int = 0,
    weight_dtype: DType | None = None,
    kv_dtype: DType | None = None,
    memory_fraction: float = 0.9,
    streams: int = 1,
) -> FitAnswer:
    """Every way to cut ``model`` onto the fleet ``on`` that its memory allows.

    ``context_tokens`` 0: 5,000 (4,000 in, 1,000 out), or the model's own context if shorter.
    ``streams``: parallel streams that its weights were trained for.

    Raises:
        InfeasibleError: no cut fits; it says by how much and what would.
    """
    spec = with_streams(load_model(model), streams)
    fleet = parse_fleet(on)
    if not 0 < memory_fraction <= 1:
        raise SpecError(f"memory fraction {memory_fraction:g} is outside (0, 1]")
    if context_tokens < 0 or context_tokens > spec.max_context:
        raise SpecError(
            f"context of {context_tokens:,} tokens is outside what {spec.name} was made for "
            f"(1 to {spec.max_context:,})"
        )
    context = context_tokens or min(5000, spec.max_context)
    assumptions = list(spec.assumptions)
    if not context_tokens:
        assumptions.append(f"{context:,} tokens a request (4,000 in, 1,000 out); set --context")
    assumptions.append(
        f"the engine may take {memory_fraction:.0%} of device memory; 8,192 tokens a step; "
        "no prefix hits"
    )
    cached = kv_dtype or spec.quantization.kv_cache
    rows: list[FitRow] = []
    too_large: list[tuple[str, int, float, float]] = []
    parts = _merged(fleet.parts)
    for part in parts:
        if weight_dtype is not None:
            how = multiply_format(weight_dtype, part.device)
            if how.expanded:
                assumptions.append(
                    f"{part.device.name} multiplies {weight_dtype.value} weights in "
                    f"{how.math.value}: they are widened as they are read"
                )
        for tp, pp in cuts_of(spec, part, weight_dtype):
            parallel = Parallel(tp=tp, pp=pp)
            memory = footprint(
                spec,
                part.device,
                parallel,
                weight_dtype=weight_dtype,
                memory_fraction=memory_fraction,
            )
            capacity = kv_capacity(
                spec,
                part.device,
                parallel,
                weight_dtype=weight_dtype,
                kv_dtype=cached,
                memory_fraction=memory_fraction,
            )
            num = capacity.max_concurrency(context)
            if num < 1:
                need = memory.needed_bytes
                too_large.append((part.device.name, tp, need, memory.limit_bytes))
                continue
            clock = replica_clock(
                spec,
                part.device,
                parallel,
                weight_dtype=weight_dtype,
                kv_dtype=cached,
                num_devices_per_node=part.node.num_devices,
            )
            slots = clock.num_stages
            shown = min(num, _MOST_REQUESTS)
            per_slot = max(1, shown // slots)
            rows.append(
                FitRow(
                    device=part.device.name,
                    tp=tp,
                    pp=pp,
                    replicas=part.num_devices // parallel.num_devices,
                    memory=memory,
                    memory_bytes=part.device.memory_bytes,
                    kv_token_bytes=kv_bytes_per_token(spec, cached, tp) / pp,
                    kv_tokens=capacity.num_tokens,
                    longest_context=max_context(capacity, spec),
                    num_requests=shown,
                    step_s=slots * clock.step_s((), 1, context),
                    full_step_s=slots * clock.step_s((), per_slot, per_slot * context),
                    prefill_s=slots * clock.step_s(((context, 0),), 0, 0),
                    origin=Origin(clock.origin),
                )
            )
    if any(row.num_requests == _MOST_REQUESTS for row in rows):
        assumptions.append(f"at most {_MOST_REQUESTS:,} requests at once in one copy")
    if not rows:
        asked = Asked(
            model=spec,
            weight_dtype=weight_dtype,
            kv_dtype=cached,
            context_tokens=context,
            memory_fraction=memory_fraction,
        )
        raise nothing_fits(asked, on, parts, too_large)
    rows.sort(key=lambda row: (-row.output_tokens_per_s, row.device, row.tp, row.pp))
    return FitAnswer(
        model=spec,
        model_text=model,
        fleet_text=on,
        context_tokens=context,
        weight_dtype=weight_dtype,
        kv_dtype=cached,
        rows=tuple(rows),
        too_large=tuple(too_large),
        assumptions=tuple(assumptions),
    )


def _merged(parts: tuple[FleetPart, ...]) -> list[FleetPart]:
    """Parts with the same device and node size counted together."""
    merged: dict[tuple[str, int], FleetPart] = {}
    for part in parts:
        key = (part.device.name, part.node.num_devices)
        before = merged.get(key)
        count = part.num_nodes + (before.num_nodes if before else 0)
        merged[key] = FleetPart(node=part.node, num_nodes=count)
    return list(merged.values())


def _waterfall(row: FitRow, context: int) -> MemoryWaterfall:
    memory = row.memory
    kv = row.num_requests * context * row.kv_token_bytes
    return MemoryWaterfall(
        title=f"Memory of one {row.device} at tp {row.tp}"
        f"{f' pp {row.pp}' if row.pp > 1 else ''}, KV of {row.num_requests:,} requests",
        parts=(
            MemoryPart(name="weights", size_bytes=memory.weights_bytes),
            MemoryPart(
                name="activations", size_bytes=memory.activations_bytes, origin=Origin.MODELED
            ),
            MemoryPart(name="CUDA graphs", size_bytes=memory.graphs_bytes, origin=Origin.MODELED),
            MemoryPart(name="runtime", size_bytes=memory.reserve_bytes, origin=Origin.MODELED),
            MemoryPart(name="KV cache", size_bytes=min(kv, memory.kv_budget_bytes)),
        ),
        limit_bytes=memory.limit_bytes,
        capacity_bytes=row.memory_bytes,
    )


def _formats(model: ModelSpec) -> str:
    q = model.quantization
    formats = {q.mixer.value, q.ffn.value, q.experts.value}
    return formats.pop() if len(formats) == 1 else "mixed " + "/".join(sorted(formats))
