"""Embeddings under way: each on one worker, told once, also when that worker is lost."""

from collections.abc import Callable, Sequence

from plimsoll.serving.executors.torch.messages import Embed, Embedded

__all__ = ["Embeds"]

Deliver = Callable[[Sequence[float] | str], None]
"""Is told the vector, or in words why there is none."""


class Embeds:
    """Who waits for what, and where it is computed."""

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[Deliver, int]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def begin(self, message: Embed, deliver: Deliver, up: Sequence[int]) -> int:
        """The worker of those ``up`` that is to compute it."""
        index = up[message.request % len(up)]
        self._waiting[message.request] = (deliver, index)
        return index

    def done(self, message: Embedded) -> None:
        """A worker answered."""
        deliver, _ = self._waiting.pop(message.request, (None, 0))
        if deliver is not None:
            deliver(message.vector)

    def on(self, index: int) -> bool:
        """Whether a worker computes any."""
        return any(at == index for _, at in self._waiting.values())

    def end(self, why: str, index: int | None = None) -> None:
        """Tell those of a worker, or all, that nothing comes."""
        for request, (deliver, at) in list(self._waiting.items()):
            if index is None or at == index:
                del self._waiting[request]
                deliver(why)
