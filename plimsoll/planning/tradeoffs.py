"""What one simulated plan gives up and gains against another, in words."""

from plimsoll.planning.goodput import Goodput
from plimsoll.spec.plan import ServingPlan
from plimsoll.spec.summary import Summary
from plimsoll.spec.units import format_seconds

__all__ = ["plan_words", "trade_words"]

_NOTICEABLE = 0.03
_VISIBLE = 0.005  # what a percentage without decimals shows


def plan_words(plan: ServingPlan) -> str:
    """A plan in a line: ``2 x tp4 chunked-prefill 2048, batch 256``."""
    pools = []
    for pool in plan.pools:
        cut = pool.parallel
        degrees = [f"tp{cut.tp}"]
        degrees += [f"pp{cut.pp}"] if cut.pp > 1 else []
        degrees += [f"dp{cut.attention_dp}"] if cut.attention_dp > 1 else []
        degrees += [f"ep{cut.ep}"] if cut.ep > 1 else []
        role = "" if pool.role == "both" else f"{pool.role} "
        budget = getattr(pool.policy, "token_budget", 0) or getattr(
            pool.policy, "max_batched_tokens", 0
        )
        policy = pool.policy.kind + (f" {budget}" if budget else "")
        policy += " ahead" if getattr(pool.policy, "ahead", False) else ""
        policy += " swap" if getattr(pool.policy, "preempt", "") == "swap" else ""
        policy = "" if pool.role == "decode" else f" {policy},"
        batch = "" if pool.role == "prefill" else f" batch {pool.max_num_seqs}"
        pools.append(f"{role}{pool.replicas} x {'-'.join(degrees)}{policy}{batch}".rstrip(","))
    usual = "disaggregated" if any(pool.role != "both" for pool in plan.pools) else "least-work"
    extra = [] if plan.router.kind == usual else [f"{plan.router.kind} router"]
    extra += [f"{plan.weight_dtype.value} weights"] if plan.weight_dtype is not None else []
    extra += [f"{plan.kv_dtype.value} KV"] if plan.kv_dtype is not None else []
    extra += [f"{plan.streams} streams"] if plan.streams > 1 else []
    return " + ".join(pools) + (f" ({', '.join(extra)})" if extra else "")


def _change(value: float, reference: float, more: str, less: str, *, least: float) -> str:
    """How far ``value`` is from a positive reference; "" if by less than ``least`` of it."""
    ratio = value / reference
    if abs(ratio - 1) < least:
        return ""
    if ratio >= 2:
        return f"{ratio:.1f} times as {'much' if more == 'more' else 'long'}"
    return f"{abs(ratio - 1):.0%} {more if ratio > 1 else less}"


def _carries(found: Goodput, chosen: Goodput, *, same_size: bool) -> str:
    """The rates in all and, of plans on unlike numbers of devices, for each device."""
    if found.rate_per_s <= 0:
        return "carries nothing within the SLO"
    if chosen.rate_per_s <= 0:
        return ""
    if same_size:
        change = _change(found.rate_per_s, chosen.rate_per_s, "more", "less", least=_NOTICEABLE)
        return f"carries {change or 'as much'}"
    whole = _change(found.rate_per_s, chosen.rate_per_s, "more", "less", least=_VISIBLE)
    each = _change(
        found.rate_per_s_per_device, chosen.rate_per_s_per_device, "more", "less", least=_VISIBLE
    )
    return f"carries {whole or 'as much'} in all and {each or 'as much'} per GPU"


def trade_words(
    plan: ServingPlan,
    found: Goodput | None,
    run: Summary | None,
    chosen: ServingPlan,
    chosen_found: Goodput | None,
    chosen_run: Summary | None,
) -> str:
    """What ``plan`` trades against ``chosen``."""
    words = []
    devices = plan.num_devices - chosen.num_devices
    if devices:
        count = f"{abs(devices)} GPU{'' if abs(devices) == 1 else 's'}"
        words.append(f"{count} {'more' if devices > 0 else 'fewer'}")
    if found is not None and chosen_found is not None:
        carried = _carries(found, chosen_found, same_size=devices == 0)
        words += [carried] if carried else []
    if run is not None and chosen_run is not None:
        for name, mine, other in (
            ("time per token", run.tpot_s, chosen_run.tpot_s),
            ("first token", run.ttft_s, chosen_run.ttft_s),
        ):
            if mine is None or other is None or other.p50 <= 0:
                continue
            change = _change(mine.p50, other.p50, "longer", "shorter", least=_NOTICEABLE)
            if change:
                words.append(f"{name} {change} (p50 {format_seconds(mine.p50)})")
    return ", ".join(words) if words else "much the same"
