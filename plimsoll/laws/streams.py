"""Streams against parameters: what P streams are worth in size, and which of the two is cheaper.

A law in (params, streams) says how many parameters one stream needs for the loss of P. Both sides
are costed by one roofline: the base with P streams, and a model of that size as deep as the base
and wider. A request's time is that of a batch that runs alone; money is the device's price over
it. At small batches reading weights takes the time and streams are nearly free; at large ones
arithmetic does, P streams cost P times the tokens, and more parameters are cheaper. Params count
no embeddings, as the paper does, and include what the streams add.
Leaves out: training, where streams run every token P times (the paper adds them to a trained base
in a few percent of its tokens); several devices a model.
Source: arXiv 2505.10475.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from plimsoll.cost.parallel import StreamCost, StreamShape, parscale_cost, scaled_shape
from plimsoll.laws.forms.parscale import ParScale
from plimsoll.laws.law import Law
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import InfeasibleError, SpecError
from plimsoll.spec.hardware import Device
from plimsoll.spec.units import format_bytes, format_seconds

__all__ = [
    "PAPER_SHAPE",
    "StreamChoice",
    "StreamLoad",
    "StreamOffer",
    "best_offer",
    "equal_size",
    "stream_choices",
]

PAPER_SHAPE = StreamShape(num_layers=36, hidden=1536, ffn=8320, kv_width=192, vocab=151_936)
"""The paper's 1.6 B: 16 heads, two of them with KV. Its other sizes are as deep."""

_BATCHES = tuple(2**k for k in range(13))


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLoad:
    """``batch`` requests that run together, of ``prompt_tokens`` in and ``output_tokens`` out."""

    batch: int = 1
    prompt_tokens: int = 512
    output_tokens: int = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOffer:
    """One way to a loss: ``streams`` through ``shape``. ``usd_per_million`` output tokens, None
    where the device has no price; ``fits`` in the memory that the engine may take."""

    kind: Literal["streams", "parameters"]
    streams: int
    shape: StreamShape
    loss: float
    cost: StreamCost
    usd_per_million: float | None
    fits: bool

    @property
    def params(self) -> float:
        """Without embeddings, with what streams add."""
        return self.shape.parameters(self.streams)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamChoice:
    """P streams and the larger model of equal loss. ``up_to_batch``: the largest batch, a power
    of two, at which the streams' request takes less time; 0 for none, None for all tried."""

    with_streams: StreamOffer
    larger: StreamOffer
    up_to_batch: int | None

    @property
    def cheaper(self) -> StreamOffer:
        """Of what fits, the one whose batch takes less time, and so less money; the smaller in
        memory where neither fits."""
        sides = (self.with_streams, self.larger)
        held = [side for side in sides if side.fits]
        if not held:
            return min(sides, key=lambda side: side.cost.memory_bytes)
        return min(held, key=lambda side: side.cost.latency_s)


def equal_size(law: Law, params: float, streams: int) -> float:
    """The parameters at which one stream has the loss of ``streams`` at ``params``.

    Raises:
        SpecError: a law that knows no streams.
    """
    form = law.form
    if not isinstance(form, ParScale):
        raise SpecError(
            f"law {law.name} has inputs {', '.join(form.inputs)}; streams are traded by a law of "
            "params and streams: parscale-stack, parscale-pile, or a fit with --form parscale"
        )
    gain = form.gain(np.array(law.named["k"]), np.array(float(streams)))
    return params * float(gain)


