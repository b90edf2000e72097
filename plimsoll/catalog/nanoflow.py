"""NanoFlow: overlapping compute, memory and network inside one device.

Mechanism in ``cost/overlap.py`` and ``planning/overlap_search.py``; the setting is
``nanoflow_setting.py``, the arithmetic ``nanoflow_arithmetic.py``, whole runs
``nanoflow_serving.py``. Operators take the times that
the paper measured for each alone; how they overlap, and what that gains, is computed.
Leaves out: embedding, head, sampling and the host, which an iteration also pays for.
Source: arXiv 2408.12757.
"""

import functools
import time
from collections.abc import Callable
from dataclasses import replace

from plimsoll.catalog.contract import (
    AtLeast,
    AtMost,
    Between,
    Check,
    Claim,
    Context,
    Measured,
    Report,
    System,
    Within,
)
from plimsoll.catalog.nanoflow_arithmetic import ARITHMETIC_CHECKS, ARITHMETIC_CLAIMS
from plimsoll.catalog.nanoflow_real import REAL_CHECKS
from plimsoll.catalog.nanoflow_serving import SERVING_CHECKS
from plimsoll.catalog.nanoflow_setting import (
    BATCH_TOKENS,
    CURVES,
    DEVICES,
    FREE_CURVES,
    Network,
    dependencies,
    model,
    operators,
)
from plimsoll.cost.dense_batch import optimal_tokens_per_s
from plimsoll.cost.overlap_plan import hand_made_plan, in_turn_s, iteration_s, sequential_s
from plimsoll.cost.overlap_profile import Lane
from plimsoll.planning.overlap_search import Table, search_overlap, search_rewrites
from plimsoll.spec.overlap import OverlapPlan

__all__ = ["SYSTEM", "hand_made", "searched"]

_NETWORKS: tuple[Network, ...] = ("gathers", "reduces")
_HAND_MADE_SHARES: dict[Lane, float] = {"compute": 1.0, "memory": 0.4, "network": 0.2}
"""The example pipeline's share of decode attention, and what gives collectives half speed."""


def _search() -> tuple[Network, OverlapPlan]:
    tables = [Table(operators(network), dependencies(network)) for network in _NETWORKS]
    best, plan = search_rewrites(
        tables, CURVES, batch_tokens=BATCH_TOKENS, layers=model().num_layers
    )
    return _NETWORKS[best], plan


@functools.cache
def searched() -> tuple[Network, OverlapPlan]:
    """The searched plan and the collectives it is written with, found once a process."""
    return _search()


