"""Measured times beside predicted peaks: what a floor measurement on this machine returns.

A point is one metric at one context with all its repeats; the fastest repeat is compared, since
other programs only ever add time. Source: arXiv 2405.08944 (the peak).
"""

import statistics
from dataclasses import dataclass

__all__ = ["CpuFloor", "CpuLimits", "FloorPoint"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuLimits:
    """The best rates seen on one thread of this machine."""

    flops_per_s: float
    memory_bytes_per_s: float
    write_bytes_per_s: float
    read_bytes_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FloorPoint:
    """One metric at one context: predicted peak, and all measured repeats."""

    metric: str
    context_tokens: int
    predicted_s: float
    measured_s: tuple[float, ...]

    @property
    def best_s(self) -> float:
        """The fastest repeat: the one other programs disturbed least."""
        return min(self.measured_s)

    @property
    def ratio(self) -> float:
        """Fastest repeat over predicted peak; a peak that holds gives 1 or more."""
        return self.best_s / self.predicted_s


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuFloor:
    """All points, and the limits they were predicted from."""

    parameters: float
    limits: CpuLimits
    points: tuple[FloorPoint, ...]

    def point(self, metric: str, context_tokens: int) -> FloorPoint:
        """One point."""
        return next(
            p for p in self.points if (p.metric, p.context_tokens) == (metric, context_tokens)
        )

    def long_over_short(self, metric: str) -> float:
        """Measured ratio of long to short context over the predicted one."""
        contexts = sorted({p.context_tokens for p in self.points})
        short, long = (self.point(metric, n) for n in (contexts[0], contexts[-1]))
        return (long.best_s / short.best_s) / (long.predicted_s / short.predicted_s)

    def summary(self) -> str:
        """One line a point, for benchmarks and messages."""
        lines = [
            f"{self.parameters / 1e6:.1f}M parameters; "
            f"{self.limits.flops_per_s / 1e9:.1f} GFLOP/s, "
            f"{self.limits.memory_bytes_per_s / 1e9:.1f} GB/s memory, file "
            f"{self.limits.write_bytes_per_s / 1e9:.2f} GB/s out "
            f"{self.limits.read_bytes_per_s / 1e9:.2f} GB/s in"
        ]
        for p in self.points:
            lines.append(
                f"{p.metric:8s} {p.context_tokens:6,d} tokens: peak {p.predicted_s:.4g} s, best "
                f"{p.best_s:.4g} s, median {statistics.median(p.measured_s):.4g} s, x{p.ratio:.2f}"
            )
        lines += [
            f"{metric:8s} long/short measured over predicted: {self.long_over_short(metric):.2f}"
            for metric in ("prefill", "decode", "swap")
        ]
        return "\n".join(lines)
