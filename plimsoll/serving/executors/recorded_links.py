"""What came from outside in a recorded run, told again at its times: ticks and ends of copies.

A replay shows whether both executors decide and do the same when the same things happen at the
same times; links and clocks of the real machine are then facts, not models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from plimsoll.serving.executors.live_moves import LiveMove
from plimsoll.serving.executors.requests import SimRequest
from plimsoll.serving.executors.transfers import Transfers
from plimsoll.serving.policy import Move

__all__ = ["Outside", "RecordedLinks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """``ticks_s``: when the router was told of one. ``landed_s``: when each copy of a move had
    arrived, by request, mode and number of the move, in order. ``copy_ends``: when copies beside
    the steps ended and whether they failed, by instance and event. Seconds from the start."""

    ticks_s: Sequence[float] = ()
    landed_s: Mapping[tuple[int, str, int], Sequence[float]] = field(default_factory=dict)
    copy_ends: Sequence[Mapping[int, tuple[float, bool]]] = ()


class RecordedLinks(Transfers):
    """Moves whose copies arrive when they did."""

    outside = Outside()

    def _linked(self) -> bool:
        return True

    def _launch(self, request: SimRequest, move: Move, serial: int, now_s: float) -> None:
        self._push(self._landing_s(move, serial, 0, now_s), (request, move, serial))

    def _send_live(self, live: LiveMove, now_s: float) -> None:
        at_s = self._landing_s(live.move, live.serial, live.stages.stage, now_s)
        self._push(at_s, (live.request, live.move, live.serial))

    def _landing_s(self, move: Move, serial: int, number: int, now_s: float) -> float:
        """A copy that was never made in the recorded run arrives at once; any time shows it."""
        times = self.outside.landed_s.get((move.request, move.mode, serial), ())
        return times[number] if number < len(times) else now_s
