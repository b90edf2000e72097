"""A step clock of a device that runs its layers as an overlap plan says.

A step takes what another clock says, less what overlapping saves at the step's own token counts:
the operators of its layers one by one against the plan's pieces, whose cuts are kept as fractions
of the batch. A step that overlapping would slow down, or too small to be cut, runs one by one. The
saving is tabulated between knots, at most a tenth apart in tokens and in times of attention.
Leaves out: pieces that hold only decodes or only prompt tokens; both are spread evenly.
Source: arXiv 2408.12757.
"""

import itertools
import math
from collections.abc import Sequence

from plimsoll.cost.clock import StepClock
from plimsoll.cost.overlap import simulate_overlap
from plimsoll.cost.overlap_layer import OverlapLayer
from plimsoll.cost.overlap_plan import SAMPLE_LAYERS, check_pieces, extrapolated_s, unroll
from plimsoll.cost.overlap_profile import Curves, check_operators
from plimsoll.spec.errors import SpecError
from plimsoll.spec.overlap import OverlapPlan

__all__ = ["OverlapClock"]

Chunks = Sequence[tuple[int, int]]
_TOKEN_RATIO = 1.1
_TIME_RATIO = 1.1
_LEAST_TIME_S = 1e-7
_KNOT_RATIO = 1.1
_LEAST_TOKENS = 256
"""Two tiles of a multiply; a smaller step is not cut."""


class OverlapClock:
    """A ``StepClock``: ``base`` with ``plan`` carried out by ``layer``'s operators.

    Raises:
        SpecError: the plan names an operator the layer has not, or leaves tokens out.
    """

    def __init__(
        self, base: StepClock, layer: OverlapLayer, plan: OverlapPlan, curves: Curves
    ) -> None:
        operators = layer.operators(float(plan.batch_tokens), 1e-3, 1e-3)
        check_operators(operators, layer.dependencies, curves)
        check_pieces(plan.pieces, operators)
        missing = {op.name for op in operators} - {piece.operator for piece in plan.pieces}
        if missing:
            raise SpecError(f"overlap plan: no piece of operator {', '.join(sorted(missing))}")
        self._base, self._layer, self._plan, self._curves = base, layer, plan, curves
        self._corners: dict[tuple[int, int, int], float] = {}
        self._lines: dict[tuple[int, int], tuple[float, float]] = {}
        self.num_stages = base.num_stages

    def step_s(self, chunks: Chunks, num_decodes: int, decode_context: int) -> float:
        """See ``StepClock``."""
        if not chunks:
            base_s, slope, _ = self.decode_line(num_decodes, decode_context)
            return base_s + slope * decode_context
        whole_s = self._base.step_s(chunks, num_decodes, decode_context)
        return whole_s - self.saved_s(chunks, num_decodes, decode_context)

    def decode_line(self, num_decodes: int, decode_context: int) -> tuple[float, float, int]:
        """See ``StepClock``: straight between knots of the context."""
        base_s, slope, limit = self._base.decode_line(num_decodes, decode_context)
        if num_decodes < _LEAST_TOKENS:
            return base_s, slope, limit
        knot = max(1, math.ceil(math.log(max(decode_context, 2)) / math.log(_KNOT_RATIO) - 1e-12))
        low, high = round(_KNOT_RATIO ** (knot - 1)), round(_KNOT_RATIO**knot)
        if high < decode_context:
            knot, low, high = knot + 1, high, round(_KNOT_RATIO ** (knot + 1))
        line = self._lines.get((num_decodes, knot))
        if line is None:
            ends = [self.saved_s((), num_decodes, context) for context in (low, high)]
            per_token_s = (ends[1] - ends[0]) / max(high - low, 1)
            line = self._lines[num_decodes, knot] = ends[0] - per_token_s * low, per_token_s
        return base_s - line[0], slope - line[1], min(limit, high)

    def swap_s(self, num_tokens: int) -> float:
        """See ``StepClock``."""
        return self._base.swap_s(num_tokens)

    def host_s(self, num_decodes: int) -> float:
        """See ``StepClock``."""
        return self._base.host_s(num_decodes)

    def saved_s(self, chunks: Chunks, num_decodes: int, decode_context: int) -> float:
        """Seconds by which overlapping shortens a step; arguments as of ``step_s``."""
        tokens = num_decodes + sum(new for new, _ in chunks)
        if tokens < _LEAST_TOKENS:
            return 0.0
        decode_s, prompt_s = self._layer.attention_s(chunks, num_decodes, decode_context)
        places = (
            _place(tokens, float(self._plan.batch_tokens), _TOKEN_RATIO),
            _time_place(decode_s),
            _time_place(prompt_s),
        )
        total = 0.0
        for sides in itertools.product((0, 1), repeat=3):
            weight = 1.0
            for (_, fraction), side in zip(places, sides, strict=True):
                weight *= fraction if side else 1.0 - fraction
            if weight:
                t, d, p = (knot + side for (knot, _), side in zip(places, sides, strict=True))
                total += weight * self._corner(t, d, p)
        return total

    def _corner(self, tokens: int, decode: int, prompt: int) -> float:
        found = self._corners.get((tokens, decode, prompt))
        if found is None:
            batch = self._plan.batch_tokens * _TOKEN_RATIO**tokens
            decode_s = 0.0 if decode < 0 else _LEAST_TIME_S * _TIME_RATIO**decode
            prompt_s = 0.0 if prompt < 0 else _LEAST_TIME_S * _TIME_RATIO**prompt
            found = self._corners[tokens, decode, prompt] = self._gain_s(batch, decode_s, prompt_s)
        return found

    def _gain_s(self, tokens: float, decode_s: float, prompt_s: float) -> float:
        layer = self._layer
        operators = layer.operators(tokens, decode_s, prompt_s)
        sample = min(layer.layers, SAMPLE_LAYERS)
        unrolled = unroll(self._plan.pieces, operators, layer.dependencies, layers=sample)
        run = simulate_overlap(unrolled.operations, self._curves)
        overlapped_s = extrapolated_s(unrolled, run, layers=layer.layers)
        return max(0.0, layer.layers * sum(op.best_s for op in operators) - overlapped_s)


def _place(value: float, unit: float, ratio: float) -> tuple[int, float]:
    """(knot below, fraction of the way to the next); knots are ``unit * ratio**k``."""
    knot = math.floor(math.log(value / unit) / math.log(ratio) + 1e-9)
    low, high = unit * ratio**knot, unit * ratio ** (knot + 1)
    return knot, min(max((value - low) / (high - low), 0.0), 1.0)


def _time_place(time_s: float) -> tuple[int, float]:
    """The same for times; below the unit is one knot more, -1, at 0 s."""
    if time_s < _LEAST_TIME_S:
        return -1, time_s / _LEAST_TIME_S
    return _place(time_s, _LEAST_TIME_S, _TIME_RATIO)
