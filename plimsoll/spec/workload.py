"""The traffic to serve: one column a field, one row a request, ordered by arrival.

Two kinds. *Open loop*: requests arrive at stated times, whatever the system does. *Closed
loop*: ``num_in_flight`` clients each send the next request when the last one ended;
arrival times are then ignored and ``think_s`` is the pause between. A multi-turn session is
a chain of rows with the same ``session_id``; a turn arrives ``think_s`` after the previous
turn ended when ``sessions_wait`` is set, otherwise at its stated time.

Prefix keys: ``prefix_keys[prefix_start[i]:prefix_start[i+1]]`` are the hashes of the request's
leading blocks of ``prefix_block_tokens`` tokens, each hash standing for the whole prefix up to it.
The last key may stand for a block that the prompt fills only in part.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from plimsoll.spec.errors import SpecError

__all__ = ["Workload"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def _no_ints() -> Ints:
    return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Workload:
    """Requests in order of arrival; optional columns are empty arrays when unused.

    arrival_s      [n] seconds from the start of the workload, not decreasing
    prompt_tokens  [n] at least 1
    output_tokens  [n] at least 1: the true length, which only an executor may read
    max_tokens     [n] or empty: the limit the client asked for (what a policy may see)
    class_index    [n] or empty: index into ``classes``
    session_id     [n] or empty: rows with the same id form a session, in row order
    think_s        [n] or empty: pause before this row after its predecessor ended
    priority       [n] or empty: larger is more urgent
    cancel_after_s [n] or empty: the client gives up this long after arrival (inf: never)
    """

    name: str
    arrival_s: Floats
    prompt_tokens: Ints
    output_tokens: Ints
    max_tokens: Ints = field(default_factory=_no_ints)
    class_index: Ints = field(default_factory=_no_ints)
    classes: tuple[str, ...] = ()
    session_id: Ints = field(default_factory=_no_ints)
    think_s: Floats = field(default_factory=lambda: np.zeros(0))
    priority: Ints = field(default_factory=_no_ints)
    cancel_after_s: Floats = field(default_factory=lambda: np.zeros(0))
    prefix_keys: Ints = field(default_factory=_no_ints)
    prefix_start: Ints = field(default_factory=_no_ints)
    prefix_block_tokens: int = 0
    num_in_flight: int = 0
    """Clients of a closed loop; 0 means open loop."""
    sessions_wait: bool = False
    source: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.arrival_s)
        for name in ("prompt_tokens", "output_tokens"):
            if len(getattr(self, name)) != n:
                found = len(getattr(self, name))
                raise SpecError(f"workload {self.name}: {name} has {found} rows, arrival_s has {n}")
        for name in (
            "max_tokens",
            "class_index",
            "session_id",
            "think_s",
            "priority",
            "cancel_after_s",
        ):
            if len(getattr(self, name)) not in (0, n):
                found = len(getattr(self, name))
                raise SpecError(f"workload {self.name}: {name} has {found} rows, arrival_s has {n}")
        if len(self.prefix_start) not in (0, n + 1):
            raise SpecError(f"workload {self.name}: prefix_start must have {n + 1} rows")
        if n == 0:
            raise SpecError(f"workload {self.name}: holds no request")
        if not np.all(np.isfinite(self.arrival_s)) or self.arrival_s[0] < 0:
            raise SpecError(f"workload {self.name}: arrival times must be finite and not negative")
        if n > 1 and np.any(np.diff(self.arrival_s) < 0):
            row = int(np.argmax(np.diff(self.arrival_s) < 0)) + 1
            raise SpecError(
                f"workload {self.name}: row {row} arrives before row {row - 1}; sort by arrival"
            )
        if self.prompt_tokens.min() < 1 or self.output_tokens.min() < 1:
            bad = int(np.argmax((self.prompt_tokens < 1) | (self.output_tokens < 1)))
            raise SpecError(
                f"workload {self.name}: row {bad} has {self.prompt_tokens[bad]} prompt and "
                f"{self.output_tokens[bad]} output tokens; both must be at least 1"
            )

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def duration_s(self) -> float:
        """Time of the last arrival."""
        return float(self.arrival_s[-1])

    @property
    def rate_per_s(self) -> float:
        """Mean arrivals per second over the span of the arrivals; 0 for a closed loop."""
        if self.num_in_flight or len(self) < 2:
            return 0.0
        span = float(self.arrival_s[-1] - self.arrival_s[0])
        return (len(self) - 1) / span if span > 0 else 0.0

    def with_changes(self, **changes: Any) -> "Workload":
        """A copy with some columns replaced; checked again."""
        return replace(self, **changes)
