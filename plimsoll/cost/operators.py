"""Which operators a step of one replica runs on one device, and how often.

A model's layers become four lists: operators whose time follows the tokens of the step (of one
attention rank, of the whole replica, or the sampled ones), operators that follow the decodes'
batch and context, operators that follow prompt chunks, and fixed latencies. Equal layers are
counted, not repeated. A pipeline stage holds its share of the layers, rounded up.
Leaves out vision towers and multi-token-prediction heads. Source: the models' own definitions as
laid down in ``spec/model.py``.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np

from plimsoll.cost.attention import (
    PrefillLine,
    decode_work,
    prefill_line,
    prefill_work,
    visible_context,
)
from plimsoll.cost.attention_shape import AttentionShape, attention_shapes, indexer_shape
from plimsoll.cost.collectives import all_reduce_work, exchange_work, fabric_of, send_work
from plimsoll.cost.efficiency import Calibration, DecodeRates, PrefillRates
from plimsoll.cost.elementwise import elementwise_work
from plimsoll.cost.gemm import Multiply, gemm_work, multiply_format
from plimsoll.cost.host import EngineProfile
from plimsoll.cost.moe import moe_shape, moe_work
from plimsoll.cost.roofline import Floats, Work
from plimsoll.cost.state_space import state_decode_work, state_prefill_work, state_shape
from plimsoll.spec.dtype import DType
from plimsoll.spec.hardware import Device
from plimsoll.spec.mixer_weights import mixer_weights
from plimsoll.spec.model import (
    Attention,
    DenseFfn,
    LatentAttention,
    Layer,
    LinearAttention,
    Mixer,
    ModelSpec,
    MoeFfn,
    StateSpace,
)
from plimsoll.spec.parameters import with_weight_dtype
from plimsoll.spec.plan import Parallel

__all__ = ["DecodeOp", "PrefillOp", "Setting", "StepProgram", "TokenOp", "gemm_op", "step_program"]

Scope = Literal["rank", "replica", "sampled"]


class Setting(NamedTuple):
    """Everything fixed that the operators of one replica depend on."""

    model: ModelSpec
    device: Device
    parallel: Parallel
    weight_dtype: DType | None
    kv_dtype: DType
    devices_per_node: int
    calibration: Calibration
    engine: EngineProfile
    routing_exponent: float


class TokenOp(NamedTuple):
    """Follows a number of tokens; ``scope`` says which."""

    name: str
    times: float
    scope: Scope
    work: Callable[[Floats], Work]
    network: bool = False


class DecodeOp(NamedTuple):
    """Follows the batch and total context of one rank's decodes."""

    name: str
    times: float
    work: Callable[[float, Floats], Work]


class PrefillOp(NamedTuple):
    """Follows prompt chunks: totals of visible pairs, new and cached tokens, longest span.

    ``limit`` and ``chunk`` say what a token sees; see ``attention.visible_pairs``. ``line``
    gives the same time as ``work``.
    """

    name: str
    times: float
    limit: int
    chunk: bool
    line: PrefillLine
    work: Callable[[float, float, float, float], Work]


class StepProgram(NamedTuple):
    """All operators of one pipeline stage on one device."""

    tokens: tuple[TokenOp, ...]
    decodes: tuple[DecodeOp, ...]
    prefills: tuple[PrefillOp, ...]


