"""Collects what happens in a run, row by row, and packs it into a ``RunRecord``.

Rows of equal length go one after the other into flat arrays of floats (whole numbers below
2**53 are exact in them), so that a run of millions of steps stays small.
"""

from array import array
from typing import Any

import numpy as np
import numpy.typing as npt

from plimsoll.spec.record import STATUS, RequestColumns, RunRecord, StepColumns
from plimsoll.spec.workload import Workload

__all__ = ["FAILED", "FINISHED", "REJECTED", "Recorder"]

FINISHED = STATUS.index("finished")
CANCELLED = STATUS.index("cancelled")
REJECTED = STATUS.index("rejected")
FAILED = STATUS.index("failed")
UNFINISHED = STATUS.index("unfinished")

_STEP_FLOATS = ("start_s", "step_s", "growth_s", "stall_s")
_STEP_INTS = (
    "instance",
    "slot",
    "num_steps",
    "num_decodes",
    "decode_context",
    "prefill_tokens",
    "prefill_seqs",
    "prefill_context",
    "used_blocks",
    "num_waiting",
)


class Recorder:
    """One column a request attribute, written by the executor as things happen."""

    def __init__(self, workload: Workload) -> None:
        n = len(workload)
        self._workload = workload
        self.arrival_s = array("d", [float("nan")]) * n
        self.scheduled_s = array("d", [float("nan")]) * n
        self.first_token_s = array("d", [float("nan")]) * n
        self.finished_s = array("d", [float("nan")]) * n
        self.max_gap_s = array("d", [float("nan")]) * n
        self.output_tokens = array("q", [0]) * n
        self.cached_tokens = array("q", [0]) * n
        self.preemptions = array("q", [0]) * n
        self.instance = array("q", [-1]) * n
        self.prefill_instance = array("q", [-1]) * n
        self.status = array("q", [UNFINISHED]) * n
        self._steps = array("d")
        self._gaps = array("d")
        self._parks = array("d")
        self.step = self._steps.extend
        """Adds a row in the order of ``_STEP_FLOATS + _STEP_INTS``."""
        self.gap = self._gaps.extend
        """Adds (seconds, count)."""
        self.park = self._parks.extend
        """Adds (request, instance, start, end)."""

    def build(self, meta: dict[str, Any]) -> RunRecord:
        """The run as columns."""
        workload = self._workload
        n = len(workload)
        names = (*_STEP_FLOATS, *_STEP_INTS)
        steps = _columns(self._steps, len(names))
        order = np.lexsort((steps[names.index("instance")], steps[names.index("start_s")]))
        columns: dict[str, Any] = {}
        for name, column in zip(names, steps, strict=True):
            kind = np.float64 if name in _STEP_FLOATS else np.int64
            columns[name] = column[order].astype(kind)
        gaps = _columns(self._gaps, 2)
        parks = _columns(self._parks, 4)
        class_index = workload.class_index if len(workload.class_index) else np.zeros(n, np.int64)
        session_id = workload.session_id if len(workload.session_id) else np.full(n, -1)
        return RunRecord(
            requests=RequestColumns(
                arrival_s=np.array(self.arrival_s),
                scheduled_s=np.array(self.scheduled_s),
                first_token_s=np.array(self.first_token_s),
                finished_s=np.array(self.finished_s),
                max_gap_s=np.array(self.max_gap_s),
                prompt_tokens=workload.prompt_tokens.copy(),
                output_tokens=np.array(self.output_tokens, dtype=np.int64),
                cached_tokens=np.array(self.cached_tokens, dtype=np.int64),
                preemptions=np.array(self.preemptions, dtype=np.int64),
                instance=np.array(self.instance, dtype=np.int64),
                prefill_instance=np.array(self.prefill_instance, dtype=np.int64),
                status=np.array(self.status, dtype=np.int64),
                class_index=np.asarray(class_index, dtype=np.int64),
                session_id=np.asarray(session_id, dtype=np.int64),
            ),
            steps=StepColumns(**columns),
            gap_s=gaps[0].copy(),
            gap_count=gaps[1].astype(np.int64),
            park_request=parks[0].astype(np.int64),
            park_start_s=parks[2].copy(),
            park_end_s=parks[3].copy(),
            meta=meta,
        )


def _columns(rows: "array[float]", width: int) -> npt.NDArray[np.float64]:
    """Rows one after the other as columns."""
    return np.frombuffer(rows, dtype=np.float64).reshape(-1, width).T
