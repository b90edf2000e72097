"""The engine's own time, from steps it has run: what is left when forward passes are taken out.

left over = step_s + sequence_s * sequences in the step, fitted; a request costs what passes from
taking it in to its first step beside that. The points come from whoever runs the engine.
Leaves out: HTTP, tokenizing. Source: times of real steps of the engine.
"""

from collections.abc import Sequence

from plimsoll.cost.measured_fit import fit_products
from plimsoll.spec.errors import UnsupportedError
from plimsoll.spec.measured import EngineTimes

__all__ = ["engine_overhead"]

_LEAST_STEPS = 8


def engine_overhead(
    steps: Sequence[tuple[int, float, float]], requests_s: Sequence[float]
) -> EngineTimes:
    """Times of the engine beside its passes.

    ``steps``: (sequences, seconds of the whole step, seconds of its pass and sampling);
    ``requests_s``: seconds spent on each request outside of steps.

    Raises:
        UnsupportedError: too few steps to tell a step's cost from a sequence's, or no request.
    """
    if len(steps) < _LEAST_STEPS or len({n for n, _, _ in steps}) < 2 or not requests_s:
        raise UnsupportedError(
            f"engine overhead: {len(steps)} steps and {len(requests_s)} requests seen; it needs "
            f"{_LEAST_STEPS} steps of two batch sizes or more, and a request"
        )
    left = [max(whole - inside, 1e-9) for _, whole, inside in steps]
    (step, sequence), _ = fit_products([(1, n) for n, _, _ in steps], left)
    (request,), _ = fit_products([(1,)] * len(requests_s), [max(s, 1e-9) for s in requests_s])
    return EngineTimes(step_s=step, sequence_s=sequence, request_s=request)
