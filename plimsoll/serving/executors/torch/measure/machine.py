"""The machine at hand as a device: measured kernels and rates around what the system reports.

Peaks are the best dense multiply seen in each format, memory bandwidth the larger of a copy's
traffic and the fastest read of weights. Power cannot be read everywhere and is a placeholder that
the device's assumptions own up to. Source: torch, the operating system.
"""

import os
import platform
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import torch

from plimsoll.serving.executors.torch.measure.attentions import attention_times
from plimsoll.serving.executors.torch.measure.engine_overhead import engine_overhead
from plimsoll.serving.executors.torch.measure.light_operators import (
    light_operators,
    sampling_operators,
)
from plimsoll.serving.executors.torch.measure.linears import linear_times
from plimsoll.serving.executors.torch.measure.pass_check import (
    check_passes,
    median_error,
    whole_pass_factors,
)
from plimsoll.serving.executors.torch.measure.sizes import FULL, Sizes
from plimsoll.serving.executors.torch.measure.stopwatch import Stopwatch
from plimsoll.serving.executors.torch.measure.transfers import measured_rates
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import SpecError, UnsupportedError
from plimsoll.spec.hardware import Device, Link, PowerEnvelope
from plimsoll.spec.measured import LinearTimes, Measured, MeasuredKernels

__all__ = ["measure_device"]

_TORCH = {DType.FP32: torch.float32, DType.BF16: torch.bfloat16}
_BUSY_FRACTION = 0.25
_ASSUMED_CACHE_BYTES = 32 * 2**20


