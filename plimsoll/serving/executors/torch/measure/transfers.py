"""Rates outside the kernels: copies, host and device, a file, and two processes talking.

Disk rates are of one temporary file in the folder given: written and flushed to the device, then
read after the system was asked to forget it. Where reading is about as fast as copying memory the
system did not, and the rate is marked cached. Collectives run between two processes: gloo on
CPUs, NCCL where there are two GPUs. Leaves out: links between machines, many files at once.
Source: os.fsync, posix_fadvise, torch.distributed.
"""

import os
import tempfile
import time
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from plimsoll.cost.measured_fit import fit_products
from plimsoll.serving.executors.torch.measure.sizes import Sizes
from plimsoll.serving.executors.torch.measure.stopwatch import Stopwatch
from plimsoll.spec.errors import ExecutionError
from plimsoll.spec.measured import Coefficient, MeasuredRates

__all__ = ["measured_rates"]

_COPY_S = 0.5
_SMALL_BYTES = 4096
_FILE_REPEATS = 5
_MESSAGE_REPEATS = 15
_WAIT_S = 60.0


def measured_rates(sizes: Sizes, watch: Stopwatch, folder: Path | None = None) -> MeasuredRates:
    """Every rate; ``folder`` holds the file, None: the system's for temporary files."""
    budget_s = min(_COPY_S, 25 * sizes.cell_s)
    device, host = watch.device, torch.device("cpu")
    source = torch.ones(sizes.copied_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = watch.time(lambda: target.copy_(source), budget_s)
    pinned = device.type != "cpu"
    outside = torch.empty(sizes.copied_bytes, dtype=torch.uint8, device=host, pin_memory=pinned)
    out = watch.time(lambda: outside.copy_(source, non_blocking=True), budget_s)
    into = watch.time(lambda: target.copy_(outside, non_blocking=True), budget_s)
    few = outside[:_SMALL_BYTES], source[:_SMALL_BYTES]
    small = watch.time(lambda: few[0].copy_(few[1], non_blocking=True), budget_s / 5)
    write, read = _file_rates(sizes.file_bytes, folder)
    copied = copy.rate(sizes.copied_bytes)
    talk = _collectives(sizes, device)
    return MeasuredRates(
        copy_bytes_per_s=copied,
        copy_traffic_bytes_per_s=copy.rate(2 * sizes.copied_bytes),
        swap_out_bytes_per_s=out.rate(sizes.copied_bytes),
        swap_in_bytes_per_s=into.rate(sizes.copied_bytes),
        swap_s=small.seconds(),
        disk_write_bytes_per_s=write,
        disk_read_bytes_per_s=read,
        disk_read_cached=not hasattr(os, "posix_fadvise") or read.value > copied.value / 3,
        **talk,
    )


def _file_rates(size: int, folder: Path | None) -> tuple[Coefficient, Coefficient]:
    buffer = memoryview(bytearray(os.urandom(min(size, 2**20)) * -(-size // 2**20)))[:size]
    writes, reads = [], []
    with tempfile.TemporaryDirectory(prefix="plimsoll-calibrate-", dir=folder) as name:
        path = Path(name) / "rate.bin"
        for _ in range(_FILE_REPEATS):
            start = time.perf_counter()
            with path.open("wb", buffering=0) as file:
                done = 0
                while done < size:
                    done += file.write(buffer[done:]) or 0
                os.fsync(file.fileno())
                writes.append(time.perf_counter() - start)
            with path.open("rb", buffering=0) as file:
                if hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                start = time.perf_counter()
                done = 0
                while done < size:
                    done += file.readinto(buffer[done:]) or 0
                reads.append(time.perf_counter() - start)
    return _rate(size, writes), _rate(size, reads)


def _rate(size: float, times: list[float]) -> Coefficient:
    rates = sorted(size / t for t in times)
    low, middle, high = (rates[len(rates) * i // 4] for i in (1, 2, 3))
    return Coefficient(value=middle, error=(high - low) / 2)


def _collectives(sizes: Sizes, device: torch.device) -> dict[str, Any]:
    """Fields of ``MeasuredRates`` about two processes; none where nothing is to be sent."""
    if not sizes.message_bytes or not torch.distributed.is_available():
        return {}
    if device.type != "cpu" and torch.cuda.device_count() < 2:
        return {}
    backend = "gloo" if device.type == "cpu" else "nccl"
    context = torch.multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory(prefix="plimsoll-calibrate-") as folder, closing(receiving):
        meeting = Path(folder) / "meeting"
        workers = [
            context.Process(
                target=_talk,
                args=(rank, str(meeting), backend, sizes.message_bytes, sending),
                daemon=True,
            )
            for rank in range(2)
        ]
        for worker in workers:
            worker.start()
        sending.close()
        try:
            if not receiving.poll(_WAIT_S):
                raise ExecutionError(
                    f"calibrate: two {backend} processes did not meet within {_WAIT_S:.0f} s"
                )
            reduce_s, send_s = receiving.recv()
        except EOFError:
            raise ExecutionError(f"calibrate: a {backend} process ended early") from None
        finally:
            for worker in workers:
                worker.join(5.0)
                if worker.is_alive():
                    worker.terminate()
    reduce_fit, send_fit = (_line(sizes.message_bytes, times) for times in (reduce_s, send_s))
    return {
        "collective": backend,
        "all_reduce_s": reduce_fit[0],
        "all_reduce_bytes_per_s": reduce_fit[1],
        "send_s": send_fit[0],
        "send_bytes_per_s": send_fit[1],
    }


def _line(message_bytes: tuple[int, ...], times: list[float]) -> tuple[Coefficient, Coefficient]:
    """(latency, rate) of seconds = latency + bytes / rate."""
    (latency, each), _ = fit_products([(1, size) for size in message_bytes], times)
    rate = 1 / each.value if each.value else 0.0
    return latency, Coefficient(value=rate, error=rate**2 * each.error)


def _talk(
    rank: int, meeting: str, backend: str, message_bytes: tuple[int, ...], answer: Connection
) -> None:
    """One of the two processes: times all-reduces and sends of every size."""
    from torch import distributed

    torch.set_num_threads(1)
    distributed.init_process_group(
        backend, init_method=f"file://{meeting}", rank=rank, world_size=2
    )
    device = torch.device("cpu" if backend == "gloo" else f"cuda:{rank}")
    reduces, sends = [], []
    for size in message_bytes:
        data = torch.zeros(max(1, size // 4), device=device)
        reduced, sent = [], []
        for _ in range(_MESSAGE_REPEATS):
            reduced.append(_timed(lambda d=data: distributed.all_reduce(d), device))
            sent.append(_timed(lambda d=data: _there_and_back(d, rank), device) / 2)
        reduces.append(sorted(reduced)[_MESSAGE_REPEATS // 2])
        sends.append(sorted(sent)[_MESSAGE_REPEATS // 2])
    if rank == 0:
        answer.send((reduces, sends))
    distributed.barrier()
    distributed.destroy_process_group()


def _there_and_back(data: torch.Tensor, rank: int) -> None:
    from torch import distributed

    if rank == 0:
        distributed.send(data, 1)
        distributed.recv(data, 1)
    else:
        distributed.recv(data, 0)
        distributed.send(data, 0)


def _timed(call: Any, device: torch.device) -> float:
    start = time.perf_counter()
    call()
    if device.type != "cpu":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
