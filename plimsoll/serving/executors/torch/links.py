"""KV hand-over between workers: out of one, through the engine, into the other.

The books are ``executors.transfers.Transfers``'. A worker handles messages in order, so KV that
was sent to it is there before any later step. Left out: device-to-device copies.
"""

from plimsoll.serving.executors.requests import SimRequest
from plimsoll.serving.executors.torch.engine import TorchEngine
from plimsoll.serving.executors.torch.messages import Export, Exported, Import
from plimsoll.serving.executors.transfers import Transfers
from plimsoll.serving.policy import Move

__all__ = ["WorkerLinks"]


class WorkerLinks(Transfers):
    """Moves between the instances of a real run."""

    def _linked(self) -> bool:
        return True

    def _launch(self, request: SimRequest, move: Move, serial: int, now_s: float) -> None:
        source = self._engines[move.source]
        assert isinstance(source, TorchEngine)
        table = list(source.numbers.tables[request.id])
        tag = (request.id, move, serial)
        source.tell(Export(request.id, table, request.computed, tag))

    def arrived(self, message: Exported, now_s: float) -> bool:
        """A source answered: pass the KV on and finish the move; False if it was called off."""
        request_id, move, serial = message.tag
        entry = self._moves.get(request_id)
        if entry is None or entry[3] != serial:
            return False
        source, target = self._engines[move.source], self._engines[move.target]
        assert isinstance(source, TorchEngine) and isinstance(target, TorchEngine)
        target.tell(Import(request_id, list(target.numbers.tables[request_id]), message.payload))
        source.forget(request_id)
        return self.finish(entry[2], move, serial, now_s)
