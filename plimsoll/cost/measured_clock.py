"""A step clock for the machine at hand, from times measured on it and a model's shapes alone.

A step is the sum of its calls: each linear layer looked up in the measured table (tokens, widths,
and the bytes of weights that pass before the same weight comes again, which says whether caches
hold it), attention by the fitted products, the operators between the matrices, the head and
sampling once a sampled row, and the engine's own time; each part times what it takes longer in a
whole pass than timed alone. No roofline: the table holds what small
and large multiplies do here, so a step of three tokens may well take longer than one of four.
Leaves out: experts, latent and windowed attention, states; several devices; decodes of unequal
lengths beyond the total of their contexts.
Source: ``plimsoll calibrate``; coefficients in the hardware file's ``measured``.
"""

import itertools
import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

from plimsoll.cost.kv import kv_bytes
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import UnsupportedError
from plimsoll.spec.hardware import Device
from plimsoll.spec.measured import DecodeTimes, LinearTimes, Measured, MeasuredKernels
from plimsoll.spec.model import Attention, DenseFfn, ModelSpec
from plimsoll.spec.streams import one_stream_only

__all__ = ["MeasuredClock", "linear_s", "measured_clock", "shares"]

_FOREVER = 2**62
_LONGEST_CONTEXT = 2**24
_KNOT_RATIO = 1.15


def linear_s(
    table: LinearTimes, tokens: int, outputs: int, inputs: int, cycled_bytes: float
) -> float:
    """Seconds of one linear layer, interpolated in logarithms along all four axes.

    Beyond the table tokens and widths follow the power law of its last two entries, held between
    none and proportional; ``cycled_bytes`` is held at the table's ends.
    """
    axes = (table.cycled_bytes, table.outputs, table.inputs, table.tokens)
    held = [
        min(max(value, axis[0]), axis[-1])
        for axis, value in zip(axes, (cycled_bytes, outputs, inputs, tokens), strict=True)
    ]
    logarithm = _logarithm(table, axes, held)
    for place, value in ((1, outputs), (2, inputs), (3, tokens)):
        axis = axes[place]
        if value == held[place] or len(axis) == 1:
            continue
        ends = (axis[-2], axis[-1]) if value > axis[-1] else (axis[0], axis[1])
        low, high = (
            _logarithm(table, axes, [*held[:place], end, *held[place + 1 :]]) for end in ends
        )
        power = min(max((high - low) / math.log(ends[1] / ends[0]), 0.0), 1.0)
        logarithm += power * math.log(value / held[place])
    return math.exp(logarithm)


def _logarithm(
    table: LinearTimes, axes: Sequence[Sequence[float]], values: Sequence[float]
) -> float:
    """Of seconds, inside the table."""
    places = [_place(axis, value) for axis, value in zip(axes, values, strict=True)]
    logarithm = 0.0
    for corner in itertools.product((0, 1), repeat=4):
        weight = 1.0
        at = []
        for (index, fraction), side in zip(places, corner, strict=True):
            weight *= fraction if side else 1.0 - fraction
            at.append(index + side)
        if weight:
            c, o, i, t = at
            logarithm += weight * math.log(table.seconds[c][o][i][t])
    return logarithm


def _place(axis: Sequence[float], value: float) -> tuple[int, float]:
    """(index of the entry below, fraction of the way to the next) in logarithms."""
    if len(axis) == 1:
        return 0, 0.0
    i = min(max(bisect_right(axis, value) - 1, 0), len(axis) - 2)
    return i, math.log(value / axis[i]) / math.log(axis[i + 1] / axis[i])


def shares(nodes: Sequence[float], amount: float) -> list[float]:
    """How much each node counts at ``amount``: linear in the logarithm, held at the ends."""
    held = min(max(amount, nodes[0]), nodes[-1])
    found = [0.0] * len(nodes)
    index, fraction = _place(nodes, held)
    found[index] = 1.0 - fraction
    if fraction:
        found[index + 1] = fraction
    return found


