"""Linear layers timed over a table of widths and tokens, with weights in and out of the caches.

Weights are taken in turn, so that a set number of bytes passes between two uses of one: a third
of the last cache (it holds them), or four times it (it does not). Each entry is the least of a few
rounds, since other programs only add time.
Leaves out: biases. Source: linear layers as the engine runs them, packed on a CPU.
"""

import itertools
import math
import random
import statistics

import torch
from torch import Tensor, nn

from plimsoll.cost.measured_clock import linear_s
from plimsoll.models.packed import pack_linears
from plimsoll.serving.executors.torch.measure.sizes import Sizes
from plimsoll.serving.executors.torch.measure.stopwatch import Stopwatch, Timing
from plimsoll.spec.measured import LinearTimes

__all__ = ["linear_times"]

_READ_TOKENS = 64
"""Up to as many tokens, reading the weights may take longer than multiplying."""
_HEAVY_ROUNDS = 2
_MOST_PRODUCTS = 2**34


class _Weights:
    """Layers with random weights, up to so many bytes of them; the last sets are kept."""

    def __init__(self, dtype: torch.dtype, watch: Stopwatch) -> None:
        self.watch, self.dtype = watch, dtype
        self._kept: dict[tuple[int, int, int], nn.ModuleList] = {}

    def _layers(self, outputs: int, inputs: int, copies: int) -> nn.ModuleList:
        key = (outputs, inputs, copies)
        if key not in self._kept:
            if self._kept and next(iter(self._kept))[:2] != key[:2]:
                self._kept.clear()
            size = outputs * inputs
            flat = torch.empty(size * copies, dtype=self.dtype, device=self.watch.device)
            weights = list(flat.uniform_(-0.03, 0.03).view(copies, outputs, inputs).unbind())
            random.Random(copies).shuffle(weights)  # in order, prefetching would run ahead
            layers = nn.ModuleList(_linear(weight) for weight in weights)
            pack_linears(layers)
            self._kept[key] = layers
        return self._kept[key]

    def time(
        self, outputs: int, inputs: int, tokens: int, cycled_bytes: float, budget_s: float
    ) -> Timing:
        """One linear layer while ``cycled_bytes`` of weights pass between two uses of one."""
        copies = math.ceil(cycled_bytes / (outputs * inputs * self.dtype.itemsize))
        layers = list(self._layers(outputs, inputs, max(1, copies)))
        x = torch.empty(tokens, inputs, dtype=self.dtype, device=self.watch.device).normal_()
        turn = 0

        def call() -> None:
            nonlocal turn
            layers[turn](x)
            turn = turn + 1 if turn + 1 < len(layers) else 0

        return self.watch.time(call, budget_s)


def _linear(weight: Tensor) -> nn.Linear:
    with torch.device("meta"):
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return layer


@torch.inference_mode()
def linear_times(
    sizes: Sizes, dtype: torch.dtype, watch: Stopwatch, cache_bytes: float
) -> LinearTimes:
    """The table of ``sizes``, and its error at the shapes it leaves out."""
    steps = tuple(cache_bytes * multiple for multiple in sizes.cache_multiples)
    much = steps[-1]
    weights = _Weights(dtype, watch)
    cells: dict[tuple[float, int, int, int], float] = {}
    spreads: list[float] = []
    carried: list[tuple[int, int, int]] = []
    for round_index in range(sizes.rounds):
        for outputs, inputs, tokens in itertools.product(sizes.outputs, sizes.inputs, sizes.tokens):
            heavy = tokens > _READ_TOKENS
            if heavy and round_index >= _HEAVY_ROUNDS:
                continue
            if tokens * outputs * inputs > _MOST_PRODUCTS:
                carried.append((outputs, inputs, tokens))
                continue
            # One large matrix fills a small share of the cache; arithmetic hides where weights are.
            taken = [c for c in steps if not heavy and outputs * inputs * dtype.itemsize < c]
            for cycled in {*taken, much}:
                timing = weights.time(outputs, inputs, tokens, cycled, sizes.cell_s)
                key = (cycled, outputs, inputs, tokens)
                cells[key] = min(cells.get(key, timing.call_s), timing.call_s)
                spreads.append(timing.spread_s / timing.call_s)
            for cycled in {*steps} - {*taken, much}:
                cells[cycled, outputs, inputs, tokens] = cells[much, outputs, inputs, tokens]
    for outputs, inputs, tokens in carried:
        before = sizes.tokens[sizes.tokens.index(tokens) - 1]
        for cycled in steps:
            took_s = cells[cycled, outputs, inputs, before] * tokens / before
            cells[cycled, outputs, inputs, tokens] = took_s
    table = LinearTimes(
        cycled_bytes=steps,
        outputs=sizes.outputs,
        inputs=sizes.inputs,
        tokens=sizes.tokens,
        seconds=tuple(
            tuple(
                tuple(tuple(cells[c, o, i, t] for t in sizes.tokens) for i in sizes.inputs)
                for o in sizes.outputs
            )
            for c in steps
        ),
        spread_fraction=statistics.median(spreads),
        error_fraction=0.0,
    )
    errors = []
    for outputs, inputs, tokens in sizes.checks:
        for cycled in (steps[0], much):
            took_s = min(
                weights.time(outputs, inputs, tokens, cycled, sizes.cell_s).call_s
                for _ in range(sizes.rounds)
            )
            errors.append(abs(linear_s(table, tokens, outputs, inputs, cycled) / took_s - 1))
    return LinearTimes(
        cycled_bytes=table.cycled_bytes,
        outputs=table.outputs,
        inputs=table.inputs,
        tokens=table.tokens,
        seconds=table.seconds,
        spread_fraction=table.spread_fraction,
        error_fraction=statistics.median(errors),
    )
