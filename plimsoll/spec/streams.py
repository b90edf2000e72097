"""A model with P parallel streams: which models can have them, and what they add.

Every token runs P times, each time behind one of P learned prefixes of keys and values, through
the same weights; a small network weighs the P last hidden states and the head runs once. A
sequence caches P·(its length + 48) positions. Streams add to each layer the keys and values of
the prefixes, and once (P·h·h + h) + (h·P + P) to weigh, on every device of the last stage.
Weights must have been trained for that many streams; one stream is the plain model.
Leaves out: windows, latent vectors and states, before which a prefix has no place.
Source: arXiv 2505.10475.
"""

from dataclasses import replace

from plimsoll.spec.errors import SpecError, UnsupportedError
from plimsoll.spec.mixer_weights import Weight
from plimsoll.spec.model import Attention, Layer, ModelSpec

__all__ = [
    "PREFIX_TOKENS",
    "check_streams",
    "one_stream_only",
    "prefix_weights",
    "weighing_weights",
    "with_streams",
]

PREFIX_TOKENS = 48


def with_streams(model: ModelSpec, streams: int) -> ModelSpec:
    """``model`` with ``streams`` streams; itself for one.

    Raises:
        SpecError: fewer than one, or another number than the model already has.
        UnsupportedError: layers that keep more than keys and values of plain attention.
    """
    if streams < 1:
        raise SpecError(f"streams is {streams}; expected 1 (the plain model) or more")
    if streams == 1:
        return model
    if model.streams > 1:
        if model.streams == streams:
            return model
        raise SpecError(
            f"streams is {streams}, and {model.name} has {model.streams} of its own; its weights "
            "are for that many, leave streams out"
        )
    found = replace(
        model,
        name=f"{model.name}, {streams} streams",
        streams=streams,
        assumptions=(
            *model.assumptions,
            f"weights trained for {streams} streams, each behind {PREFIX_TOKENS} prefix tokens",
        ),
    )
    check_streams(found)
    return found


def check_streams(model: ModelSpec) -> None:
    """Refuse streams where a layer has no place for their prefixes.

    Raises:
        UnsupportedError: naming the kind of layer.
    """
    if model.streams == 1:
        return
    for group in model.layers:
        odd = _odd_part(group.layer)
        if odd:
            raise UnsupportedError(
                f"{model.name}: streams put prefixes before the keys and values of plain "
                f"attention, and a layer here has {odd}; use streams: 1, or another model"
            )


def one_stream_only(model: ModelSpec, what: str) -> None:
    """For answers that do not count streams.

    Raises:
        UnsupportedError: the model has several; ``what`` begins the sentence.
    """
    if model.streams > 1:
        raise UnsupportedError(
            f"{what} counts one stream, and {model.name} has {model.streams}; use fit, simulate "
            "or laws streams"
        )


def _odd_part(layer: Layer) -> str:
    mixer = layer.mixer
    if mixer.kind == "none":
        return ""
    if not isinstance(mixer, Attention):
        return {"mla": "latent attention"}.get(mixer.kind, f"states of fixed size ({mixer.kind})")
    if mixer.window or mixer.chunk:
        return "a window"
    if mixer.indexer is not None or mixer.kv_reduction > 1:
        return "compressed or sparse attention"
    if mixer.kv_from_layer_below:
        return "the keys and values of the layer below"
    return "attention sinks" if mixer.sinks else ""


def prefix_weights(layer: Layer, streams: int) -> tuple[Weight, ...]:
    """Keys and values of one layer's prefixes; none for one stream. A token multiplies none."""
    mixer = layer.mixer
    if streams == 1 or not isinstance(mixer, Attention):
        return ()
    values = 0 if mixer.keys_are_values else (mixer.v_head_dim or mixer.head_dim)
    count = streams * PREFIX_TOKENS * mixer.num_kv_heads * (mixer.head_dim + values)
    name, heads = "stream prefixes", mixer.num_kv_heads
    return (
        Weight(name=name, part="other", parameters=count, cut="units", units=heads, active=0.0),
    )


def weighing_weights(hidden: int, streams: int) -> tuple[Weight, ...]:
    """The network that weighs the streams; none for one."""
    if streams == 1:
        return ()
    count = (streams * hidden * hidden + hidden) + (hidden * streams + streams)
    return (Weight(name="stream weighing", part="other", parameters=count, cut="whole"),)
