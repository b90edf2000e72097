"""Service-level objectives: the promise to keep.

A target bounds one statistic of one metric, for one class of request or all. A request is
*good* when it meets the per-request bound of every target that applies to it; a run meets
the SLO when each target's percentile of requests is within the bound. Goodput counts good
requests per second. Definitions: docs/metrics.md.
"""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from plimsoll.spec.io import PLAIN

__all__ = ["METRICS", "Slo", "SloTarget"]

METRICS = ("ttft", "tpot", "itl", "e2e")


@dataclass(frozen=True, slots=True, kw_only=True)
class SloTarget:
    """``percentile`` of requests have ``metric`` at or below ``bound_s``.

    ``percentile`` is in (0, 100]; ``request_class`` "" applies to every request.
    """

    __pydantic_config__: ClassVar = PLAIN
    metric: Literal["ttft", "tpot", "itl", "e2e"]
    percentile: Annotated[float, Field(gt=0, le=100)]
    bound_s: Annotated[float, Field(gt=0)]
    request_class: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """All targets together; no targets means every finished request is good."""

    __pydantic_config__: ClassVar = PLAIN
    FORMAT_VERSION: ClassVar[int] = 1
    format_version: Literal[1] = 1
    targets: tuple[SloTarget, ...] = field(default=())

    def bound_s(self, metric: str, request_class: str = "") -> float | None:
        """The tightest bound on ``metric`` for a class of request, or None."""
        bounds = [
            t.bound_s
            for t in self.targets
            if t.metric == metric and t.request_class in ("", request_class)
        ]
        return min(bounds, default=None)
