"""Parallel streams through one set of weights: parameters, memory and time.

P copies of every token, each behind its own learned prefix of keys and values, run as a batch P
times as large; one small network weighs their last hidden states, and the head runs once. Weights
are read once for all streams, so that where reading them takes the time, streams are nearly free.

Parameters of the base: a layer has 2h·q + 2h·kv + 3h·f (q = h where heads fill the width), biases
of q, k and v, two norms; one norm at the end; embeddings apart. Streams add layers·prefix·2·kv·P,
and (P·h·h + h) + (h·P + P) to weigh. Time is a roofline per part (layers' weights, attention,
weighing, head), summed, prompt first and then a step a token. Memory is weights (the embedding
once) and the KV of all streams at the end; activations are left out.
Source: arXiv 2505.10475, section 2 and appendix; counts agree with its released fit.
"""

from dataclasses import dataclass, replace

from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import SpecError, UnsupportedError
from plimsoll.spec.hardware import Device
from plimsoll.spec.model import Attention, DenseFfn, ModelSpec
from plimsoll.spec.streams import PREFIX_TOKENS

__all__ = ["StreamCost", "StreamShape", "parscale_cost", "scaled_shape", "stream_shape"]

_HALVINGS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamShape:
    """A decoder of equal layers with gated feed-forward parts. ``kv_width``: KV heads x head size;
    ``query_width``: heads x head size, 0 for as wide as ``hidden``. Sizes may be fractions, of
    models between two built ones."""

    num_layers: int
    hidden: float
    ffn: float
    kv_width: float
    vocab: int
    prefix: int = PREFIX_TOKENS
    query_width: float = 0.0

    @property
    def queries(self) -> float:
        """Width of all query heads together."""
        return self.query_width or self.hidden

    def parameters(self, streams: int = 1) -> float:
        """All but embeddings; one stream has neither prefix nor anything to weigh.

        Raises:
            SpecError: fewer than one stream.
        """
        h, kv, q = self.hidden, self.kv_width, self.queries
        layer = 2 * h * q + 2 * h * kv + 3 * h * self.ffn + (q + 2 * kv) + 2 * h
        base = self.num_layers * layer + h
        return base + self.prefix_parameters(streams) + self.weighing_parameters(streams)

    def prefix_parameters(self, streams: int) -> float:
        """Keys and values of the prefixes."""
        _counted(streams)
        return 0 if streams == 1 else self.num_layers * self.prefix * 2 * self.kv_width * streams

    def weighing_parameters(self, streams: int) -> float:
        """The network that weighs the streams."""
        _counted(streams)
        h = self.hidden
        return 0 if streams == 1 else (streams * h * h + h) + (h * streams + streams)

    def kv_tokens(self, length: float, streams: int) -> float:
        """Cached positions of one sequence, prefixes and all streams counted."""
        _counted(streams)
        return length if streams == 1 else streams * (length + self.prefix)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamCost:
    """``memory_bytes`` at the end of a generation; ``latency_s`` of prompt and all steps."""

    weight_bytes: float
    kv_bytes: float
    prefill_s: float
    decode_s: float

    @property
    def memory_bytes(self) -> float:
        """Weights and KV."""
        return self.weight_bytes + self.kv_bytes

    @property
    def latency_s(self) -> float:
        """Prompt and steps."""
        return self.prefill_s + self.decode_s


def stream_shape(model: ModelSpec, *, prefix: int = PREFIX_TOKENS) -> StreamShape:
    """The shape of a model whose layers are all alike, attention and dense feed-forward.

    Raises:
        UnsupportedError: it has other layers.
    """
    first = model.layers[0].layer
    mixer, ffn = first.mixer, first.ffn
    alike = all(g.layer.mixer == mixer and g.layer.ffn == ffn for g in model.layers)
    plain = isinstance(mixer, Attention) and isinstance(ffn, DenseFfn) and ffn.gated
    if not (alike and plain):
        raise UnsupportedError(
            f"{model.name}: streams are costed for equal layers of attention and a gated dense "
            "feed-forward part; use such a model, or a size as in 1.6B"
        )
    assert isinstance(mixer, Attention) and isinstance(ffn, DenseFfn)
    return StreamShape(
        num_layers=model.num_layers,
        hidden=model.hidden_size,
        ffn=ffn.intermediate,
        kv_width=mixer.num_kv_heads * mixer.head_dim,
        vocab=model.vocab_size,
        prefix=prefix,
        query_width=mixer.num_heads * mixer.head_dim,
    )