def measure_device(
    device: str,
    dtype: DType,
    *,
    name: str,
    sizes: Sizes = FULL,
    folder: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Device:
    """Measure ``device`` ("cpu" or "cuda:0") with models in ``dtype``; under three minutes.

    ``folder`` is where the disk is tried. ``say`` hears what is being measured.

    Raises:
        SpecError: no such device here. UnsupportedError: a format that is not measured.
    """
    found = _device_of(device)
    if dtype not in _TORCH:
        raise UnsupportedError(f"--dtype {dtype.value}: only fp32 and bf16 are measured")
    watch = Stopwatch(found)
    assumptions = [
        "power: not measured; 1 W at full load stands in, so ignore energy and cost a watt",
    ]
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > _BUSY_FRACTION * (os.cpu_count() or 1):
        assumptions.append(
            f"other programs ran before the measurement (load {load:.1f}): measure again when idle"
        )
    cache_bytes, assumed = _cache_bytes(found)
    if assumed:
        assumptions.append(assumed)
    kind = _TORCH[dtype]
    say("linear layers")
    linear = linear_times(sizes, kind, watch, cache_bytes)
    say("attention")
    decode, prefill = attention_times(sizes, kind, watch, cache_bytes)
    say("operators between the matrices")
    light = light_operators(sizes, kind, watch)
    sampling = sampling_operators(sizes, kind, watch)
    say("the engine around a pass")
    engine = engine_overhead(sizes, watch)
    say("copies, disk, collectives")
    rates = measured_rates(sizes, watch, folder)
    say("peaks")
    peaks = {d: _peak_flops_per_s(_TORCH[d], watch, sizes) for d in _TORCH}
    on_cpu = found.type == "cpu"
    link = None
    if rates.all_reduce_bytes_per_s is not None and rates.send_s is not None:
        assert rates.send_bytes_per_s is not None
        link = Link(
            kind=rates.collective,
            bytes_per_s=rates.send_bytes_per_s.value,
            latency_s=rates.send_s.value,
        )
    whole = Device(
        name=name,
        vendor="measured",
        family="cpu" if on_cpu else "measured",
        kind="cpu" if on_cpu else "gpu",
        memory_bytes=_memory_bytes(found),
        memory_bytes_per_s=max(
            rates.copy_traffic_bytes_per_s.value, _read_bytes_per_s(linear, dtype)
        ),
        peak_flops_per_s=peaks,
        num_cores=_num_cores(found),
        l2_bytes=cache_bytes,
        scale_up=link,
        devices_per_node=1 if on_cpu else max(1, torch.cuda.device_count()),
        host=Link(
            kind="memory-copy" if on_cpu else "pcie",
            bytes_per_s=min(rates.swap_out_bytes_per_s.value, rates.swap_in_bytes_per_s.value),
            latency_s=rates.swap_s.value,
        ),
        power=PowerEnvelope(idle_w=0.0, peak_w=1.0),
        source="measured by `plimsoll calibrate`",
        as_of=date.today().isoformat(),
        assumptions=tuple(assumptions),
        measured=Measured(
            kernels={
                dtype: MeasuredKernels(
                    linear=linear, decode=decode, prefill=prefill, light=light, sampling=sampling
                )
            },
            rates=rates,
            engine=engine,
            num_threads=torch.get_num_threads(),
            software=f"torch {torch.__version__}, Python {platform.python_version()}",
        ),
    )
    say("whole passes against the clock")
    factors = whole_pass_factors(whole, dtype, sizes, watch, kind)
    whole = _with_kernels(whole, dtype, lambda k: replace(k, factors=factors))
    points = check_passes(whole, dtype, sizes, watch, kind)
    return _with_kernels(
        whole,
        dtype,
        lambda k: replace(k, pass_error_fraction=median_error(points), num_passes=len(points)),
    )


def _with_kernels(
    device: Device, dtype: DType, change: Callable[[MeasuredKernels], MeasuredKernels]
) -> Device:
    assert device.measured is not None
    kernels = {**device.measured.kernels, dtype: change(device.measured.kernels[dtype])}
    return replace(device, measured=replace(device.measured, kernels=kernels))


def _device_of(text: str) -> torch.device:
    kind, _, index = text.strip().lower().partition(":")
    if kind == "cpu" and not index:
        return torch.device("cpu")
    if kind != "cuda" or (index and not index.isdigit()):
        raise SpecError(f"--device {text!r}: expected cpu, cuda or cuda:0")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(index or 0) >= count:
        raise SpecError(f"--device {text}: this machine shows {count} CUDA devices to torch")
    return torch.device("cuda", int(index or 0))


def _cache_bytes(device: torch.device) -> tuple[float, str]:
    """(bytes of the last cache, what was assumed or "")."""
    if device.type != "cpu":
        return float(torch.cuda.get_device_properties(device).L2_cache_size), ""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text(encoding="ascii").strip()
        if text.endswith("K") and text[:-1].isdigit():
            sizes.append(int(text[:-1]) * 1024)
    if sizes:
        return float(max(sizes)), ""
    return float(_ASSUMED_CACHE_BYTES), "last-level cache: not reported; 32 MiB taken"


def _memory_bytes(device: torch.device) -> float:
    if device.type != "cpu":
        return float(torch.cuda.get_device_properties(device).total_memory)
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _num_cores(device: torch.device) -> int:
    if device.type != "cpu":
        return int(torch.cuda.get_device_properties(device).multi_processor_count)
    return os.cpu_count() or 1


@torch.inference_mode()
def _peak_flops_per_s(dtype: torch.dtype, watch: Stopwatch, sizes: Sizes) -> float:
    width = min(2048, 4 * max(sizes.outputs)) if watch.device.type == "cpu" else 8192
    rates = []
    for m, n in ((width, width), (width // 2, width)):
        a = torch.randn(m, width, device=watch.device).to(dtype)
        b = torch.randn(n, width, device=watch.device).to(dtype)
        took_s = watch.time(lambda a=a, b=b: torch.nn.functional.linear(a, b), sizes.cell_s)
        rates.append(2 * m * n * width / took_s.call_s)
    return max(rates)


def _read_bytes_per_s(linear: LinearTimes, dtype: DType) -> float:
    """The fastest read of weights that no cache holds."""
    return max(
        outputs * inputs * dtype.bytes / linear.seconds[-1][o][i][0]
        for o, outputs in enumerate(linear.outputs)
        for i, inputs in enumerate(linear.inputs)
    )
