"""KV hand-over between workers: out of one, through the engine, into the other.

The books are ``executors.transfers.Transfers``'. A worker handles messages in order, so KV that
was sent to it is there before any later step. ``bytes_per_s`` slows copies down to a link's
speed, for tests. Left out: device-to-device copies.
"""

from typing import Any

from plimsoll.serving.executors.live_moves import LiveMove
from plimsoll.serving.executors.requests import SimRequest
from plimsoll.serving.executors.torch.engine import TorchEngine
from plimsoll.serving.executors.torch.messages import Export, Exported, Import
from plimsoll.serving.executors.transfers import Transfers
from plimsoll.serving.policy import Move

__all__ = ["WorkerLinks"]


class WorkerLinks(Transfers):
    """Moves between the instances of a real run."""

    bytes_per_s = float("inf")

    def crossed_s(self, message: Exported, now_s: float) -> float:
        """When what a source sent has crossed a slowed link."""
        _, move, _ = message.tag
        free_s = max(
            now_s, self._out_free_s.get(move.source, 0.0), self._in_free_s.get(move.target, 0.0)
        )
        end_s = free_s + _bytes(message.payload) / self.bytes_per_s
        self._out_free_s[move.source] = self._in_free_s[move.target] = end_s
        return end_s

    def _linked(self) -> bool:
        return True

    def _launch(self, request: SimRequest, move: Move, serial: int, now_s: float) -> None:
        source = self._engines[move.source]
        assert isinstance(source, TorchEngine)
        table = list(source.numbers.tables[request.id])
        tag = (request.id, move, serial)
        source.tell(Export(request.id, table, request.computed, tag))

    def _send_live(self, live: LiveMove, now_s: float) -> None:
        source, copy = self._engines[live.move.source], live.copy
        assert isinstance(source, TorchEngine)
        numbers = source.numbers
        table = numbers.tables[live.request.id][copy.first // numbers.block_tokens :]
        tag = (live.request.id, live.move, live.serial)
        source.tell(Export(live.request.id, table, copy.stop - copy.first, tag))

    def _live_arrived(self, message: Exported, now_s: float) -> None:
        request_id, move, serial = message.tag
        live = self.live.get(request_id)
        if live is None or live.serial != serial:
            return
        source, target = self._engines[move.source], self._engines[move.target]
        assert isinstance(source, TorchEngine) and isinstance(target, TorchEngine)
        numbers = target.numbers
        table = numbers.tables[request_id][live.copy.first // numbers.block_tokens :]
        target.tell(Import(request_id, table, message.payload))
        if live.hold is not None:
            source.forget(request_id)
        self.live.copied(request_id, serial, now_s)

    def arrived(self, message: Exported, now_s: float) -> bool:
        """A source answered: pass the KV on and finish the move; whether a hand-over is through."""
        request_id, move, serial = message.tag
        if move.mode == "live":
            self._live_arrived(message, now_s)
            return False
        entry = self._moves.get(request_id)
        if entry is None or entry[3] != serial:
            return False
        source, target = self._engines[move.source], self._engines[move.target]
        assert isinstance(source, TorchEngine) and isinstance(target, TorchEngine)
        target.tell(Import(request_id, list(target.numbers.tables[request_id]), message.payload))
        source.forget(request_id)
        return self.finish(entry[2], move, serial, now_s)


def _bytes(payload: Any) -> int:
    """Of one worker's part, or of all ranks'."""
    if isinstance(payload, list):
        return sum(map(_bytes, payload))
    return sum(tensor.numel() * tensor.element_size() for tensor in payload.values())
