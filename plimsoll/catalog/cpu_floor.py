"""Hold the analytical peak against this machine: measure its limits, predict, then time.

One thread. Limits: the best dense multiply seen for arithmetic, the best read of a large array
for memory, the best sequential write and read of a file for the link. The peak of a >= 50M
parameter transformer is predicted from these at two contexts and compared with timed prefill,
decode and swap (cache to a file and back). Compute and memory are timed in processor time, so
that other programs on the machine do not count; files in elapsed time. Each limit is measured
before, between and after the passes it judges, and the best value counts.
Leaves out file-system caches as far as the operating system lets go of them.
Source: arXiv 2405.08944.
"""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from plimsoll.catalog.floor_points import CpuFloor, CpuLimits, FloorPoint
from plimsoll.catalog.plain_transformer import PlainTransformer, plain_spec
from plimsoll.cost.peak import PeakReport, peak
from plimsoll.spec.dtype import DType
from plimsoll.spec.hardware import Device, Link, PowerEnvelope

__all__ = ["cpu_device", "measure_cpu_floor"]

_SHORT_REPEATS = 3
"""Answers and files take little time and are noisy: they are repeated that many times more."""

_SWAPPED_BYTES = 256 * 2**20
"""Moved at once, as many users' contexts as that makes: a rate is for long sequential traffic,
and the fixed cost of opening and flushing a file must not hide it."""


def _processor_s(work: Callable[[], object], repeats: int) -> list[float]:
    times = []
    for _ in range(repeats):
        start = time.thread_time()
        work()
        times.append(time.thread_time() - start)
    return times


def _best_flops_per_s(repeats: int) -> float:
    rates = []
    for m, k, n in ((2048, 2048, 2048), (1024, 512, 8192), (4096, 512, 4096), (1024, 4096, 512)):
        a, b = torch.randn(m, k), torch.randn(k, n)
        rates.append(2 * m * k * n / min(_processor_s(lambda a=a, b=b: a @ b, repeats)))
    return max(rates)


def _arithmetic_and_memory(repeats: int) -> tuple[float, ...]:
    return _best_flops_per_s(repeats), _best_memory_bytes_per_s(repeats)


def _best_memory_bytes_per_s(repeats: int) -> float:
    matrix = torch.randn(8192, 8192)  # 256 MiB, larger than any cache here
    vector = torch.randn(8192)
    size = matrix.numel() * 4
    return max(
        size / min(_processor_s(lambda: torch.mv(matrix, vector), repeats)),
        size / min(_processor_s(lambda: vector @ matrix, repeats)),
        size / min(_processor_s(lambda: matrix.sum(), repeats)),
    )


def _write_s(path: Path, buffers: list[memoryview]) -> float:
    start = time.perf_counter()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        for buffer in buffers:
            done = 0
            while done < len(buffer):
                done += os.write(handle, buffer[done:])
        os.fsync(handle)
        return time.perf_counter() - start
    finally:
        os.close(handle)


def _read_s(path: Path, buffers: list[memoryview]) -> float:
    with path.open("rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise"):  # what was just written must come from the drive
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        start = time.perf_counter()
        for buffer in buffers:
            done = 0
            while done < len(buffer):
                done += file.readinto(buffer[done:])
        return time.perf_counter() - start


def _views(cache: list[torch.Tensor]) -> list[memoryview]:
    return [memoryview(layer.numpy()).cast("B") for layer in cache]


