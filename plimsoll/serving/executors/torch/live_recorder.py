"""The record of a run whose requests are not known beforehand.

Columns are kept by request id. With ``keep`` everything stays, for a run record; without, a
request's entries go when it has ended and steps are counted only, so that a server can run on.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from plimsoll.serving.executors.recorder import UNFINISHED, Recorder
from plimsoll.spec.record import RunRecord
from plimsoll.spec.workload import Workload

__all__ = ["LiveRecorder"]

_NAN = float("nan")
_DEFAULTS: dict[str, float] = {
    "arrival_s": _NAN,
    "scheduled_s": _NAN,
    "first_token_s": _NAN,
    "finished_s": _NAN,
    "max_gap_s": _NAN,
    "output_tokens": 0,
    "cached_tokens": 0,
    "preemptions": 0,
    "instance": -1,
    "prefill_instance": -1,
    "status": UNFINISHED,
}


class _Column(dict[int, Any]):
    """Values by request id; as long as there have been requests."""

    def __init__(self, default: float, length: Callable[[], int]) -> None:
        super().__init__()
        self._default = default
        self._length = length

    def __missing__(self, key: int) -> float:
        return self._default

    def __len__(self) -> int:
        return self._length()


class LiveRecorder(Recorder):
    """See the module text. ``num_requests`` have come so far."""

    def __init__(self, *, keep: bool) -> None:
        one = np.ones(1, dtype=np.int64)
        super().__init__(
            Workload(name="live", arrival_s=np.zeros(1), prompt_tokens=one, output_tokens=one)
        )
        self.keep = keep
        self.num_requests = 0
        self.num_steps = 0
        for name, default in _DEFAULTS.items():
            setattr(self, name, _Column(default, lambda: self.num_requests))
        if not keep:
            self.step = self._count_step  # type: ignore[assignment]
            self.gap = _drop  # type: ignore[assignment]
            self.park = _drop  # type: ignore[assignment]

    def forget(self, request: int) -> None:
        """The request has ended; its entries may go."""
        if not self.keep:
            for name in _DEFAULTS:
                getattr(self, name).pop(request, None)

    def build_for(self, workload: Workload, meta: dict[str, Any]) -> RunRecord:
        """The run as columns; request ids are the rows of ``workload``."""
        whole = Recorder(workload)
        for name in _DEFAULTS:
            target = getattr(whole, name)
            for i, value in getattr(self, name).items():
                target[i] = value
        whole._steps, whole._gaps, whole._parks = self._steps, self._gaps, self._parks
        return whole.build(meta)

    def _count_step(self, row: Iterable[float]) -> None:
        self.num_steps += 1


def _drop(row: Iterable[float]) -> None:
    return None