def measured_clock(
    model: ModelSpec,
    device: Device,
    *,
    dtype: DType | None = None,
    forward_only: bool = False,
    num_layers: int | None = None,
) -> "MeasuredClock":
    """The clock of ``model`` run in ``dtype`` (None: as the checkpoint stores it) on ``device``.

    ``forward_only`` leaves the engine's own time out: a clock of bare forward passes and sampling.
    ``num_layers`` counts only the first so many layers (a pipeline stage); None: all.

    Raises:
        UnsupportedError: the device has no measurements, none in this format, none of the
            engine; or the model has a part that is not measured.
    """
    one_stream_only(model, "the clock of the package's own engine")
    measured = device.measured
    if measured is None:
        raise UnsupportedError(
            f"{device.name} holds no measurements of its own; run `plimsoll calibrate` on that "
            "machine and name the file it writes"
        )
    found = dtype or model.quantization.mixer
    kernels = measured.kernels.get(found)
    if kernels is None:
        listed = ", ".join(sorted(measured.kernels)) or "none"
        raise UnsupportedError(
            f"{device.name} was not measured in {found.value}, only in {listed}; run "
            f"`plimsoll calibrate --dtype {found.value}` on that machine"
        )
    if measured.engine is None and not forward_only:
        raise UnsupportedError(
            f"{device.name}: the engine's own time a step was not measured; ask for forward "
            "passes only, or calibrate again where the engine runs"
        )
    return MeasuredClock(
        model, measured, kernels, dtype=found, forward_only=forward_only, num_layers=num_layers
    )