def _users_of(one: list[memoryview]) -> int:
    return max(1, _SWAPPED_BYTES // sum(len(view) for view in one))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Passes:
    """What is timed at one context."""

    net: PlainTransformer
    context: int
    decode_tokens: int
    cache: list[torch.Tensor] = field(init=False)

    def __post_init__(self) -> None:
        room = self.net.empty_cache(self.context + self.decode_tokens)
        object.__setattr__(self, "cache", room)

    def prefill(self) -> None:
        tokens = torch.arange(self.context) % self.net.spec.vocab_size
        self.net.prefill(tokens, self.cache)

    def answer(self) -> None:
        for index in range(self.decode_tokens):
            self.net.decode(index, self.cache, self.context + index)

    def swaps(self, folder: Path, repeats: int) -> list[float]:
        """Times a user of writing users' whole caches to a file and reading them back."""
        one = _views([layer[:, :, :, : self.context].contiguous() for layer in self.cache])
        num_users = _users_of(one)
        views = one * num_users
        path = folder / "kv.bin"
        _write_s(path, views)  # the file exists from here on, as a swap file does
        times = [_write_s(path, views) + _read_s(path, views) for _ in range(repeats)]
        path.unlink()
        return [time_s / num_users for time_s in times]

    def file_rates(self, folder: Path, repeats: int) -> tuple[float, float]:
        """The best sequential (write, read) rates of a file as large as what is swapped."""
        buffer = memoryview(bytearray(_SWAPPED_BYTES))
        path = folder / "rate.bin"
        _write_s(path, [buffer])
        writes = [_write_s(path, [buffer]) for _ in range(repeats)]
        reads = [_read_s(path, [buffer]) for _ in range(repeats)]
        path.unlink()
        return len(buffer) / min(writes), len(buffer) / min(reads)


def cpu_device(limits: CpuLimits) -> Device:
    """One thread of this machine as a device with these rates."""
    # Out at the write rate and in at the read rate take 2 KV over their harmonic mean.
    link = 2 / (1 / limits.write_bytes_per_s + 1 / limits.read_bytes_per_s)
    return Device(
        name="one thread of this machine",
        vendor="measured",
        family="cpu",
        kind="cpu",
        memory_bytes=2.0**40,
        memory_bytes_per_s=limits.memory_bytes_per_s,
        peak_flops_per_s={DType.FP32: limits.flops_per_s},
        host=Link(kind="file", bytes_per_s=link),
        power=PowerEnvelope(idle_w=0, peak_w=1),
        source="measured here",
        as_of="now",
    )


def measure_cpu_floor(
    *, contexts: tuple[int, int] = (1024, 8192), repeats: int = 5, decode_tokens: int = 8
) -> CpuFloor:
    """Measure limits and passes on one thread; a minute or two of processor time at the default."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory(prefix="plimsoll-floor-") as folder:
            return _measure(Path(folder), contexts, repeats, decode_tokens)
    finally:
        torch.set_num_threads(threads)


def _measure(folder: Path, contexts: tuple[int, int], repeats: int, decode_tokens: int) -> CpuFloor:
    spec = plain_spec(
        num_layers=4,
        hidden_size=512,
        num_heads=8,
        num_kv_heads=8,
        intermediate=8192,
        vocab_size=4096,
        max_context=max(contexts) + decode_tokens + 1,
    )
    net = PlainTransformer(spec)
    seen: list[tuple[float, ...]] = [_arithmetic_and_memory(repeats)]
    measured: dict[tuple[str, int], list[float]] = {}
    for context in contexts:
        passes = _Passes(net=net, context=context, decode_tokens=decode_tokens)
        rates = passes.file_rates(folder, _SHORT_REPEATS * repeats)
        measured["prefill", context] = _processor_s(passes.prefill, repeats)
        middle = _arithmetic_and_memory(repeats)
        answers = _processor_s(passes.answer, _SHORT_REPEATS * repeats)
        measured["decode", context] = [answer_s / decode_tokens for answer_s in answers]
        measured["swap", context] = passes.swaps(folder, _SHORT_REPEATS * repeats)
        again = passes.file_rates(folder, _SHORT_REPEATS * repeats)
        seen += [middle + rates, _arithmetic_and_memory(repeats) + again]
    best = CpuLimits(
        flops_per_s=max(rates[0] for rates in seen),
        memory_bytes_per_s=max(rates[1] for rates in seen),
        write_bytes_per_s=max(rates[2] for rates in seen if len(rates) > 2),
        read_bytes_per_s=max(rates[3] for rates in seen if len(rates) > 2),
    )
    device = cpu_device(best)
    points = []
    for context in contexts:
        report: PeakReport = peak(spec, device, context, decode_tokens=decode_tokens)
        # The mean decoded token sees half of the answer before it.
        decode = peak(spec, device, context + decode_tokens // 2, decode_tokens=1)
        predicted = {
            "prefill": report.prefill_s,
            "decode": decode.decode_step_s,
            "swap": report.switch_s,
        }
        points += [
            FloorPoint(
                metric=metric,
                context_tokens=context,
                predicted_s=predicted_s,
                measured_s=tuple(measured[metric, context]),
            )
            for metric, predicted_s in predicted.items()
        ]
    return CpuFloor(parameters=report.parameters, limits=best, points=tuple(points))
