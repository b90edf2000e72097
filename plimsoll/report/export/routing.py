"""The router in front of several engines, as arguments of vllm-router and sglang-router.

Both share one algorithm for ``cache_aware``: once the busiest engine has more than *abs*
requests over the idlest and more than *rel* times as many, the idlest gets the request;
otherwise the engine with the longest known prefix. That gives two of the plan's routers:
prefix-affine is abs 0, rel = the plan's ``max_load_ratio``, any match counting; least-work is
the same with rel 1 and no match ever counting. They count open requests, the plan counts
tokens; the files say so. Sources: router_args.py of vllm-router 0.1.17 and sglang-router 0.3.2.
"""

from collections.abc import Sequence

from plimsoll.report.export.shell import Launch
from plimsoll.spec.plan import LeastWorkRouter, PrefixAffineRouter, RoundRobinRouter, ServingPlan

__all__ = [
    "SGLANG_ROUTER",
    "VLLM_ROUTER",
    "policy_arguments",
    "router_notes",
    "sglang_router",
    "vllm_router",
]

VLLM_ROUTER = "vllm-router 0.1.17"
SGLANG_ROUTER = "sglang-router 0.3.2"
LEAST_LOADED = (
    *("--policy", "cache_aware", "--cache-threshold", "1.0"),
    *("--balance-abs-threshold", "0", "--balance-rel-threshold", "1.0"),
)


def policy_arguments(plan: ServingPlan) -> tuple[str, ...]:
    """The routing policy; a disaggregated plan takes the least loaded engine of each side."""
    router = plan.router
    if isinstance(router, RoundRobinRouter):
        return ("--policy", "round_robin")
    if isinstance(router, PrefixAffineRouter):
        return (
            *("--policy", "cache_aware", "--cache-threshold", "0.0"),
            *("--balance-abs-threshold", "0"),
            *("--balance-rel-threshold", repr(float(router.max_load_ratio))),
        )
    return LEAST_LOADED


def router_notes(plan: ServingPlan) -> tuple[str, ...]:
    """What the reader must know of how the router differs from the plan's."""
    if isinstance(plan.router, RoundRobinRouter):
        return ()
    if isinstance(plan.router, (LeastWorkRouter, PrefixAffineRouter)):
        return ("Load is counted in open requests here; the plan counts tokens still to process.",)
    return (
        "Each side takes its engine with the fewest open requests; how much of the decode side's "
        "memory transferred requests may hold is the engine's own rule.",
    )


def vllm_router(
    plan: ServingPlan, *, port: int, engines: Sequence[str], prefill: Sequence[str]
) -> Launch:
    """The router process; ``engines`` are URLs of colocated or decode engines."""
    words = ["vllm-router", "--host", "0.0.0.0", "--port", str(port), *policy_arguments(plan)]
    if prefill:
        words += ["--vllm-pd-disaggregation", "--kv-connector", "nixl"]
        for url in prefill:
            words += ["--prefill", url]
        for url in engines:
            words += ["--decode", url]
    else:
        words += ["--worker-urls", *engines]
    return Launch(argv=tuple(words))


def sglang_router(
    plan: ServingPlan,
    *,
    port: int,
    engines: Sequence[str],
    prefill: Sequence[tuple[str, int]],
) -> Launch:
    """The router process; ``prefill`` are URLs with the port of each bootstrap server."""
    words = ["python", "-m", "sglang_router.launch_router"]
    words += ["--host", "0.0.0.0", "--port", str(port), *policy_arguments(plan)]
    if prefill:
        words.append("--pd-disaggregation")
        for url, bootstrap in prefill:
            words += ["--prefill", url, str(bootstrap)]
        for url in engines:
            words += ["--decode", url]
    else:
        words += ["--worker-urls", *engines]
    return Launch(argv=tuple(words))
