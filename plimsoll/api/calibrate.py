"""Measure the machine at hand and write a hardware file that every verb takes.

The file is a device like the bundled ones, with a ``measured`` group: times of linear layers,
attention and the operators between them, of the engine, and rates of copies, disk and
collectives, each with its error. Leaves out: power, several machines.
Source: plimsoll/serving/executors/torch/measure.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plimsoll.api.commands import command
from plimsoll.report.document import Report, Table
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import UnsupportedError
from plimsoll.spec.hardware import Device
from plimsoll.spec.io import plain, write
from plimsoll.spec.measured import (
    Coefficient,
    LinearTimes,
    MeasuredKernels,
    MeasuredRates,
    PassFactors,
)

__all__ = ["CalibrateAnswer", "calibrate"]

_SHOWN_TOKENS = (1, 4, 16, 64, 256, 1024)


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateAnswer:
    """What was measured, and the file it is in."""

    device: Device
    dtype: DType
    device_text: str
    path: Path

    @property
    def kernels(self) -> MeasuredKernels:
        """The kernels that were measured."""
        assert self.device.measured is not None
        return self.device.measured.kernels[self.dtype]

    def report(self) -> Report:
        """See ``Answer``."""
        measured, kernels = self.device.measured, self.kernels
        assert measured is not None
        error = kernels.pass_error_fraction
        notes = [
            f"linear layers: {_percent(kernels.linear.spread_fraction)} spread of repeats, "
            f"{_percent(kernels.linear.error_fraction)} median error at shapes outside the table",
        ]
        if measured.engine is None:
            notes.append("the engine's own time was not measured: clocks are of forward passes")
        if not measured.rates.collective:
            notes.append("collectives: not measured")
        return Report(
            title=f"Measured {self.device_text} in {self.dtype.value}; written to {self.path}",
            subtitle=f"{measured.software}, {measured.num_threads} threads"
            + (
                f"; clock against {kernels.num_passes} whole forward passes: "
                f"{_percent(error)} median error"
                if error is not None
                else ""
            ),
            command=command("calibrate", "--device", self.device_text, "--dtype", self.dtype.value),
            tables=(
                _linear_table(kernels.linear, self.dtype),
                _coefficient_table(self),
                _rate_table(measured.rates),
            ),
            assumptions=self.device.assumptions,
            notes=tuple(notes),
            next_command=command("fit", "qwen3-0.6b", "--on", f"1x{self.path}"),
        )

    def data(self) -> dict[str, Any]:
        """See ``Answer``."""
        return {"format_version": 1, "path": str(self.path), "device": plain(self.device)}


def calibrate(
    device: str = "cpu",
    dtype: DType = DType.FP32,
    *,
    out: Path = Path("here.yaml"),
    quick: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> CalibrateAnswer:
    """Measure ``device`` in ``dtype`` and write ``out``; ``quick`` takes tiny sizes, for a try.

    Raises:
        SpecError: no such device here.
        UnsupportedError: torch is not installed, or the format is not measured.
    """
    try:
        from plimsoll.serving.executors.torch.measure import FULL, QUICK, measure_device
    except ImportError as error:
        raise UnsupportedError(f"calibrate needs {error.name}; install plimsoll[torch]") from None
    found = measure_device(device, dtype, name=out.stem, sizes=QUICK if quick else FULL, say=say)
    write(found, out)
    return CalibrateAnswer(device=found, dtype=dtype, device_text=device, path=out)


def _times(factor: float) -> str:
    return f"{factor:.2f} x"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def _linear_table(table: LinearTimes, dtype: DType) -> Table:
    """Rates at which weights go by, at a few sizes, out of the caches and in them."""
    tokens = [t for t in table.tokens if t in _SHOWN_TOKENS]
    rows = []
    sizes = [(o, i) for o in range(len(table.outputs)) for i in range(len(table.inputs))]
    for o, i in sizes[:: max(1, len(sizes) // 6)]:
        outputs, inputs = table.outputs[o], table.inputs[i]
        for c, where in ((-1, "memory"), (0, "cache")):
            line = table.seconds[c][o][i]
            cells = [
                f"{outputs * inputs * dtype.bytes / line[table.tokens.index(t)] / 1e9:.3g}"
                for t in tokens
            ]
            rows.append((f"{outputs} x {inputs}, {where}", *cells))
    return Table(
        title="Linear layers: GB/s of weights, by tokens",
        columns=("outputs x inputs", *(str(t) for t in tokens)),
        rows=tuple(rows),
    )


def _coefficient_table(answer: CalibrateAnswer) -> Table:
    kernels, measured = answer.kernels, answer.device.measured
    assert measured is not None
    groups: list[tuple[str, object, float | None]] = [
        ("decode attention", kernels.decode, kernels.decode.error_fraction),
        ("prompt attention", kernels.prefill, kernels.prefill.error_fraction),
        ("light operators", kernels.light, kernels.light.error_fraction),
        ("sampling", kernels.sampling, kernels.sampling.error_fraction),
    ]
    if kernels.factors is not None:
        factors = kernels.factors
        groups.append(("a whole pass over its parts", factors, factors.error_fraction))
    if measured.engine is not None:
        groups.append(("engine", measured.engine, None))
    rows = []
    for name, group, error in groups:
        for field_name in type(group).__dataclass_fields__:  # type: ignore[attr-defined]
            value = getattr(group, field_name)
            parts = value if isinstance(value, tuple) else (value,)
            for index, part in enumerate(parts):
                if isinstance(part, Coefficient):
                    label = field_name if len(parts) == 1 else f"{field_name}[{index}]"
                    show = _times if isinstance(group, PassFactors) else _seconds
                    rows.append((f"{name}: {label}", show(part.value), show(part.error)))
        if error is not None:
            rows.append((f"{name}: median error of the fit", _percent(error), ""))
    return Table(title="Coefficients", columns=("", "value", "error"), rows=tuple(rows))


def _rate_table(rates: MeasuredRates) -> Table:
    rows = []
    for name, words in (
        ("copy_bytes_per_s", "memory copy, each byte once"),
        ("copy_traffic_bytes_per_s", "memory copy, read and write counted"),
        ("swap_out_bytes_per_s", "device to host"),
        ("swap_in_bytes_per_s", "host to device"),
        ("swap_s", "a small swap"),
        ("disk_write_bytes_per_s", "disk write, flushed"),
        (
            "disk_read_bytes_per_s",
            "disk read, from the system's cache" if rates.disk_read_cached else "disk read",
        ),
        ("all_reduce_s", f"all-reduce of two processes, {rates.collective}: latency"),
        ("all_reduce_bytes_per_s", f"all-reduce of two processes, {rates.collective}"),
        ("send_s", f"send, {rates.collective}: latency"),
        ("send_bytes_per_s", f"send, {rates.collective}"),
    ):
        value: Coefficient | None = getattr(rates, name)
        if value is None:
            continue
        if name.endswith("bytes_per_s"):
            shown = [f"{x / 1e9:.3g} GB/s" for x in (value.value, value.error)]
        else:
            shown = [_seconds(x) for x in (value.value, value.error)]
        rows.append((words, *shown))
    return Table(title="Rates", columns=("", "value", "error"), rows=tuple(rows))


def _seconds(value: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9), ("ps", 1e-12)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e-15:.3g} fs" if value else "0"