def scaled_shape(shape: StreamShape, parameters: float) -> StreamShape:
    """The shape as deep as ``shape`` and so much wider, in all its widths, as to have so many
    parameters with one stream.

    Raises:
        SpecError: a number of parameters that is not above zero.
    """
    if not parameters > 0:
        raise SpecError(f"{parameters:g} parameters; expected more than zero")

    def wider(factor: float) -> StreamShape:
        return replace(
            shape,
            hidden=shape.hidden * factor,
            ffn=shape.ffn * factor,
            kv_width=shape.kv_width * factor,
            query_width=shape.query_width * factor,
        )

    low, high = 1e-6, 1.0
    while wider(high).parameters() < parameters:
        high *= 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if wider(middle).parameters() < parameters else (low, middle)
    return wider(high)


def parscale_cost(
    shape: StreamShape,
    device: Device,
    *,
    streams: int,
    batch: int,
    prompt_tokens: int,
    output_tokens: int,
    dtype: DType = DType.BF16,
    compute_efficiency: float = 0.7,
    memory_efficiency: float = 0.9,
) -> StreamCost:
    """Memory and time of ``batch`` sequences. The efficiencies are shares of the device's peaks.

    Raises:
        SpecError: fewer than one stream, sequence or token, or an efficiency out of range.
        UnsupportedError: the device lists no peak for ``dtype``.
    """
    _counted(streams)
    for name, value in (
        ("batch", batch),
        ("prompt tokens", prompt_tokens),
        ("output tokens", output_tokens),
    ):
        if value < 1:
            raise SpecError(f"{name} is {value}; expected 1 or more")
    for name, share in (("compute", compute_efficiency), ("memory", memory_efficiency)):
        if not 0 < share <= 1:
            raise SpecError(f"{name} efficiency is {share:g}; expected above 0 and at most 1")
    flops_per_s = compute_efficiency * device.flops_per_s(dtype)
    bytes_per_s = memory_efficiency * device.memory_bytes_per_s
    kv_token_bytes = shape.num_layers * 2 * shape.kv_width * dtype.bytes

    def part(flops: float, moved: float) -> float:
        return max(flops / flops_per_s, moved / bytes_per_s)

    def pass_s(new: int, cached: float) -> float:
        """One forward pass of ``new`` tokens a sequence behind ``cached`` ones."""
        rows = batch * new
        seen = cached + (shape.prefix if streams > 1 else 0)
        pairs = batch * streams * (new * seen + new * (new + 1) / 2)
        base = shape.parameters()
        weigh, head = shape.weighing_parameters(streams), shape.vocab * shape.hidden
        kv_moved = batch * streams * (seen + new) * kv_token_bytes
        return (
            part(2 * rows * streams * base, base * dtype.bytes)
            + part(4 * pairs * shape.num_layers * shape.queries, kv_moved)
            + part(2 * batch * weigh, weigh * dtype.bytes)
            + part(2 * batch * head, head * dtype.bytes)
        )

    middle = prompt_tokens + (output_tokens - 1) / 2
    end = prompt_tokens + output_tokens
    return StreamCost(
        weight_bytes=(shape.parameters(streams) + shape.vocab * shape.hidden) * dtype.bytes,
        kv_bytes=batch * shape.kv_tokens(end, streams) * kv_token_bytes,
        prefill_s=pass_s(prompt_tokens, 0),
        decode_s=output_tokens * pass_s(1, middle),
    )


def _counted(streams: int) -> None:
    if streams < 1:
        raise SpecError(f"{streams} streams; expected 1 or more")