class MeasuredClock:
    """A ``StepClock`` of one device; make one with ``measured_clock``."""

    num_stages: int = 1
    origin: ClassVar[Literal["calibrated"]] = "calibrated"

    def __init__(
        self,
        model: ModelSpec,
        measured: Measured,
        kernels: MeasuredKernels,
        *,
        dtype: DType,
        forward_only: bool = False,
        num_layers: int | None = None,
    ) -> None:
        self.model, self.dtype = model, dtype
        self._rates, self._linear = measured.rates, kernels.linear
        self._prefill, self._decode = kernels.prefill, kernels.decode
        factors = kernels.factors
        self._linear_factor = factors.linear.value if factors else 1.0
        self._attention_factor = factors.attention.value if factors else 1.0
        light_factor = factors.light.value if factors else 1.0
        layers = _layers(model, num_layers)
        matrices: Counter[tuple[int, int]] = Counter()
        light = kernels.light
        self._fixed_s = light.step_s.value
        self._token_s = light.step_value_s.value * model.hidden_size
        # (heads, query values, cached values) of a token: equal layers are counted together.
        self._attentions: Counter[tuple[int, int, int]] = Counter()
        for attention, ffn in layers:
            matrices.update(_matrices(model.hidden_size, attention, ffn))
            heads, queries, cached = _widths(attention)
            self._attentions[heads, queries, cached] += 1
            self._fixed_s += light.layer_s.value
            self._token_s += (
                light.hidden_value_s.value * model.hidden_size
                + light.ffn_value_s.value * ffn.intermediate
                + light.query_value_s.value * (queries + cached)
            )
        self._fixed_s *= light_factor
        self._token_s *= light_factor
        self._matrices = tuple(matrices.items())
        self._head = (model.vocab_size, model.hidden_size)
        weights = sum(n * outputs * inputs for (outputs, inputs), n in self._matrices)
        self._cycled_bytes = (weights + model.vocab_size * model.hidden_size) * dtype.bytes
        self._sampling_s = kernels.sampling.step_s.value * light_factor
        self._row_s = kernels.sampling.score_s.value * model.vocab_size * light_factor
        engine = None if forward_only else measured.engine
        self._engine_s = engine.step_s.value if engine else 0.0
        self._sequence_s = engine.sequence_s.value if engine else 0.0
        self._engine_token_s = engine.token_s.value if engine else 0.0
        decode = self._decode
        count = self._attentions.total() * self._attention_factor
        self._decode_s = count * decode.layer_s.value
        self._decode_sequence_s = count * decode.sequence_s.value
        self._lines = _context_lines(decode, self._attentions, self._attention_factor)
        self._limits = [limit for limit, _, _ in self._lines]
        self._tokens_memo: dict[int, float] = {}
        self._rows_memo: dict[int, float] = {}

    def step_s(
        self, chunks: Sequence[tuple[int, int]], num_decodes: int, decode_context: int
    ) -> float:
        """See ``StepClock``; a step of nothing takes the engine's own time."""
        if not chunks:
            base, slope, _ = self.decode_line(num_decodes, decode_context)
            return base + slope * decode_context
        tokens, attention_s = num_decodes, 0.0
        for new, cached in chunks:
            tokens += new
            attention_s += self.chunk_attention_s(new, cached)
        if num_decodes:
            attention_s += self._decodes_s(num_decodes, decode_context)
        return self._rest_s(tokens, num_decodes + len(chunks)) + attention_s

    def decode_line(self, num_decodes: int, decode_context: int) -> tuple[float, float, int]:
        """See ``StepClock``: straight between knots of total context, at a given batch."""
        if num_decodes <= 0:
            return self._engine_s, 0.0, _FOREVER
        limit, base, slope = self._lines[bisect_left(self._limits, decode_context)]
        base += self._rest_s(num_decodes, num_decodes) + self._decode_s
        return base + self._decode_sequence_s * num_decodes, slope, limit

    def swap_s(self, num_tokens: int) -> float:
        """See ``StepClock``; the slower direction, keys and values in the clock's format."""
        rates = self._rates
        rate = min(rates.swap_out_bytes_per_s.value, rates.swap_in_bytes_per_s.value)
        return rates.swap_s.value + kv_bytes(self.model, num_tokens, self.dtype, 1) / rate

    def host_s(self, num_decodes: int) -> float:
        """See ``StepClock``: the engine's own time, measured with steps formed one by one."""
        return self._engine_s + (self._sequence_s + self._engine_token_s) * num_decodes

    def step_parts(
        self, chunks: Sequence[tuple[int, int]], num_decodes: int, decode_context: int
    ) -> dict[str, float]:
        """Seconds of a step by what they are spent on; they sum to ``step_s``."""
        sequences = num_decodes + len(chunks)
        tokens = num_decodes + sum(new for new, _ in chunks)
        if not tokens:
            return {"engine": self._engine_s}
        decode_s = self._decodes_s(num_decodes, decode_context) if num_decodes else 0.0
        sampling_s = self._sampling_s + self._row_s * sequences
        return {
            "linear": self._linears_s(tokens),
            "light": self._fixed_s + self._token_s * tokens,
            "attention": decode_s
            + sum(self.chunk_attention_s(new, cached) for new, cached in chunks),
            "head": self._head_s(sequences) - sampling_s,
            "sampling": sampling_s,
            "engine": self._engine_s + self._sequence_s * sequences + self._engine_token_s * tokens,
        }

    def chunk_attention_s(self, new: int, cached: int) -> float:
        """Seconds of attention of one prompt chunk in all layers."""
        fit, total, span = self._prefill, 0.0, new + cached
        pairs = fit.prefix_pair_s if cached else fit.whole_pair_s
        pair_s = sum(
            share * pair.value for share, pair in zip(shares(fit.nodes, new), pairs, strict=True)
        )
        kv_s = fit.kv_value_s.value if cached else 0.0
        for (heads, queries, kept), count in self._attentions.items():
            total += count * (
                fit.chunk_s.value
                + kv_s * kept * span
                + fit.token_value_s.value * queries * new
                + (fit.score_s.value * heads + pair_s * queries) * new * span
            )
        return total * self._attention_factor

    def _decodes_s(self, num_decodes: int, context: int) -> float:
        _, base, slope = self._lines[bisect_left(self._limits, context)]
        fixed_s = self._decode_s + self._decode_sequence_s * num_decodes
        return fixed_s + base + slope * context

    def _rest_s(self, tokens: int, sequences: int) -> float:
        """Everything but attention."""
        return (
            self._linears_s(tokens)
            + self._fixed_s
            + self._token_s * tokens
            + self._head_s(sequences)
            + self._engine_s
            + self._sequence_s * sequences
            + self._engine_token_s * tokens
        )

    def _linears_s(self, tokens: int) -> float:
        found = self._tokens_memo.get(tokens)
        if found is None:
            found = self._linear_factor * sum(
                count * linear_s(self._linear, tokens, outputs, inputs, self._cycled_bytes)
                for (outputs, inputs), count in self._matrices
            )
            self._tokens_memo[tokens] = found
        return found

    def _head_s(self, rows: int) -> float:
        found = self._rows_memo.get(rows)
        if found is None:
            found = linear_s(self._linear, rows, *self._head, self._cycled_bytes)
            found *= self._linear_factor
            found += self._sampling_s + self._row_s * rows
            self._rows_memo[rows] = found
        return found