def stream_choices(
    law: Law,
    base: StreamShape,
    device: Device,
    load: StreamLoad,
    *,
    streams: Sequence[int] = (1, 2, 4, 8),
    dtype: DType = DType.BF16,
    memory_fraction: float = 0.9,
) -> tuple[StreamChoice, ...]:
    """Both sides for each number of streams, in the order given.

    Raises:
        SpecError: a law without streams, or numbers that cannot be.
        UnsupportedError: the device has no peak for ``dtype``.
    """
    if not streams:
        raise SpecError("no number of streams given; expected one or more, as in 1,2,4,8")

    def cost(shape: StreamShape, p: int, batch: int) -> StreamCost:
        return parscale_cost(
            shape,
            device,
            streams=p,
            batch=batch,
            prompt_tokens=load.prompt_tokens,
            output_tokens=load.output_tokens,
            dtype=dtype,
        )

    def offer(kind: Literal["streams", "parameters"], shape: StreamShape, p: int) -> StreamOffer:
        found = cost(shape, p, load.batch)
        usd = None
        if device.price is not None:
            tokens = load.batch * load.output_tokens
            usd = device.price.usd_per_hour / 3600 * found.latency_s / tokens * 1e6
        at = {"params": np.array([shape.parameters(p)]), "streams": np.array([float(p)])}
        return StreamOffer(
            kind=kind,
            streams=p,
            shape=shape,
            loss=float(law.predict(at)[0]),
            cost=found,
            usd_per_million=usd,
            fits=found.memory_bytes <= memory_fraction * device.memory_bytes,
        )

    def up_to(shape: StreamShape, p: int) -> int | None:
        won = [b for b in _BATCHES if cost(base, p, b).latency_s < cost(shape, 1, b).latency_s]
        return None if len(won) == len(_BATCHES) else max(won, default=0)

    choices = []
    for p in streams:
        larger = scaled_shape(base, equal_size(law, base.parameters(p), p))
        choices.append(
            StreamChoice(
                with_streams=offer("streams", base, p),
                larger=offer("parameters", base if p == 1 else larger, 1),
                up_to_batch=0 if p == 1 else up_to(larger, p),
            )
        )
    return tuple(choices)


def best_offer(
    choices: Iterable[StreamChoice], *, latency_s: float = 0.0, usd_per_million: float = 0.0
) -> StreamOffer:
    """The least loss within memory, a request's time and money; 0 for no bound. Of losses equal to
    nine digits the faster.

    Raises:
        InfeasibleError: nothing keeps the bounds; it says what comes nearest.
        SpecError: a price is asked for and the device has none.
    """
    offers = [side for one in choices for side in (one.with_streams, one.larger)]
    if usd_per_million and any(side.usd_per_million is None for side in offers):
        raise SpecError("a bound on money needs a price, and the device has none; give a file")
    held = [side for side in offers if side.fits]
    if not held:
        least = min(offers, key=lambda side: side.cost.memory_bytes)
        raise InfeasibleError(
            f"none fits the device: the smallest takes {format_bytes(least.cost.memory_bytes)}",
            binding="device memory",
            change="a smaller base, a smaller batch, or a larger device",
        )
    kept = [
        side
        for side in held
        if (not latency_s or side.cost.latency_s <= latency_s)
        and (not usd_per_million or (side.usd_per_million or 0.0) <= usd_per_million)
    ]
    if not kept:
        fast = min(held, key=lambda side: side.cost.latency_s)
        bounds = [f"{format_seconds(latency_s)} a request"] if latency_s else []
        bounds += [f"{usd_per_million:g} USD a million tokens"] if usd_per_million else []
        price = f", {fast.usd_per_million:.3g} USD" if fast.usd_per_million is not None else ""
        raise InfeasibleError(
            f"nothing keeps {' and '.join(bounds)}: the fastest takes "
            f"{format_seconds(fast.cost.latency_s)} a request{price}",
            binding="latency" if latency_s else "money",
            nearest=f"{fast.params / 1e9:.3g}B parameters in one stream"
            if fast.streams == 1
            else f"{fast.params / 1e9:.3g}B parameters in {fast.streams} streams",
            change="a smaller base or a faster device"
            + (", or shorter outputs" if latency_s else ", or a larger batch"),
        )
    return min(kept, key=lambda side: (round(side.loss, 9), side.cost.latency_s))
