"""Copies between KV pages and host memory in threads of their own, one lane each way.

A host copy of a request is one buffer a layer, its blocks in token order with room behind them, so
that what is written later lies beside what was sent before. A copy moves runs of neighbouring
blocks, one call of torch a run, layer and keys or values, and tells its event when all is there or
has failed. What it waits for was begun before it, so lanes never wait for each other in a circle.
Who begins copies sees to it that nobody else gets their blocks before the events fired.
"""

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from plimsoll.serving.executors.torch.messages import BringBack, Copied, SendOut
from plimsoll.spec.errors import ExecutionError

__all__ = ["CopyLanes"]


class _HostCopy:
    """Buffers of [blocks, ...] by "k.LAYER" and "v.LAYER"; ``num_blocks`` of them hold KV.

    ``broken`` says why they hold nothing: a copy into them failed.
    """

    __slots__ = ("broken", "buffers", "num_blocks")

    def __init__(self) -> None:
        self.buffers: dict[str, Tensor] = {}
        self.num_blocks = 0
        self.broken = ""

    def room(self, name: str, like: Tensor, num_blocks: int) -> Tensor:
        """The buffer of a name, with room for that many blocks; what it held is kept."""
        buffer = self.buffers.get(name)
        if buffer is None or len(buffer) < num_blocks:
            size = (num_blocks + num_blocks // 2, *like.shape[1:])
            pinned = like.device.type == "cuda"
            larger = torch.empty(size, dtype=like.dtype, pin_memory=pinned)
            if buffer is not None:
                larger[: len(buffer)] = buffer
            self.buffers[name] = buffer = larger
        return buffer


class CopyLanes:
    """``pages`` are the device's, by name; ``report`` is told of every event, from a lane's thread.

    ``bytes_per_s`` slows copies down to a link's speed, for tests.
    """

    def __init__(
        self,
        pages: Mapping[str, Tensor],
        report: Callable[[Copied], None],
        *,
        bytes_per_s: float = float("inf"),
    ) -> None:
        self.report = report
        self._pages = pages
        self._bytes_per_s = bytes_per_s
        self._device = next(iter(pages.values())).device
        self._copies: dict[int, _HostCopy] = {}
        self._fired: dict[int, threading.Event] = {}
        self._failed: set[int] = set()
        self._lanes: dict[str, queue.SimpleQueue[Callable[[], None] | None]] = {}
        for way in ("out", "back"):
            lane = self._lanes[way] = queue.SimpleQueue()
            threading.Thread(
                target=self._work, args=(lane,), name=f"copy {way}", daemon=True
            ).start()

    def begin(self, message: SendOut | BringBack) -> None:
        """Queue a copy. Host memory is looked up now: the request may be dropped meanwhile."""
        fired = self._fired[message.event] = threading.Event()
        if isinstance(message, SendOut):
            copy = self._copies.setdefault(message.request, _HostCopy())
            self._lanes["out"].put(lambda: self._run(message, copy, (), fired))
        else:
            after = [self._fired[i] for i in message.after if i in self._fired]
            held = self._copies.get(message.request) or _HostCopy()
            self._lanes["back"].put(lambda: self._run(message, held, after, fired))

    def wait(self, events: Sequence[int]) -> set[int]:
        """Wait until these events have fired; those that failed."""
        for event in events:
            fired = self._fired.get(event)
            if fired is not None:
                fired.wait()
        return {event for event in events if event in self._failed}

    def hand_on(self, request: int, heir: int, num_blocks: int) -> None:
        """The first blocks of a request's host copy are another's now; 0: nobody's."""
        copy = self._copies.pop(request, None)
        if copy is not None and num_blocks:
            copy.num_blocks = min(copy.num_blocks, num_blocks)
            self._copies[heir] = copy

    def close(self) -> None:
        """End the lanes after what is queued."""
        for lane in self._lanes.values():
            lane.put(None)

    def transfer(self, source: Tensor, target: Tensor) -> None:
        """One copy of a run; between device and pinned memory it does not block."""
        target.copy_(source, non_blocking=self._device.type == "cuda")

    def _work(self, lane: "queue.SimpleQueue[Callable[[], None] | None]") -> None:
        torch.set_num_threads(1)
        while (job := lane.get()) is not None:
            job()

    def _run(
        self,
        message: SendOut | BringBack,
        copy: _HostCopy,
        after: Sequence[threading.Event],
        fired: threading.Event,
    ) -> None:
        why = ""
        try:
            for other in after:
                other.wait()
            if copy.broken:
                raise ExecutionError(copy.broken)
            with torch.inference_mode():
                self._move(message, copy)
        except Exception as error:  # whatever it is, nobody may wait for ever
            copy.broken = why = f"a copy of a swapped request failed: {error}"
            self._failed.add(message.event)
        self.report(Copied(message.event, why))  # before a step that waits for it can end
        del self._fired[message.event]
        fired.set()

    def _move(self, message: SendOut | BringBack, copy: _HostCopy) -> None:
        started_s = time.perf_counter()
        num, first = len(message.blocks), message.first if isinstance(message, SendOut) else 0
        if isinstance(message, BringBack) and copy.num_blocks < num:
            raise ExecutionError(f"the host has {copy.num_blocks} of its {num} blocks")
        stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None
        moved = 0
        with torch.cuda.stream(stream):  # None: no stream
            for name, pages in self._pages.items():
                buffer = copy.room(name, pages, first + num)
                for at, block, length in _runs(message.blocks):
                    host = buffer[first + at : first + at + length]
                    device = pages[block : block + length]
                    moved += device.numel() * device.element_size()
                    if isinstance(message, SendOut):
                        self.transfer(device, host)
                    else:
                        self.transfer(host, device)
        if stream is not None:
            stream.synchronize()
        if isinstance(message, SendOut):
            copy.num_blocks = first + num
        left_s = moved / self._bytes_per_s - (time.perf_counter() - started_s)
        if left_s > 0:
            time.sleep(left_s)


def _runs(blocks: Sequence[int]) -> list[tuple[int, int, int]]:
    """(place in the request, first block, blocks) of each run of neighbours."""
    found: list[tuple[int, int, int]] = []
    for at, block in enumerate(blocks):
        if found and block == found[-1][1] + found[-1][2]:
            start, first, length = found[-1]
            found[-1] = (start, first, length + 1)
        else:
            found.append((at, block, 1))
    return found
