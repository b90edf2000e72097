"""The comment at the top of every exported file: what it is, for which versions, which plan.

Fields of the plan that no engine takes as a setting (the fleet as written, the promise, notes,
a router with nothing to choose between) are stated here, so that a reader sees all of the plan.
"""

import math

from plimsoll.spec.plan import PrefixAffineRouter, ServingPlan
from plimsoll.spec.units import format_seconds, parse_quantity

__all__ = ["comment", "header", "promise_lines", "router_line"]


def promise_lines(plan: ServingPlan) -> tuple[str, ...]:
    """One line for each target of the SLO."""
    return tuple(
        f"p{t.percentile:.12g} {t.metric} <= {_seconds(t.bound_s)}"
        + (f" for class {t.request_class}" if t.request_class else "")
        for t in plan.slo.targets
    )


def _seconds(bound_s: float) -> str:
    """In a unit that suits it, and beside it in full where that would round it."""
    words = format_seconds(bound_s)
    exact = math.isclose(
        parse_quantity(words.replace(",", ""), "time", where="bound"), bound_s, rel_tol=1e-12
    )
    return words if exact else f"{words} ({bound_s!r} s)"


def router_line(plan: ServingPlan) -> str:
    """The router of the plan in words."""
    router = plan.router
    if isinstance(router, PrefixAffineRouter):
        return f"{router.kind}, at most {router.max_load_ratio!r} times the least load"
    return router.kind


def header(plan: ServingPlan, title: str, versions: tuple[str, ...]) -> tuple[str, ...]:
    """The lines of the opening comment, unmarked."""
    weights = plan.weight_dtype.value if plan.weight_dtype else "as the checkpoint"
    kv = plan.kv_dtype.value if plan.kv_dtype else "as the checkpoint"
    length = str(plan.max_model_len) if plan.max_model_len else "the model's own"
    return (
        title,
        f"Written for {', '.join(versions)}.",
        f"Plan: {plan.model} on {plan.fleet}, engine {plan.engine}.",
        f"Weights {weights}, KV {kv}, context {length}. Router: {router_line(plan)}.",
        *(
            f"Pool {i}: {p.replicas} x {p.parallel.num_devices} {p.device}, role {p.role}."
            for i, p in enumerate(plan.pools)
        ),
        *(f"Promise: {line}" for line in promise_lines(plan)),
        *(f"Note: {note}" for note in plan.notes),
    )


def comment(lines: tuple[str, ...]) -> str:
    """``lines`` as ``#`` comments; a line break inside one stays inside the comment."""
    return "".join(f"# {' '.join(line.split())}".rstrip() + "\n" for line in lines)
