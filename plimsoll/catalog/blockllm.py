"""BlockLLM: many fine-tuned models served as chains of shared blocks.

Mechanism in ``compress/block_zoo.py`` (what is shared), ``serving/routers/chains.py`` (decisions),
``serving/executors/chain_books.py`` with its two executors, and ``cluster/placement.py``. The
setting is ``blockllm_setting.py``. Times are P95 from arrival to last token. Utilization is the
arithmetic that the requests need over what the devices could do in the time in which they run
something; the share of time in which something runs falls where batches are shared.
Source: arXiv 2404.18322.
"""

import functools
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from plimsoll.catalog import blockllm_setting as setting
from plimsoll.catalog.blockllm_real import REAL_CHECKS
from plimsoll.catalog.blockllm_zoo import ZOO_CHECKS
from plimsoll.catalog.contract import (
    AtLeast,
    AtMost,
    Between,
    Check,
    Claim,
    Context,
    Measured,
    System,
)
from plimsoll.serving.executors.chains_simulated import ChainRun, run_chains
from plimsoll.serving.routers.chains import ChainPolicy

__all__ = ["SYSTEM"]

RATE_PER_S = 130.0
"""Where the P95 of per-model provisioning is about three times that of an idle cluster."""
_NUM = 1200
_ABLATION_NUM = 500
_SPREAD_PER_S = 2.0
_SPREAD_NUM = 40

_WITHOUT: dict[str, ChainPolicy] = {
    "per-block batching": ChainPolicy(mix_apps=False),
    "the rule for keys and values": ChainPolicy(weigh_kv=False),
    "locality": ChainPolicy(),
}


@functools.lru_cache(maxsize=64)
def _run(kind: str, seed: int, without: str = "", num: int = _NUM) -> ChainRun:
    asked = setting.traffic(RATE_PER_S, seed, num=num)
    where = setting.setting_of(kind, seed, locality=without != "locality")
    return run_chains(where, _WITHOUT.get(without, ChainPolicy()), asked)


def _p95_s(run: ChainRun) -> float:
    return float(np.quantile(run.e2e_s, 0.95))


def _utilization(run: ChainRun, seed: int) -> float:
    useful = setting.useful_flops(setting.traffic(RATE_PER_S, seed, num=len(run.end_s)))
    return useful / (run.busy_s * setting.peak_flops_per_s())


def _ratios(context: Context, rival: str, without: str = "") -> Measured:
    """P95 of ours over the rival's."""
    values, shown = [], []
    num = _ABLATION_NUM if without else _NUM
    for seed in context.seeds:
        ours, theirs = _run("blocks", seed, without, num), _run(rival, seed, num=num)
        values.append(_p95_s(ours) / _p95_s(theirs))
        shown.append(f"{_p95_s(ours):.2f}/{_p95_s(theirs):.2f} s")
    detail = f"{num:,} requests at {RATE_PER_S:g}/s: {', '.join(shown)}"
    return Measured(value=float(np.mean(values)), values=tuple(values), detail=detail)


def _sharing(context: Context) -> Measured:
    return _ratios(context, "adapter-sharing")


def _lower(without: str = "") -> Callable[[Context], Measured]:
    """By how much P95 is lower than that of per-model provisioning."""

    def compute(context: Context) -> Measured:
        found = _ratios(context, "per-model", without)
        return replace(found, value=1 - found.value, values=tuple(1 - v for v in found.values))

    return compute


def _load(context: Context) -> Measured:
    """P95 of per-model provisioning at the load used over that of the same requests alone."""
    values, idle = [], []
    for seed in context.seeds:
        idle_s = setting.idle_s(setting.traffic(RATE_PER_S, seed, num=_NUM))
        idle.append(float(np.quantile(idle_s, 0.95)))
        values.append(_p95_s(_run("per-model", seed)) / idle[-1])
    return Measured(
        value=float(np.mean(values)),
        values=tuple(values),
        detail=f"{RATE_PER_S:g}/s against {', '.join(f'{x:.2f}' for x in idle)} s alone",
    )


def _busier(without: str = "") -> Callable[[Context], Measured]:
    """By how much utilization is above that of per-model provisioning."""

    def compute(context: Context) -> Measured:
        values, shown = [], []
        num = _ABLATION_NUM if without else _NUM
        for seed in context.seeds:
            ours, theirs = _run("blocks", seed, without, num), _run("per-model", seed, num=num)
            values.append(_utilization(ours, seed) / _utilization(theirs, seed) - 1)
            busy = [run.busy_s / run.makespan_s / len(setting.SERVERS) for run in (ours, theirs)]
            shown.append(
                f"{_utilization(ours, seed):.3f}/{_utilization(theirs, seed):.3f} of the peak, "
                f"something running {busy[0]:.2f}/{busy[1]:.2f} of the time"
            )
        return Measured(value=float(np.mean(values)), values=tuple(values), detail="; ".join(shown))

    return compute


