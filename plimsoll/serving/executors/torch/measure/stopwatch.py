"""Timing calls on a CPU or a GPU: medians of repeats, and their spread.

On a CPU each call is timed alone. On a GPU calls are queued as an engine queues them and timed
together between two synchronizations. Leaves out: clock ramps; callers warm up.
Source: time.perf_counter.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from plimsoll.spec.measured import Coefficient

__all__ = ["Stopwatch", "Timing"]

_QUEUED_CALLS = 16
_LONG_CALL_S = 0.2


@dataclass(frozen=True, slots=True)
class Timing:
    """Median seconds of a call, and half the range between the quartiles."""

    median_s: float
    spread_s: float

    def seconds(self) -> Coefficient:
        """As a coefficient in seconds."""
        return Coefficient(value=self.median_s, error=self.spread_s)

    def rate(self, amount: float) -> Coefficient:
        """``amount`` a call, as a rate."""
        value = amount / self.median_s
        return Coefficient(value=value, error=value * self.spread_s / self.median_s)


@dataclass(frozen=True, slots=True)
class Stopwatch:
    """Times calls on ``device``."""

    device: torch.device

    def time(self, call: Callable[[], object], budget_s: float, *, least: int = 5) -> Timing:
        """Repeat ``call`` for about ``budget_s`` and at least ``least`` times, twice if slow.

        One call, not counted, warms up.
        """
        on_cpu = self.device.type == "cpu"
        queued = 1 if on_cpu else _QUEUED_CALLS
        call()
        self._wait()
        times: list[float] = []
        spent = 0.0
        while spent < budget_s or len(times) < least:
            start = time.perf_counter()
            for _ in range(queued):
                call()
            self._wait()
            took = time.perf_counter() - start
            times.append(took / queued)
            spent += took
            if len(times) >= 2 and times[-1] > _LONG_CALL_S:
                break
        quartiles = statistics.quantiles(times, n=4)
        return Timing(statistics.median(times), (quartiles[2] - quartiles[0]) / 2)

    def _wait(self) -> None:
        if self.device.type != "cpu":
            torch.cuda.synchronize(self.device)
