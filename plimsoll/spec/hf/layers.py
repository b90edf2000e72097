"""The list of layers: which mixer and which feed-forward part each one has.

Two layouts exist. Usually a layer is a mixer followed by a feed-forward part, and
``layer_types`` (or a hybrid setting) names the mixer. Nemotron-H layers are one block each,
named by a pattern: ``M`` state space, ``*`` attention, ``E`` experts, ``-`` feed-forward.
"""

from collections.abc import Sequence

from plimsoll.spec.errors import UnsupportedError
from plimsoll.spec.hf.blocks import block_layers
from plimsoll.spec.hf.conventions import Conventions
from plimsoll.spec.hf.feedforward import FeedForwardReader
from plimsoll.spec.hf.fields import Fields
from plimsoll.spec.hf.hybrid import read_lightning, read_linear_attention, read_state_space
from plimsoll.spec.hf.softmax import SoftmaxReader
from plimsoll.spec.model import (
    Attention,
    LatentAttention,
    Layer,
    LayerGroup,
    LinearAttention,
    MoeFfn,
    NoFfn,
    NoMixer,
    StateSpace,
)

__all__ = ["count_layers", "grouped", "read_layers"]

_MOST_LAYERS = 10_000
_PATTERN = {"M": "mamba", "*": "attention", "E": "moe", "-": "mlp"}
_LINEAR = {"linear_attention", "kda", "gated_delta_net", "lightning"}
_STATE = {"mamba", "mamba2"}


def _pattern(fields: Fields, name: str) -> tuple[str, ...]:
    text = fields.text(name)
    if not 0 < len(text) <= _MOST_LAYERS:
        raise fields.fail(name, f"{len(text):,} layers; expected 1 to {_MOST_LAYERS:,}")
    for position, letter in enumerate(text):
        if letter not in _PATTERN:
            known = " ".join(_PATTERN)
            raise fields.fail(name, f"unknown layer {letter!r} at {position}; known are {known}")
    return tuple(_PATTERN[letter] for letter in text)


def _blocks(fields: Fields) -> tuple[str, ...]:
    """Names of one-block layers, or () if layers have two parts."""
    if fields.has("hybrid_override_pattern"):
        return _pattern(fields, "hybrid_override_pattern")
    return fields.names("layers_block_type")


def count_layers(fields: Fields) -> int:
    """How many layers there are; noted as missing where nothing says so."""
    names = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
    if fields.has(*names):
        return fields.required(*names, most=_MOST_LAYERS)
    blocks = _blocks(fields)
    if blocks:
        return len(blocks)
    for name in ("layer_types", "block_configs"):
        value = fields.data.get(name)
        if isinstance(value, list) and 0 < len(value) <= _MOST_LAYERS:
            return len(value)
    fields.need(*names)
    return 1


def _kinds(fields: Fields, num_layers: int) -> tuple[str, ...]:
    """The listed kind of each layer's mixer, () where nothing is listed."""
    listed = fields.names("layer_types", length=num_layers)
    if listed:
        return listed
    nested = fields.section("linear_attn_config")
    if nested is not None:
        linear = {i - 1 for i in nested.counts("kda_layers", least=1, most=_MOST_LAYERS)}
        return tuple("kda" if i in linear else "attention" for i in range(num_layers))
    if fields.has("full_attention_interval"):
        every = fields.required("full_attention_interval", most=_MOST_LAYERS)
        return tuple(
            "attention" if (i + 1) % every == 0 else "linear_attention" for i in range(num_layers)
        )
    softmax = fields.counts("attn_type_list", length=num_layers, least=0, most=1)
    if 0 in softmax:
        return tuple("attention" if flag else "lightning" for flag in softmax)
    return _state_space_kinds(fields, num_layers)


