"""Timing calls on a CPU or a GPU: lower quartiles of repeats, and their spread.

On a CPU each call is timed alone. On a GPU calls are queued as an engine queues them and timed
together between two synchronizations. The lower quartile stands for the machine to itself: other
programs only add time, and a quartile needs a quarter of the calls undisturbed. Leaves out: clock
ramps.
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
_LONG_CALL_S = 0.1


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of a call (lower quartile), and half the range between the quartiles."""

    call_s: float
    spread_s: float

    def seconds(self) -> Coefficient:
        """As a coefficient in seconds."""
        return Coefficient(value=self.call_s, error=self.spread_s)

    def rate(self, amount: float) -> Coefficient:
        """``amount`` a call, as a rate."""
        value = amount / self.call_s
        return Coefficient(value=value, error=value * self.spread_s / self.call_s)


@dataclass(frozen=True, slots=True)
class Stopwatch:
    """Times calls on ``device``."""

    device: torch.device

    def time(self, call: Callable[[], object], budget_s: float, *, least: int = 5) -> Timing:
        """Repeat ``call`` for about ``budget_s`` and at least ``least`` times.

        One call warms up; a slow one counts itself and is repeated once.
        """
        queued = 1 if self.device.type == "cpu" else _QUEUED_CALLS
        times = [self._once(call, 1)]
        if times[0] > _LONG_CALL_S:
            least = 2
        else:
            times.clear()
        spent_s = 0.0
        while spent_s < budget_s or len(times) < least:
            times.append(self._once(call, queued))
            spent_s += times[-1] * queued
            if least == 2:
                break
        low, _, high = statistics.quantiles(times, n=4, method="inclusive")
        return Timing(low, (high - low) / 2)

    def _once(self, call: Callable[[], object], queued: int) -> float:
        start = time.perf_counter()
        for _ in range(queued):
            call()
        self._wait()
        return (time.perf_counter() - start) / queued

    def _wait(self) -> None:
        if self.device.type != "cpu":
            torch.cuda.synchronize(self.device)