def _context_lines(
    fit: DecodeTimes, attentions: Counter[tuple[int, int, int]], factor: float
) -> list[tuple[int, float, float]]:
    """(context up to which it holds, base seconds, seconds a token) of reading the caches."""

    def reading_s(context: int) -> float:
        total = 0.0
        for (heads, _, kept), count in attentions.items():
            read = kept * context
            parts = zip(shares(fit.nodes, read), fit.value_s, strict=True)
            rate_s = sum(share * value.value for share, value in parts)
            total += count * (fit.score_s.value * heads * context + rate_s * read)
        return total * factor

    steps = int(math.log(_LONGEST_CONTEXT) / math.log(_KNOT_RATIO))
    knots = sorted({round(_KNOT_RATIO**i) for i in range(steps)} | {_LONGEST_CONTEXT})
    lines, low, low_s = [], 0, 0.0
    for knot in knots:
        high_s = max(reading_s(knot), low_s)
        slope = (high_s - low_s) / (knot - low)
        lines.append((knot, low_s - slope * low, slope))
        low, low_s = knot, high_s
    _, base, slope = lines.pop()
    return [*lines, (_FOREVER, base, slope)]


def _layers(model: ModelSpec, num_layers: int | None) -> list[tuple[Attention, DenseFfn]]:
    found: list[tuple[Attention, DenseFfn]] = []
    for group in model.layers:
        mixer, ffn = group.layer.mixer, group.layer.ffn
        if not isinstance(mixer, Attention) or mixer.window or mixer.chunk or mixer.indexer:
            raise UnsupportedError(
                f"{model.name}: only full attention is measured, not {_kind(mixer)}; use "
                "the modeled clock of a bundled device"
            )
        if not isinstance(ffn, DenseFfn):
            raise UnsupportedError(
                f"{model.name}: only dense feed-forward parts are measured, not {ffn.kind}; use "
                "the modeled clock of a bundled device"
            )
        found += [(mixer, ffn)] * group.count
    return found[:num_layers]


def _kind(mixer: object) -> str:
    return "windowed attention" if isinstance(mixer, Attention) else str(getattr(mixer, "kind", ""))


def _widths(attention: Attention) -> tuple[int, int, int]:
    """(heads, query values, cached values) of a token in one layer."""
    value_dim = attention.v_head_dim or attention.head_dim
    return (
        attention.num_heads,
        attention.num_heads * attention.head_dim,
        attention.num_kv_heads * (attention.head_dim + value_dim),
    )


def _matrices(hidden: int, attention: Attention, ffn: DenseFfn) -> Iterator[tuple[int, int]]:
    """(outputs, inputs) of each linear layer, as the models' files call them: one matrix a call."""
    value_dim = attention.v_head_dim or attention.head_dim
    yield attention.num_heads * attention.head_dim, hidden
    yield attention.num_kv_heads * attention.head_dim, hidden
    yield attention.num_kv_heads * value_dim, hidden
    yield hidden, attention.num_heads * value_dim
    for _ in range(2 if ffn.gated else 1):
        yield ffn.intermediate, hidden
    yield hidden, ffn.intermediate