def _cost(without: str) -> Callable[[Context], Measured]:
    """P95 without a mechanism over P95 with all, less one."""

    def compute(context: Context) -> Measured:
        values, shown = [], []
        for seed in context.seeds:
            bare, whole = (
                _run("blocks", seed, missing, num=_ABLATION_NUM) for missing in (without, "")
            )
            values.append(_p95_s(bare) / _p95_s(whole) - 1)
            moved = [run.moved_bytes[0] + run.moved_bytes[1] for run in (bare, whole)]
            shown.append(
                f"{_p95_s(bare):.2f}/{_p95_s(whole):.2f} s, "
                f"{moved[0] / 1e9:.1f}/{moved[1] / 1e9:.1f} GB between devices"
            )
        detail = f"without {without}, {_ABLATION_NUM} requests: {'; '.join(shown)}"
        return Measured(value=float(np.mean(values)), values=tuple(values), detail=detail)

    return compute


@functools.lru_cache(maxsize=32)
def _spread(seed: int, accuracy: float | None) -> ChainRun:
    asked = setting.of_one(setting.traffic(_SPREAD_PER_S, seed, num=_SPREAD_NUM))
    policy = ChainPolicy(speculate=accuracy is not None)
    return run_chains(setting.spread_setting(accuracy or 0.0), policy, asked, seed=seed)


def _guessing(accuracy: float) -> Callable[[Context], Measured]:
    """Mean time of a request with surrogates over that without."""

    def compute(context: Context) -> Measured:
        values, guesses = [], []
        for seed in context.seeds:
            with_, without = _spread(seed, accuracy), _spread(seed, None)
            values.append(float(with_.e2e_s.mean() / without.e2e_s.mean()))
            guesses.append(with_.guesses)
        detail = (
            f"four blocks on four servers, {_SPREAD_NUM} requests at {_SPREAD_PER_S:g}/s; "
            f"surrogate runs {guesses}"
        )
        return Measured(value=float(np.mean(values)), values=tuple(values), detail=detail)

    return compute


_ABLATIONS = tuple(
    Check(
        claim="chains",
        title=f"P95 that it costs to do without {without}",
        how="simulated",
        band=AtLeast(0.03),
        compute=_cost(without),
        unit="more",
        slow=True,
    )
    for without in _WITHOUT
)

SYSTEM = System(
    id="blockllm",
    title="BlockLLM: fine-tuned models as chains of shared blocks",
    arxiv="2404.18322",
    family="serving schedulers",
    summary=(
        "Cuts fine-tuned models into blocks, stores and serves equal ones once, and batches "
        "requests of different models at each block."
    ),
    claims=(
        Claim(
            id="latency",
            text="P95 latency 33.5 % lower than existing serving",
            value=0.335,
            unit="less",
            setup="12 A100-80G on 4 servers, 100 Gb/s",
            where="abstract",
        ),
        Claim(
            id="utilization",
            text="GPU utilization 20.1 % higher",
            value=0.201,
            unit="more",
            where="abstract",
        ),
        Claim(
            id="chains",
            text="blocks batch requests of all applications and are placed by their neighbors",
            where="section 4",
        ),
        Claim(id="memory", text="smaller memory and storage", where="abstract"),
        Claim(
            id="speculation",
            text="surrogates hide the time of slow links, and stop where they do not help",
            where="section 4",
        ),
    ),
    rooms=(
        "compress/block_zoo.py",
        "compress/block_equivalence.py",
        "compress/stitching.py",
        "models/block_chain.py",
        "models/lora.py",
        "serving/routers/chains.py",
        "serving/executors/chain_books.py",
        "serving/executors/chain_guesses.py",
        "serving/executors/chains_simulated.py",
        "serving/executors/torch/chains.py",
        "cluster/placement.py",
        "cost/block_clock.py",
    ),
    checks=(
        *ZOO_CHECKS,
        *REAL_CHECKS,
        Check(
            claim="chains",
            title="load used: P95 of per-model provisioning over that of requests alone",
            how="simulated",
            band=Between(2.7, 3.3),
            compute=_load,
            unit="x",
            slow=True,
        ),
        Check(
            claim="latency",
            title="P95 below that of per-model provisioning",
            how="simulated",
            band=AtLeast(0.25),
            compute=_lower(),
            ablation=_lower("per-block batching"),
            ablation_title="each application's requests in batches of their own",
            slow=True,
        ),
        Check(
            claim="chains",
            title="P95 over that of sharing only the foundation of adapters",
            how="simulated",
            band=AtMost(1.05),
            compute=_sharing,
            unit="x",
            slow=True,
        ),
        Check(
            claim="utilization",
            title="useful arithmetic per device time in use, above per-model provisioning",
            how="simulated",
            band=AtLeast(0.15),
            compute=_busier(),
            ablation=_busier("per-block batching"),
            ablation_title="each application's requests in batches of their own",
            slow=True,
        ),
        *_ABLATIONS,
        Check(
            claim="speculation",
            title="mean time with surrogates that are right 9 times in 10, over without",
            how="simulated",
            band=AtMost(0.99),
            compute=_guessing(0.9),
            unit="x",
            ablation=_guessing(0.0),
            ablation_title="surrogates that are never right",
            slow=True,
        ),
        Check(
            claim="speculation",
            title="mean time with surrogates that are right 3 times in 10, over without",
            how="simulated",
            band=Between(0.98, 1.02),
            compute=_guessing(0.3),
            unit="x",
            slow=True,
        ),
    ),
)
