"""Seconds that a run of layers takes, apart from the two ends of a step.

The step of a model is its layers and its ends (embedding, head, sampling, the engine's host time).
Clocks of the model at full and at half depth tell the two apart, since all layers are alike: a
layer is their difference over the layers between. Every launch of a run of layers as a batch of
its own costs ``launch_s`` more, adapters of a batch the reading of their weights. Left out: ends
that differ between the two depths. Source: ``cost/step.py``.
"""

from collections.abc import Sequence
from dataclasses import replace

from plimsoll.cost.step import ReplicaClock, replica_clock
from plimsoll.spec.errors import UnsupportedError
from plimsoll.spec.hardware import Device
from plimsoll.spec.model import ModelSpec
from plimsoll.spec.plan import Parallel

__all__ = ["BlockClock", "block_clock"]


def block_clock(
    model: ModelSpec, device: Device, *, engine: str = "vllm", launch_s: float = 0.0
) -> "BlockClock":
    """The clock of runs of layers of ``model`` on one device.

    Raises:
        UnsupportedError: layers of several kinds, fewer than two layers, or no rates.
    """
    if len(model.layers) != 1 or model.layers[0].count < 2:
        raise UnsupportedError(
            f"{model.name}: its layers are not all alike, or too few; runs of layers are priced "
            "for models of one kind of layer"
        )
    (group,) = model.layers
    half = replace(model, layers=(replace(group, count=group.count // 2),))
    whole_clock, half_clock = (
        replica_clock(m, device, Parallel(), engine=engine) for m in (model, half)
    )
    return BlockClock(whole_clock, half_clock, group.count, group.count // 2, launch_s)


class BlockClock:
    """See ``block_clock``. ``chunks`` are (new tokens, tokens before them) of each prompt."""

    def __init__(
        self,
        whole: ReplicaClock,
        half: ReplicaClock,
        num_layers: int,
        half_layers: int,
        launch_s: float,
    ) -> None:
        self._whole = whole
        self._half = half
        self.num_layers = num_layers
        self._between = num_layers - half_layers
        self._launch_s = launch_s

    def run_s(
        self,
        num_layers: int,
        chunks: Sequence[tuple[int, int]],
        num_decodes: int,
        decode_context: int,
        *,
        ends: bool,
    ) -> float:
        """Seconds of one batch in ``num_layers`` layers; ``ends``: with embedding and head."""
        whole_s = self._whole.step_s(chunks, num_decodes, decode_context)
        layer_s = (whole_s - self._half.step_s(chunks, num_decodes, decode_context)) / self._between
        ends_s = whole_s - self.num_layers * layer_s if ends else 0.0
        return self._launch_s + num_layers * layer_s + ends_s
