"""What a FLOP of serving costs beside one of training, on given devices, for a model of a size.

Training keeps devices busy at a model FLOPs utilisation (MFU) of about 0.4. Serving decodes one
token a step for each request in a batch, bound by memory; its utilisation follows from the step
time of the cost model at the batch that the KV memory allows under a bound on the time per token.
The weight is MFU of training over that of serving. Sizes stand for models of the shape of Llama.
Leaves out: idle time between peaks, replicas for safety, staff.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from plimsoll.cost.memory import kv_capacity
from plimsoll.cost.step import replica_clock
from plimsoll.laws.forms.contract import Floats
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import InfeasibleError
from plimsoll.spec.hardware import Device
from plimsoll.spec.model import Attention, DenseFfn, Layer, LayerGroup, ModelSpec
from plimsoll.spec.parameters import active_parameters
from plimsoll.spec.plan import Parallel

__all__ = ["ServingPoint", "llama_of", "serving_point", "serving_weights"]

TRAINING_MFU = 0.4
_VOCABULARY = 65_536
_HEAD = 128
_ASPECT = 128  # width over depth
_DEGREES = (1, 2, 4, 8)
_MOST_BATCH = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingPoint:
    """Decoding at its best: ``tp`` devices, ``batch`` requests at once, seconds a step, prompt
    tokens and output tokens served per device-second, and what share of peak FLOP/s that is."""

    tp: int
    batch: int
    token_s: float
    tokens_per_device_s: float
    mfu: float
    limit: Literal["time per token", "KV memory", "batch"]


def llama_of(params: float) -> ModelSpec:
    """A model of about so many parameters, embeddings out, in the proportions of Llama."""
    heads = max(1, round((params * _ASPECT / 12) ** (1 / 3) / _HEAD))
    heads = round(heads / 8) * 8 if heads >= 8 else heads  # so that they can be cut
    width = heads * _HEAD
    kv_heads = max(h for h in (1, 2, 4, 8) if heads % h == 0 and h <= heads)
    attention = 2 * width * width + 2 * width * kv_heads * _HEAD
    inner = round(3.5 * width / 256) * 256 or 256
    layers = max(1, round(params / (attention + 3 * width * inner)))
    mixer = Attention(num_heads=heads, num_kv_heads=kv_heads, head_dim=_HEAD)
    layer = Layer(mixer=mixer, ffn=DenseFfn(intermediate=inner))
    return ModelSpec(
        name=f"llama-like {params:.3g}",
        hidden_size=width,
        vocab_size=_VOCABULARY,
        max_context=131_072,
        layers=(LayerGroup(count=layers, layer=layer),),
    )


def serving_point(
    params: float,
    device: Device,
    *,
    context_tokens: int = 2048,
    token_bound_s: float = 0.05,
    dtype: DType = DType.BF16,
) -> ServingPoint:
    """The cheapest way to decode: fewest device-seconds a token, over tensor degrees and batches.

    Raises:
        InfeasibleError: no degree up to a node keeps the bound.
    """
    model = llama_of(params)
    best: ServingPoint | None = None
    for tp in _DEGREES:
        if tp > device.devices_per_node or model.layers[0].layer.mixer.num_heads % tp:  # type: ignore[union-attr]
            continue
        parallel = Parallel(tp=tp)
        room = kv_capacity(model, device, parallel, context_tokens=context_tokens)
        most = min(_MOST_BATCH, room.max_concurrency(context_tokens)) if room.num_blocks else 0
        if most < 1:
            continue
        clock = replica_clock(model, device, parallel)
        batches = np.unique(np.geomspace(1, most, 24).astype(int))
        for batch in batches.tolist():
            step_s = clock.step_s([], batch, batch * context_tokens)
            if step_s > token_bound_s:
                break
            rate = batch / step_s / tp
            if best is None or rate > best.tokens_per_device_s:
                limit: Literal["time per token", "KV memory", "batch"] = "time per token"
                if batch == most:
                    limit = "batch" if most == _MOST_BATCH else "KV memory"
                best = ServingPoint(
                    tp=tp,
                    batch=batch,
                    token_s=step_s,
                    tokens_per_device_s=rate,
                    mfu=2 * active_parameters(model) * rate / device.flops_per_s(dtype),
                    limit=limit,
                )
    if best is None:
        raise InfeasibleError(
            f"a model of {params:.3g} parameters does not decode a token in {token_bound_s:g} s on "
            f"up to {device.devices_per_node} {device.name}",
            binding="time per token, or memory",
            change="loosen the bound, or use other devices",
        )
    return best


def serving_weights(
    sizes: Sequence[float] | Floats, device: Device, *, training_mfu: float = TRAINING_MFU
) -> Floats:
    """Weight of a serving FLOP at each size; inf where the size cannot be served."""
    found = []
    for size in sizes:
        try:
            found.append(training_mfu / serving_point(float(size), device).mfu)
        except InfeasibleError:
            found.append(float("inf"))
    return np.array(found)