def step_program(setting: Setting) -> StepProgram:
    """The operators of a step of ``setting.model`` on one device of the slowest stage."""
    model, pp = with_weight_dtype(setting.model, setting.weight_dtype), setting.parallel.pp
    setting = setting._replace(model=model)
    counts: Counter[Layer] = Counter()
    for group in model.layers:
        counts[group.layer] += group.count
    share = -(-model.num_layers // pp) / max(1, model.num_layers)
    tokens: list[TokenOp] = []
    decodes: list[DecodeOp] = []
    prefills: list[PrefillOp] = []
    for layer, count in counts.items():
        tokens.extend(_mixer_tokens(layer, count * share, setting))
        tokens.extend(_ffn_tokens(layer, count * share, setting))
        decodes.extend(_mixer_decodes(layer.mixer, count * share, setting))
        prefills.extend(_mixer_prefills(layer.mixer, count * share, setting))
    tokens.extend(_ends(setting))
    return StepProgram(tuple(tokens), tuple(decodes), tuple(prefills))


def _weight(setting: Setting, layer: Layer, part: str) -> Multiply:
    """How a part of ``layer`` is multiplied, in the format the layer stores it in."""
    formats = layer.formats or setting.model.quantization
    stored: DType = getattr(formats, part) or formats.mixer
    return multiply_format(stored, setting.device)


def gemm_op(
    name: str, count: float, n: float, k: float, how: Multiply, setting: Setting, scope: Scope
) -> TokenOp:
    """``count`` multiplies of the tokens by a matrix [n, k]."""
    device, rates, engine = setting.device, setting.calibration.gemm, setting.engine

    def work(tokens: Floats) -> Work:
        return gemm_work(
            tokens,
            n,
            k,
            how=how,
            device=device,
            rates=rates,
            engine=engine.kernels,
            quantize_fraction=engine.quantize_fraction,
        )

    return TokenOp(name, count, scope, work)


def _light(name: str, count: float, bytes_per_token: float, setting: Setting) -> TokenOp:
    device, rates = setting.device, setting.calibration.elementwise

    def work(tokens: Floats) -> Work:
        return elementwise_work(tokens, bytes_per_token, device=device, rates=rates)

    return TokenOp(name, count, "rank", work)


def _reduce(name: str, count: float, setting: Setting) -> Iterator[TokenOp]:
    tp = setting.parallel.tp
    if tp == 1:
        return
    fabric = fabric_of(setting.device, tp, setting.devices_per_node)
    rates, row_bytes = setting.calibration.collective, 2.0 * setting.model.hidden_size

    def work(tokens: Floats) -> Work:
        return all_reduce_work(tokens * row_bytes, fabric, rates)

    yield TokenOp(name, count, "rank", work, network=True)


def _mixer_tokens(layer: Layer, count: float, setting: Setting) -> Iterator[TokenOp]:
    mixer, hidden, tp = layer.mixer, setting.model.hidden_size, setting.parallel.tp
    inputs, output = (_weight(setting, layer, part) for part in ("mixer", "mixer_output"))
    for name, n, k in _projections(mixer, hidden, tp):
        how = output if name == "attention-out" else inputs
        yield gemm_op(name, count, n, k, how, setting, "rank")
    if layer.num_norms:
        yield _light("norms", count * layer.num_norms, 8.0 * hidden, setting)
    if isinstance(mixer, Attention | LatentAttention):
        heads = mixer.num_heads / tp
        width = mixer.head_dim if isinstance(mixer, Attention) else mixer.qk_rope_head_dim
        yield _light("rotary-and-cache", count, 8.0 * heads * width, setting)
    if mixer.kind != "none":
        yield from _reduce("all-reduce", count, setting)


def _projections(mixer: Mixer, hidden: int, tp: int) -> Iterator[tuple[str, float, float]]:
    """(name, n, k) of the multiplies around a mixer, on one of ``tp`` devices."""
    if isinstance(mixer, Attention):
        v_dim = mixer.v_head_dim or mixer.head_dim
        queries = mixer.num_heads * mixer.head_dim / tp
        kv_heads = 0.0 if mixer.kv_from_layer_below else max(1.0, mixer.num_kv_heads / tp)
        only_keys = mixer.keys_are_values or mixer.values_from_keys
        kv = kv_heads * (mixer.head_dim + (0 if only_keys else v_dim))
        gate = mixer.num_heads * v_dim / tp if mixer.output_gate else 0.0
        if mixer.q_lora_rank:
            yield "qkv", mixer.q_lora_rank + kv, hidden
            yield "qkv", queries + gate, mixer.q_lora_rank
        else:
            yield "qkv", queries + kv + gate, hidden
        if mixer.o_lora_rank:
            group_in = mixer.num_heads * v_dim / mixer.o_groups
            yield "attention-out", mixer.o_groups * mixer.o_lora_rank / tp, group_in
            yield "attention-out", hidden, mixer.o_groups * mixer.o_lora_rank / tp
        else:
            yield "attention-out", hidden, mixer.num_heads * v_dim / tp
        for weight in mixer_weights(mixer, hidden):
            if weight.name == "compressor":  # whole on every device
                yield "compressor", weight.parameters / hidden, hidden
    elif isinstance(mixer, LatentAttention):
        qk = mixer.qk_nope_head_dim + mixer.qk_rope_head_dim
        heads = mixer.num_heads / tp
        latent = mixer.kv_lora_rank + mixer.qk_rope_head_dim
        gate = heads * mixer.v_head_dim if mixer.output_gate else 0.0
        if mixer.q_lora_rank:
            yield "qkv", mixer.q_lora_rank + latent + gate, hidden
            yield "qkv", heads * qk, mixer.q_lora_rank
        else:
            yield "qkv", heads * qk + latent + gate, hidden
        yield "qkv", heads * (mixer.qk_nope_head_dim + mixer.v_head_dim), mixer.kv_lora_rank
        yield "attention-out", hidden, heads * mixer.v_head_dim
    elif isinstance(mixer, LinearAttention):
        keys = 2 * mixer.num_k_heads * mixer.head_k_dim
        values = mixer.num_v_heads * mixer.head_v_dim
        gate = values if mixer.output_gate and not mixer.gate_rank else mixer.gate_rank
        yield "qkv", (keys + values + gate + 2 * mixer.num_v_heads) / tp, hidden
        yield "attention-out", hidden, values / tp
    elif isinstance(mixer, StateSpace):
        inner = mixer.num_heads * mixer.head_dim
        groups = 2 * -(-mixer.num_groups // tp) * mixer.state_size
        yield "qkv", (2 * inner + mixer.num_heads) / tp + groups, hidden
        yield "attention-out", hidden, inner / tp
    indexer = getattr(mixer, "indexer", None)
    if indexer is not None and not indexer.shared:
        rank = getattr(mixer, "q_lora_rank", 0) or hidden
        yield "indexer", indexer.num_heads * indexer.head_dim, rank
        yield "indexer", indexer.num_key_heads * indexer.head_dim + indexer.num_heads, hidden


def _ffn_tokens(layer: Layer, count: float, setting: Setting) -> Iterator[TokenOp]:
    ffn = layer.ffn
    if isinstance(ffn, DenseFfn):
        how = _weight(setting, layer, "ffn")
        yield from _dense("ffn", count, ffn.intermediate, ffn.gated, how, setting)
        yield from _reduce("all-reduce", count, setting)
    elif isinstance(ffn, MoeFfn):
        yield from _moe(layer, ffn, count, setting)
        if setting.parallel.attention_dp == 1:
            yield from _reduce("all-reduce", count, setting)


def _dense(
    name: str, count: float, width: int, gated: bool, how: Multiply, setting: Setting
) -> Iterator[TokenOp]:
    hidden, inner = setting.model.hidden_size, width / setting.parallel.tp
    yield gemm_op(name, count, (2 if gated else 1) * inner, hidden, how, setting, "rank")
    yield gemm_op(name, count, hidden, inner, how, setting, "rank")
    yield _light("activation", count, (6.0 if gated else 4.0) * inner, setting)


def _moe(layer: Layer, ffn: MoeFfn, count: float, setting: Setting) -> Iterator[TokenOp]:
    parallel, device, hidden = setting.parallel, setting.device, setting.model.hidden_size
    plain = multiply_format(DType.BF16, device)
    yield gemm_op("router", count, ffn.num_experts, hidden, plain, setting, "rank")
    if ffn.shared_intermediate:
        how = _weight(setting, layer, "shared_experts")
        yield from _dense("shared-experts", count, ffn.shared_intermediate, ffn.gated, how, setting)
    if ffn.dense_intermediate:
        how = _weight(setting, layer, "ffn")
        yield from _dense("ffn", count, ffn.dense_intermediate, ffn.gated, how, setting)
    if ffn.latent_dim:
        how = _weight(setting, layer, "ffn")
        yield gemm_op("experts", count * 2, ffn.latent_dim, hidden, how, setting, "rank")
    shape = moe_shape(
        ffn, hidden, ep=parallel.ep, moe_tp=parallel.moe_tp, exponent=setting.routing_exponent
    )
    how = _weight(setting, layer, "experts")
    rates = setting.calibration.moe_rates(setting.engine.kernels, how.weight)

    def work(tokens: Floats) -> Work:
        return moe_work(tokens, shape, how=how, device=device, rates=rates)

    yield TokenOp("experts", count, "replica", work)
    if parallel.attention_dp > 1:
        yield from _expert_exchange(ffn, ffn.latent_dim or hidden, count, how, setting)


def _expert_exchange(
    ffn: MoeFfn, width: int, count: float, how: Multiply, setting: Setting
) -> Iterator[TokenOp]:
    """Tokens to the devices of their experts, and results back."""
    parallel = setting.parallel
    members = parallel.tp * parallel.attention_dp
    fabric = fabric_of(setting.device, members, setting.devices_per_node)
    rates = setting.calibration.collective
    gathers = setting.engine.expert_exchange == "all-gather" or parallel.ep == 1
    if gathers:
        copies = 1.0
    else:
        copies = parallel.ep * (1.0 - (1.0 - 1.0 / parallel.ep) ** ffn.top_k) / members
    for value_bytes in (min(2.0, how.activation_bytes), 2.0):
        row_bytes = copies * width * value_bytes

        def work(tokens: Floats, row_bytes: float = row_bytes) -> Work:
            return exchange_work(tokens * row_bytes, fabric, rates, gathers=gathers)

        yield TokenOp("expert-exchange", count, "replica", work, network=True)


def _ends(setting: Setting) -> Iterator[TokenOp]:
    """Embedding, LM head on sampled tokens, and the hop to the next pipeline stage."""
    model, parallel = setting.model, setting.parallel
    yield _light("embedding", 1.0, 4.0 * model.hidden_size, setting)
    head = multiply_format(model.quantization.lm_head, setting.device)
    n = model.vocab_size / parallel.tp
    yield gemm_op("lm-head", 1.0, n, model.hidden_size, head, setting, "sampled")
    if parallel.pp == 1:
        return
    device, rates = setting.device, setting.calibration.collective
    inside = parallel.num_devices <= setting.devices_per_node
    link = (device.scale_up if inside else device.scale_out) or device.host
    row_bytes = 2.0 * model.hidden_size / parallel.tp

    def work(tokens: Floats) -> Work:
        return send_work(tokens * row_bytes, link, rates)

    yield TokenOp("pipeline-send", 1.0, "rank", work, network=True)


def _attention_parts(
    mixer: Attention | LatentAttention, setting: Setting
) -> Iterator[tuple[str, AttentionShape, DecodeRates, PrefillRates]]:
    calibration, engine = setting.calibration, setting.engine.kernels
    plain = calibration.decode[engine], calibration.prefill[engine]
    own = plain
    if isinstance(mixer, LatentAttention):
        own = calibration.latent_decode[engine], calibration.latent_prefill[engine]
    for shape in attention_shapes(mixer, tp=setting.parallel.tp, kv_dtype=setting.kv_dtype):
        yield ("attention", shape, *own)
    if mixer.indexer is not None and not mixer.indexer.shared:
        yield ("indexer-scores", indexer_shape(mixer.indexer), *plain)


def _mixer_decodes(mixer: Mixer, times: float, setting: Setting) -> Iterator[DecodeOp]:
    device = setting.device
    if isinstance(mixer, Attention | LatentAttention):
        for name, shape, rates, _ in _attention_parts(mixer, setting):

            def attend(
                batch: float,
                context: Floats,
                shape: AttentionShape = shape,
                rates: DecodeRates = rates,
            ) -> Work:
                visible = visible_context(batch, context, shape)
                return decode_work(batch, visible, shape, device=device, rates=rates)

            yield DecodeOp(f"{name}-decode", times, attend)
    elif isinstance(mixer, LinearAttention | StateSpace):
        state = state_shape(mixer, tp=setting.parallel.tp)
        state_rates = setting.calibration.state[setting.engine.kernels]

        def advance(batch: float, context: Floats) -> Work:
            return state_decode_work(
                np.full_like(context, batch), state, device=device, rates=state_rates
            )

        yield DecodeOp("state-decode", times, advance)


def _mixer_prefills(mixer: Mixer, times: float, setting: Setting) -> Iterator[PrefillOp]:
    device = setting.device
    if isinstance(mixer, Attention | LatentAttention):
        for name, shape, _, rates in _attention_parts(mixer, setting):

            def attend(
                pairs: float,
                new: float,
                cached: float,
                span: float,
                shape: AttentionShape = shape,
                rates: PrefillRates = rates,
            ) -> Work:
                return prefill_work(pairs, new, cached, span, shape, device=device, rates=rates)

            line = prefill_line(shape, device=device, rates=rates)
            yield PrefillOp(f"{name}-prefill", times, shape.limit, shape.chunk, line, attend)
    elif isinstance(mixer, LinearAttention | StateSpace):
        state = state_shape(mixer, tp=setting.parallel.tp)
        state_rates = setting.calibration.state[setting.engine.kernels]

        def scan(pairs: float, new: float, cached: float, span: float) -> Work:
            return state_prefill_work(np.asarray(new), state, device=device, rates=state_rates)

        fixed_s, token_s = float(scan(0, 0, 0, 0).time_s), float(scan(0, 1e6, 0, 0).time_s)
        line = PrefillLine(fixed_s, 0.0, (token_s - fixed_s) / 1e6, 0.0, 0.0)
        yield PrefillOp("state-prefill", times, 1, False, line, scan)
