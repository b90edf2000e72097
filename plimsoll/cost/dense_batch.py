"""Arithmetic of one iteration over a dense batch: what compute, memory and network need.

A *dense batch* is all tokens of an iteration, decodes and prompt chunks alike, as the matrix
multiplies see them. Compute: 2 FLOPs a parameter and token. Memory: everything in it is read
once. Network: two all-gathers and an all-reduce a layer (or two all-reduces), each device
receiving from the N - 1 others. The best possible rate is that of the multiplies alone.
Leaves out attention arithmetic, norms, embedding and head. Source: arXiv 2408.12757.
"""

from dataclasses import dataclass

from plimsoll.cost.kv import kv_bytes_per_token
from plimsoll.spec.errors import InfeasibleError, UnsupportedError
from plimsoll.spec.model import Attention, DenseFfn, ModelSpec
from plimsoll.spec.parameters import active_parameters, weight_bytes
from plimsoll.spec.streams import one_stream_only

__all__ = [
    "FullMemoryBatch",
    "Gemm",
    "dense_gemms",
    "full_memory_batch",
    "iteration_network_bytes",
    "memory_to_compute_ratio",
    "optimal_tokens_per_s",
]

_ACTIVATION_BYTES = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemm:
    """One multiply of every layer, all layers together: its work and its weights as stored."""

    name: str
    flops: float
    weight_bytes: float

    def compute_s(self, flops_per_s: float) -> float:
        """Time at a rate of arithmetic, all devices together."""
        return self.flops / flops_per_s


def dense_gemms(model: ModelSpec, *, tokens: int) -> tuple[Gemm, ...]:
    """Work of the four multiplies of a dense decoder on ``tokens`` tokens, in their order.

    ``kqv`` makes keys, queries and values, ``o`` follows attention, ``ug`` is up and gate,
    ``d`` down.

    Raises:
        UnsupportedError: a layer is not grouped attention with a gated dense feed-forward, or
            the model has several streams.
    """
    one_stream_only(model, "a layer of nano-operations")
    sizes = {"kqv": 0.0, "o": 0.0, "ug": 0.0, "d": 0.0}
    stored = dict(sizes)
    for group in model.layers:
        mixer, ffn = group.layer.mixer, group.layer.ffn
        if not isinstance(mixer, Attention) or not isinstance(ffn, DenseFfn) or not ffn.gated:
            raise UnsupportedError(
                f"{model.name}: nano-operations are laid out for grouped attention with a gated "
                f"dense feed-forward; it has a layer of {mixer.kind} and {ffn.kind}"
            )
        value_dim = mixer.v_head_dim or mixer.head_dim
        keys_values = mixer.num_kv_heads * (mixer.head_dim + value_dim)
        formats = group.layer.formats or model.quantization
        hidden, wide = model.hidden_size, ffn.intermediate
        parameters = {
            "kqv": (hidden * (mixer.num_heads * mixer.head_dim + keys_values), formats.mixer),
            "o": (mixer.num_heads * value_dim * hidden, formats.mixer_output or formats.mixer),
            "ug": (2 * hidden * wide, formats.ffn),
            "d": (hidden * wide, formats.ffn),
        }
        for name, (count, dtype) in parameters.items():
            sizes[name] += group.count * count
            stored[name] += group.count * count * dtype.bytes
    return tuple(
        Gemm(name=name, flops=2.0 * tokens * sizes[name], weight_bytes=stored[name])
        for name in sizes
    )


def iteration_network_bytes(model: ModelSpec, *, tokens: int, devices: int) -> float:
    """Bytes received by all devices together in all layers; 0 on one device.

    An all-gather brings each device the shards of the others, an all-reduce twice that; a layer
    has two of the first and one of the second.
    """
    one_gather = (devices - 1) * tokens * model.hidden_size * _ACTIVATION_BYTES
    return 4.0 * one_gather * model.num_layers


def optimal_tokens_per_s(*, flops_per_s: float, parameters: float) -> float:
    """Tokens/s, read and written, if only the multiplies took time; per device if the rate is."""
    return flops_per_s / (2.0 * parameters)


@dataclass(frozen=True, slots=True, kw_only=True)
class FullMemoryBatch:
    """The steady batch that fills memory: decoding ``requests``, and all ``tokens`` of an
    iteration, prompts included."""

    requests: float
    tokens: float


def full_memory_batch(
    model: ModelSpec, *, memory_bytes: float, prompt_tokens: float, output_tokens: float
) -> FullMemoryBatch:
    """Requests whose KV, on average half decoded, fills what the weights leave.

    Each request brings its prompt once in as many iterations as it has output tokens.

    Raises:
        InfeasibleError: the weights alone fill the memory.
        UnsupportedError: the model has several streams.
    """
    one_stream_only(model, "the batch that fills memory")
    room = memory_bytes - weight_bytes(model)
    if room <= 0:
        raise InfeasibleError(
            f"{model.name}: its weights take {weight_bytes(model) / 1e9:.1f} GB of "
            f"{memory_bytes / 1e9:.1f} GB and leave no room for KV",
            binding="memory",
        )
    token_bytes = kv_bytes_per_token(model, model.quantization.kv_cache)
    requests = room / (token_bytes * (prompt_tokens + output_tokens / 2))
    tokens = requests * (prompt_tokens + output_tokens) / output_tokens
    return FullMemoryBatch(requests=requests, tokens=tokens)


def memory_to_compute_ratio(
    model: ModelSpec,
    *,
    memory_bytes: float,
    memory_bytes_per_s: float,
    flops_per_s: float,
    prompt_tokens: float,
    output_tokens: float,
) -> float:
    """Time to read all memory once over the time of the multiplies, at the full-memory batch.

    Memory, bandwidth and arithmetic are of all devices together. Below 1 the iteration is bound
    by compute. Parameters are counted as a model's name does: embedding and head included, of
    experts those a token meets.
    """
    batch = full_memory_batch(
        model,
        memory_bytes=memory_bytes,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
    )
    parameters = active_parameters(model, embedding=True)
    return memory_bytes / memory_bytes_per_s / (2.0 * batch.tokens * parameters / flops_per_s)
