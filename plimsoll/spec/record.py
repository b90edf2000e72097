"""What happened in a run, in one format for the simulator and the real engine.

Columns, not objects: ``requests`` one row a request, ``steps`` one row a run of equal engine
steps, ``gaps`` the weighted inter-token gaps that are not implied by a step row. Times are
seconds on the run's own clock, from its start. Definitions: docs/metrics.md.
"""

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from plimsoll.spec.errors import SpecError
from plimsoll.spec.io import write_text

__all__ = ["STATUS", "RequestColumns", "RunRecord", "StepColumns"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_OWN_COLUMNS = (
    "gap_s",
    "gap_count",
    "park_request",
    "park_start_s",
    "park_end_s",
    "power_at_s",
    "power_w",
)
STATUS = ("finished", "cancelled", "rejected", "failed", "unfinished")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RequestColumns:
    """One row a request, in workload order; times that never came are NaN.

    ``status`` indexes ``STATUS``. ``instance`` is where it decoded, ``prefill_instance`` where
    its prompt ran (-1: never placed). ``output_tokens`` were delivered; ``cached_tokens`` of
    the prompt came from the prefix cache. ``scheduled_s`` is when its first step started.
    ``max_gap_s`` is its worst gap between two deliveries (NaN below two tokens); the column is
    empty where the executor did not keep it, and is then read back from the step rows.
    """

    arrival_s: Floats
    scheduled_s: Floats
    first_token_s: Floats
    finished_s: Floats
    prompt_tokens: Ints
    output_tokens: Ints
    cached_tokens: Ints
    preemptions: Ints
    instance: Ints
    prefill_instance: Ints
    status: Ints
    class_index: Ints
    session_id: Ints
    max_gap_s: Floats = field(default_factory=lambda: np.zeros(0))

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def ok(self) -> npt.NDArray[np.bool_]:
        """Rows that finished."""
        finished: npt.NDArray[np.bool_] = self.status == 0
        return finished

    @property
    def ttft_s(self) -> Floats:
        """Arrival to first output token, queueing included."""
        return self.first_token_s - self.arrival_s

    @property
    def e2e_s(self) -> Floats:
        """Arrival to last token."""
        return self.finished_s - self.arrival_s

    @property
    def tpot_s(self) -> Floats:
        """(end - first token) / (output tokens - 1); NaN for one output token."""
        tokens = np.where(self.output_tokens > 1, self.output_tokens - 1, np.nan)
        return (self.finished_s - self.first_token_s) / tokens


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepColumns:
    """One row a run of ``num_steps`` equal engine steps of one instance and slot.

    Step j of a row (from 0) lasts ``step_s + j * growth_s`` and starts when the one before
    ended, the first at ``start_s``. ``stall_s`` is added once, before the first step (swap
    traffic). ``num_decodes`` requests get a token in each; ``prefill_tokens`` prompt tokens of
    ``prefill_seqs`` requests run in it (then num_steps is 1) over ``prefill_context`` cached
    ones. ``decode_context`` is the total context at the first step; ``used_blocks`` KV blocks
    held after it, ``num_waiting`` requests queued at its start.
    """

    instance: Ints
    slot: Ints
    start_s: Floats
    num_steps: Ints
    step_s: Floats
    growth_s: Floats
    stall_s: Floats
    num_decodes: Ints
    decode_context: Ints
    prefill_tokens: Ints
    prefill_seqs: Ints
    prefill_context: Ints
    used_blocks: Ints
    num_waiting: Ints

    def __len__(self) -> int:
        return len(self.start_s)

    @property
    def duration_s(self) -> Floats:
        """Time from the first step's start to the last one's end."""
        n = self.num_steps
        total: Floats = self.stall_s + n * self.step_s + self.growth_s * (n * (n - 1) / 2)
        return total


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunRecord:
    """A whole run.

    ``gap_s`` / ``gap_count``: inter-token gaps and how many deliveries had each, for the first
    step of a row (later steps of a row have gap = their step time).
    ``parks`` rows: (request, instance, start_s, end_s) of every time a request was put aside.
    ``power_at_s`` / ``power_w``: mean power of all devices from each time to the next; empty
    where the executor does not know it.
    ``meta``: plan, workload name, seed, versions, origin of the clock, totals per instance.
    """

    requests: RequestColumns
    steps: StepColumns
    gap_s: Floats
    gap_count: Ints
    park_request: Ints
    park_start_s: Floats
    park_end_s: Floats
    power_at_s: Floats = field(default_factory=lambda: np.zeros(0))
    power_w: Floats = field(default_factory=lambda: np.zeros(0))
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def end_s(self) -> float:
        """When the last thing happened."""
        ends = [float(np.nanmax(self.requests.arrival_s))]
        if len(self.steps):
            ends.append(float(np.max(self.steps.start_s + self.steps.duration_s)))
        return max(ends)

    def itl_samples(self) -> tuple[Floats, Ints]:
        """Every inter-token gap as (seconds, count), expanded from the step rows."""
        s = self.steps
        long = (s.num_steps > 1) & (s.num_decodes > 0)
        reps = s.num_steps[long] - 1
        if reps.sum() == 0:
            return self.gap_s, self.gap_count
        row = np.repeat(np.flatnonzero(long), reps)
        first = np.repeat(np.cumsum(reps) - reps, reps)
        index = np.arange(len(row)) - first + 1
        gaps = s.step_s[row] + index * s.growth_s[row]
        return np.concatenate([self.gap_s, gaps]), np.concatenate(
            [self.gap_count, s.num_decodes[row]]
        )

    def save(self, folder: Path) -> None:
        """Write ``record.npz`` and ``meta.json`` into ``folder``, each whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {}
        for part, columns in (("requests", self.requests), ("steps", self.steps)):
            for f in fields(columns):
                arrays[f"{part}.{f.name}"] = getattr(columns, f.name)
        for name in _OWN_COLUMNS:
            arrays[name] = getattr(self, name)
        temporary = folder / ".record.npz.partial"
        try:
            with temporary.open("wb") as file:
                np.savez_compressed(file, **arrays)
            temporary.replace(folder / "record.npz")
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise SpecError(f"{folder}: cannot be written: {error.strerror}") from None
        write_text(json.dumps(self.meta, indent=2, sort_keys=True) + "\n", folder / "meta.json")

    @classmethod
    def load(cls, folder: Path) -> "RunRecord":
        """Read what ``save`` wrote."""
        path = folder / "record.npz"
        try:
            with np.load(path, allow_pickle=False) as data:
                arrays = dict(data)
            meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
            requests = RequestColumns(
                **{f.name: arrays[f"requests.{f.name}"] for f in fields(RequestColumns)}
            )
            steps = StepColumns(**{f.name: arrays[f"steps.{f.name}"] for f in fields(StepColumns)})
            rest = {n: arrays[n] for n in _OWN_COLUMNS}
        except FileNotFoundError:
            raise SpecError(f"{folder}: holds no run record (record.npz and meta.json)") from None
        except (OSError, ValueError, KeyError) as error:
            raise SpecError(f"{path}: not a run record of this version ({error})") from None
        return cls(requests=requests, steps=steps, meta=meta, **rest)