def _state_space_kinds(fields: Fields, num_layers: int) -> tuple[str, ...]:
    """Kinds of a hybrid that names its attention layers, () where nothing is a state space.

    Raises:
        UnsupportedError: there are recurrent layers, but nothing says which.
    """
    if fields.has("attn_layer_indices"):
        indices = set(fields.counts("attn_layer_indices", most=_MOST_LAYERS))
        return tuple("attention" if i in indices else "mamba" for i in range(num_layers))
    if fields.has("attn_layer_period"):
        period = fields.required("attn_layer_period", most=_MOST_LAYERS)
        offset = fields.optional("attn_layer_offset", default=0, most=_MOST_LAYERS)
        return tuple("attention" if i % period == offset else "mamba" for i in range(num_layers))
    marks = ("mamba_d_state", "ssm_state_size", "mamba_d_ssm", "lru_width")
    name, _ = fields.find(*marks)
    if name:
        raise UnsupportedError(
            f"{fields.where}: {name} speaks of recurrent layers, but no field that is known "
            "(layer_types, layers_block_type, hybrid_override_pattern, attn_layer_indices) "
            "says which layers they are"
        )
    return ()


def _hyper_connection_parameters(fields: Fields, hidden: int) -> int:
    """Two mixers of ``hc_mult`` residual streams in each layer."""
    streams = fields.optional("hc_mult", default=0, most=1024)
    mixes = (2 + streams) * streams
    return 2 * (mixes * streams * hidden + mixes + 3) if streams else 0


class _Readers:
    """The readers of one configuration, made only where a layer needs them."""

    def __init__(
        self, fields: Fields, conventions: Conventions, *, hidden: int, num_layers: int
    ) -> None:
        self.fields = fields
        self.conventions = conventions
        self.hidden = hidden
        self.num_layers = num_layers
        self.blocks = _blocks(fields)
        self.kinds = self.blocks or _kinds(fields, num_layers)
        if self.blocks and len(self.blocks) != num_layers:
            raise fields.fail(
                "num_hidden_layers", f"{num_layers}, but the pattern has {len(self.blocks)}"
            )
        used = set(self.kinds) | set(self._mtp_kinds())
        softmax = not self.kinds or bool(used - _LINEAR - _STATE - {"moe", "mlp"})
        size = {"hidden": hidden, "num_layers": num_layers}
        self.softmax = SoftmaxReader(fields, conventions, **size) if softmax else None
        self.linear: LinearAttention | None = None
        self.state: StateSpace | None = None
        if used & _LINEAR:
            lightning = "lightning" in used
            self.linear = (
                read_lightning(fields, hidden) if lightning else (read_linear_attention(fields))
            )
        if used & _STATE:
            self.state = read_state_space(fields)
        self.ffn = FeedForwardReader(fields, conventions, **size)
        if not self.blocks or "mlp" in used:
            self.ffn.need_dense()
        if "moe" in used and not self.ffn.num_experts:
            fields.need("n_routed_experts")
        self.extra = _hyper_connection_parameters(fields, hidden)
        self.norms = conventions.norms

    def _mtp_kinds(self) -> tuple[str, ...]:
        if self.fields.has("mtp_hybrid_override_pattern"):
            return _pattern(self.fields, "mtp_hybrid_override_pattern")
        return self.fields.names("mtp_layers_block_type")

    def mixer(
        self, index: int, kinds: Sequence[str]
    ) -> Attention | LatentAttention | LinearAttention | StateSpace:
        kind = kinds[index] if kinds else ""
        if kind in _LINEAR and self.linear is not None:
            return self.linear
        if kind in _STATE and self.state is not None:
            return self.state
        if self.softmax is None:
            raise self.fields.fail(f"layer_types[{index}]", f"unknown kind of layer {kind!r}")
        return self.softmax.at(index, kinds)

    def block(self, index: int, kind: str) -> Layer:
        """A layer that is one block."""
        if kind == "moe":
            return Layer(mixer=NoMixer(), ffn=self.ffn.experts(), num_norms=1)
        if kind == "mlp":
            return Layer(mixer=NoMixer(), ffn=self.ffn.dense(), num_norms=1)
        mixer = self.mixer(0, (kind,))
        return Layer(mixer=mixer, ffn=NoFfn(), num_norms=1)

    def layer(self, index: int) -> Layer:
        """Layer ``index`` of the model."""
        if self.blocks:
            return self.block(index, self.blocks[index])
        mixer, ffn = self.mixer(index, self.kinds), self.ffn.at(index)
        extra = self.extra + (1 if self.conventions.layer_scalar else 0)
        norms = self.norms
        if isinstance(ffn, MoeFfn) and ffn.dense_intermediate:
            norms += 3  # one before the experts, one after each of the two branches
            extra += self.hidden + ffn.num_experts
        if isinstance(mixer, Attention) and mixer.keys_are_values:
            extra += mixer.head_dim  # the norm of the shared key and value
        return Layer(mixer=mixer, ffn=ffn, num_norms=norms, extra_parameters=extra)

    def ahead(self) -> list[Layer]:
        """The layers of the multi-token-prediction heads, joint included."""
        fields = self.fields
        count = fields.optional(
            "num_nextn_predict_layers",
            "mtp_num_hidden_layers",
            "num_mtp_modules",
            default=0,
            most=64,
        )
        joint = 2 * self.hidden * self.hidden + 3 * self.hidden
        result: list[Layer] = []
        kinds = self._mtp_kinds()
        for _ in range(count):
            if kinds:
                blocks = [self.block(0, kind) for kind in kinds]
                first = blocks[0]
                blocks[0] = _with_extra(first, joint)
                result.extend(blocks)
                continue
            result.append(_with_extra(self._ahead_layer(), joint))
        return result

    def _ahead_layer(self) -> Layer:
        last = self.num_layers - 1
        template = self.layer(last)
        if self.softmax is None:
            return template
        mixer = template.mixer
        if self.softmax.reductions:
            mixer = self.softmax.at_reduction(0)
        elif self.kinds or self.softmax.window_flags:
            full = [i for i in range(self.num_layers) if self._is_full(i)]
            if full:
                mixer = self.mixer(full[-1], self.kinds)
        else:
            return template
        return Layer(
            mixer=mixer,
            ffn=template.ffn,
            num_norms=template.num_norms,
            extra_parameters=template.extra_parameters,
        )

    def _is_full(self, index: int) -> bool:
        mixer = self.mixer(index, self.kinds)
        if isinstance(mixer, Attention):
            return not mixer.window and not mixer.chunk
        return isinstance(mixer, LatentAttention)