@functools.cache
def hand_made(network: Network) -> OverlapPlan:
    """Every operator cut in two halves, run in the order of the layer."""
    table = operators(network)
    return hand_made_plan(
        table,
        dependencies(network),
        CURVES,
        cuts={op.name: (BATCH_TOKENS // 2,) for op in table},
        shares={op.name: _HAND_MADE_SHARES[op.lane] for op in table},
        batch_tokens=BATCH_TOKENS,
        layers=model().num_layers,
    )


def _rate(iteration_s: float) -> float:
    """Tokens/s of one device."""
    return BATCH_TOKENS / iteration_s / DEVICES


def _in_turn_s(network: Network, plan: OverlapPlan, *, priced: bool = True) -> float:
    return in_turn_s(plan.pieces, operators(network, priced=priced), layers=plan.layers)


def _words(network: Network, plan: OverlapPlan) -> str:
    cuts = sorted({piece.first_token for piece in plan.pieces} - {0})
    warned = "; ".join(("", *plan.warnings))
    return (
        f"{len(plan.pieces)} pieces a layer, cut at {', '.join(map(str, cuts))}, written with "
        f"{network}; {plan.iteration_s * 1e3:.1f} ms against {plan.sequential_s * 1e3:.1f}{warned}"
    )


def _sequential_rate(_: Context) -> Measured:
    whole_s = sequential_s(operators(), layers=model().num_layers)
    return Measured(
        value=_rate(whole_s), detail=f"the measured rows add up to {whole_s * 1e3:.2f} ms"
    )


def _sequential_without_network(_: Context) -> Measured:
    local = tuple(op for op in operators() if op.lane != "network")
    return Measured(value=_rate(sequential_s(local, layers=model().num_layers)))


def _searched_rate(_: Context) -> Measured:
    network, plan = searched()
    return Measured(value=_rate(plan.iteration_s), detail=_words(network, plan))


def _in_turn_rate(_: Context) -> Measured:
    return Measured(value=_rate(_in_turn_s(*searched())), detail="same pieces, none overlap")


def _gain(_: Context) -> Measured:
    network, plan = searched()
    return Measured(value=plan.speedup, detail=_words(network, plan))


def _gain_if_free(_: Context) -> Measured:
    """The same plan on a device where kernels do not slow each other."""
    network, plan = searched()
    free_s = iteration_s(
        plan.pieces, operators(network), dependencies(network), FREE_CURVES, layers=plan.layers
    )
    return Measured(value=plan.sequential_s / free_s, detail="the same plan")


def _gain_if_all_free(_: Context) -> Measured:
    """A plan searched for such a device, with pieces that cost nothing to cut."""
    network, _plan = searched()
    plan = search_overlap(
        operators(network, priced=False),
        dependencies(network),
        FREE_CURVES,
        batch_tokens=BATCH_TOKENS,
        layers=model().num_layers,
    )
    return Measured(value=plan.speedup, detail=_words(network, plan))


def _cutting(*, priced: bool) -> Callable[[Context], Measured]:
    def compute(_: Context) -> Measured:
        network, plan = searched()
        in_turn = _in_turn_s(network, plan, priced=priced)
        weights = sum(
            op.fixed_s * (sum(piece.operator == op.name for piece in plan.pieces) - 1)
            for op in operators(network, priced=priced)
            if op.lane == "compute"
        )
        share = weights * plan.layers / plan.sequential_s
        return Measured(
            value=in_turn / plan.sequential_s - 1,
            detail=f"{_rate(in_turn):.0f} tokens/s/GPU; reading weights again is {share:.1%}, "
            "latency of collectives the rest",
        )

    return compute


def _against_hand_made(_: Context) -> Measured:
    _, plan = searched()
    made = {network: hand_made(network).iteration_s for network in _NETWORKS}
    shown = ", ".join(f"{_rate(made[network]):.0f} with {network}" for network in _NETWORKS)
    return Measured(
        value=min(made.values()) / plan.iteration_s, detail=f"by hand {shown} tokens/s/GPU"
    )


def _full_shares_against_hand_made(_: Context) -> Measured:
    network, plan = searched()
    greedy = tuple(replace(piece, share=1.0) for piece in plan.pieces)
    greedy_s = iteration_s(
        greedy, operators(network), dependencies(network), CURVES, layers=plan.layers
    )
    made_s = min(hand_made(network).iteration_s for network in _NETWORKS)
    return Measured(value=made_s / greedy_s)


def _of_optimum(_: Context) -> Measured:
    _, plan = searched()
    best = optimal_tokens_per_s(flops_per_s=260e12, parameters=70e9)
    return Measured(value=_rate(plan.iteration_s) / best, detail="operators only, no host time")


def _search_time(_: Context) -> Measured:
    started_s = time.perf_counter()
    network, plan = _search()
    return Measured(value=time.perf_counter() - started_s, detail=_words(network, plan))


_SETUP = "LLaMA-2-70B, 8 x A100-80G, TP 8, 512/512"

_CLAIMS = (
    *ARITHMETIC_CLAIMS,
    Claim(
        id="sequential",
        text="Throughput without nano-batches",
        value=1106,
        unit="tokens/s/GPU",
        setup=_SETUP,
        where="figure 9",
    ),
    Claim(
        id="overlapped",
        text="Throughput with nano-batches that overlap",
        value=1323,
        unit="tokens/s/GPU",
        setup=_SETUP,
        where="figure 9",
    ),
    Claim(
        id="gain",
        text="Overlapped over sequential, 1323/1106 tokens/s/GPU; the text has 1.07x and 1.17x",
        value=1.196,
        unit="x",
        setup=_SETUP,
        where="figure 9",
    ),
    Claim(
        id="cutting",
        text="Nano-batches when nothing overlaps are slower, 1106 to 982 tokens/s/GPU; the text "
        "has 13.2 %",
        value=0.126,
        unit="of time",
        setup=_SETUP,
        where="figure 9",
    ),
    Claim(
        id="asynchronous",
        text="Batches are formed before tokens are known; a request that ends wastes one token",
        where="section 4.2",
    ),
    Claim(
        id="traces",
        text="Throughput on traces of lengths: 1259 (Splitwise), 1247 (LMSYS), 1272 (ShareGPT)",
        unit="tokens/s/GPU",
        setup="LLaMA-2-70B, 8 x A100-80G, TP 8",
        where="figure 7",
    ),
    Claim(id="search", text="The search takes about 10 minutes and beats plans made by hand"),
    Claim(
        id="of-optimum",
        text="Best share of the optimum; the 512/512 column, 1286 of 1857, is above it",
        value=0.685,
        unit="of optimum",
        where="abstract and figure 7",
    ),
    Claim(
        id="best-rival",
        text="Throughput over the best other system, mean over traces",
        value=1.91,
        unit="x",
        where="abstract and figure 7",
    ),
)

_CHECKS = (
    *ARITHMETIC_CHECKS,
    Check(
        claim="sequential",
        title="operators one by one, at the times measured alone",
        how="simulated",
        band=Within(0.05),
        compute=_sequential_rate,
        ablation=_sequential_without_network,
        ablation_title="collectives left out",
    ),
    Check(
        claim="overlapped",
        title="searched plan",
        how="simulated",
        band=Between(1250, 1450),
        compute=_searched_rate,
        ablation=_in_turn_rate,
        ablation_title="its pieces one by one",
        slow=True,
    ),
    Check(
        claim="gain",
        title="searched plan over operators one by one",
        how="simulated",
        band=Between(1.10, 1.30),
        compute=_gain,
        ablation=_gain_if_free,
        ablation_title="kernels that do not slow each other",
        slow=True,
    ),
    Check(
        claim="gain",
        title="overlap and cutting both taken as free",
        how="simulated",
        band=Report("the mistake that this model must not make: 1.5x and more appear"),
        compute=_gain_if_all_free,
        slow=True,
    ),
    Check(
        claim="cutting",
        title="the searched plan's pieces one by one, over whole operators",
        how="simulated",
        band=Between(0.05, 0.15),
        compute=_cutting(priced=True),
        ablation=_cutting(priced=False),
        ablation_title="weights read once, latency paid once",
        slow=True,
    ),
    Check(
        claim="search",
        title="best plan by hand, two halves, over the searched plan's time",
        how="simulated",
        band=AtLeast(1.001),
        compute=_against_hand_made,
        unit="x",
        ablation=_full_shares_against_hand_made,
        ablation_title="no shares chosen: every kernel asks for the whole device",
        slow=True,
    ),
    Check(
        claim="search",
        title="time of the search on one core",
        how="run",
        band=AtMost(120),
        compute=_search_time,
        unit="s",
        slow=True,
        timed=True,
    ),
    Check(
        claim="of-optimum",
        title="searched plan over the best possible rate",
        how="simulated",
        band=Report("an iteration of operators alone, compared with whole serving runs"),
        compute=_of_optimum,
        slow=True,
    ),
)

SYSTEM = System(
    id="nanoflow",
    title="NanoFlow: overlap inside one device",
    arxiv="2408.12757",
    family="serving schedulers",
    summary=(
        "Cutting the batch of an iteration so that pieces bound by compute, memory and network "
        "run at once gains about 15 % after what cutting and interference cost"
    ),
    claims=_CLAIMS,
    rooms=(
        "cost/overlap.py",
        "cost/overlap_profile.py",
        "cost/dense_batch.py",
        "cost/overlap_layer.py",
        "cost/overlap_clock.py",
        "serving/policies/nano.py",
        "serving/executors/torch/overlapped_layers.py",
        "planning/overlap_search.py",
        "planning/overlap_order.py",
        "planning/overlap_shares.py",
        "cost/overlap_plan.py",
    ),
    checks=(*_CHECKS, *SERVING_CHECKS, *REAL_CHECKS),
    not_reproduced={"best-rival": "needs the rival's kernels"},
)
