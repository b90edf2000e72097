"""The stream of requests of a run: when each row of the workload arrives.

Open loop: at its stated time. Closed loop: ``num_in_flight`` rows at the start, then one more
whenever a request ends, after its think time. Sessions that wait: a turn arrives ``think_s``
after the turn before it ended.
"""

from heapq import heappop, heappush

import numpy as np

from plimsoll.serving.executors.requests import SimRequest
from plimsoll.spec.workload import Workload

__all__ = ["Intake"]

_NEVER = float("inf")


class Intake:
    """Hands out rows in order of arrival. ``outputs`` are the true output lengths, cut to what
    the client and the model's context allow."""

    def __init__(self, workload: Workload, max_model_len: int) -> None:
        n = len(workload)
        room = np.maximum(max_model_len - workload.prompt_tokens, 1)
        limit = np.minimum(workload.max_tokens, room) if len(workload.max_tokens) else room
        self.outputs: list[int] = np.minimum(workload.output_tokens, limit).tolist()
        self.has_sessions = len(workload.session_id) > 0
        self._limit: list[int] = limit.tolist()
        self._prompts: list[int] = workload.prompt_tokens.tolist()
        self._arrivals: list[float] = workload.arrival_s.tolist()
        self._workload = workload
        self._keys = workload.prefix_keys
        self._starts: list[int] = workload.prefix_start.tolist()
        self._sessions: list[int] = workload.session_id.tolist()
        self._class: list[int] = workload.class_index.tolist()
        self._priority: list[int] = workload.priority.tolist()
        self._cancel: list[float] = workload.cancel_after_s.tolist()
        self._think: list[float] = workload.think_s.tolist()
        self._followers = self._next_turns(workload) if self.has_sessions else {}
        self._later: list[tuple[float, int]] = []
        """Heap of (time, row) for arrivals that had to wait for something."""
        self._order: list[int] | range = range(n)
        self._waits = workload.sessions_wait and self.has_sessions
        if self._waits:
            follows = set(self._followers.values())
            self._order = [row for row in range(n) if row not in follows]
        self._closed = workload.num_in_flight > 0
        self._at = 0
        if self._closed:
            for row in self._order[: workload.num_in_flight]:
                heappush(self._later, (0.0, row))
            self._at = min(workload.num_in_flight, len(self._order))
        self.next_s = self._peek()

    def pop(self) -> int:
        """The next row to arrive, at ``next_s``."""
        if self._later and self._later[0][0] == self.next_s:
            row = heappop(self._later)[1]
        else:
            row = self._order[self._at]
            self._at += 1
        self.next_s = self._peek()
        return row

    def ended(self, row: int, now_s: float) -> None:
        """A request ended: its session's next turn, or a closed loop's next request, may come."""
        follower = self._followers.get(row) if self._waits else None
        if follower is None and self._closed and self._at < len(self._order):
            follower = self._order[self._at]
            self._at += 1
        if follower is not None:
            think = self._think[follower] if self._think else 0.0
            heappush(self._later, (now_s + think, follower))
            self.next_s = self._peek()

    def request(self, row: int, now_s: float) -> SimRequest:
        """The request of a row, arriving now."""
        keys = self._keys_of(row) if self._starts else ()
        return SimRequest(
            id=row,
            arrival_s=now_s,
            prompt_tokens=self._prompts[row],
            max_tokens=self._limit[row],
            prefix_keys=keys,
            session_id=self._sessions[row] if self._sessions else -1,
            request_class=self._workload.classes[self._class[row]] if self._class else "",
            priority=self._priority[row] if self._priority else 0,
        )

    def cancel_s(self, row: int) -> float:
        """How long after arrival the client gives up; inf for never."""
        return self._cancel[row] if self._cancel else _NEVER

    def next_keys(self, row: int) -> list[int]:
        """Prefix keys of the session's next turn."""
        follower = self._followers.get(row)
        return [] if follower is None or not self._starts else self._keys_of(follower)

    def _keys_of(self, row: int) -> list[int]:
        keys: list[int] = self._keys[self._starts[row] : self._starts[row + 1]].tolist()
        return keys

    def _peek(self) -> float:
        later = self._later[0][0] if self._later else _NEVER
        if self._closed or self._at >= len(self._order):
            return later
        return min(later, self._arrivals[self._order[self._at]])

    @staticmethod
    def _next_turns(workload: Workload) -> dict[int, int]:
        last: dict[int, int] = {}
        followers: dict[int, int] = {}
        for row, session in enumerate(workload.session_id.tolist()):
            if session < 0:
                continue
            if session in last:
                followers[last[session]] = row
            last[session] = row
        return followers