def _with_extra(layer: Layer, parameters: int) -> Layer:
    return Layer(
        mixer=layer.mixer,
        ffn=layer.ffn,
        num_norms=layer.num_norms,
        extra_parameters=layer.extra_parameters + parameters,
    )


def read_layers(
    fields: Fields, conventions: Conventions, *, hidden: int, num_layers: int
) -> tuple[list[Layer], list[Layer]]:
    """The decoder layers, and those of the multi-token-prediction heads.

    Raises:
        SpecError: fields are missing (all are named) or make no sense.
    """
    if fields.has("block_configs"):
        heads = fields.required("num_attention_heads", most=2**16)
        fields.check_missing()
        layers = block_layers(fields, hidden=hidden, heads=heads)
        if len(layers) != num_layers:
            raise fields.fail("num_hidden_layers", f"{num_layers}, but {len(layers)} blocks")
        return layers, []
    readers = _Readers(fields, conventions, hidden=hidden, num_layers=num_layers)
    fields.check_missing()
    return [readers.layer(index) for index in range(num_layers)], readers.ahead()


def grouped(layers: Sequence[Layer]) -> tuple[LayerGroup, ...]:
    """Runs of identical layers as groups."""
    groups: list[LayerGroup] = []
    for layer in layers:
        if groups and groups[-1].layer == layer:
            groups[-1] = LayerGroup(count=groups[-1].count + 1, layer=layer)
        else:
            groups.append(LayerGroup(count=1, layer=layer))
    return tuple(groups)
