"""BurstGPT: a year of real traffic, and what its burstiness does to a service.

Loaders are in ``spec/traces/``, the model in ``spec/burst/``, generators in ``spec/generators/``;
the experiment on simulated instances is ``catalog/burst_effect.py``.
Source: arXiv 2401.17644; release 1.2 of github HPMLL/BurstGPT.
"""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from plimsoll.catalog.burst_effect import (
    ROUTER_NAMES,
    BurstEffect,
    burst_effect,
    effect_of,
)
from plimsoll.catalog.burstgpt_real import REAL_CHECKS
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
from plimsoll.spec.burst import BurstModel, BurstWindow, RequestKind, fit, scale
from plimsoll.spec.burst.families import fit_gamma_shape, ks_to_exponential, ks_to_gamma
from plimsoll.spec.generators import (
    Lengths,
    LognormalLength,
    MixtureLength,
    PoissonArrivals,
    ZipfLength,
    stream,
)
from plimsoll.spec.statistics import statistics_of
from plimsoll.spec.traces import load_azure, load_burstgpt
from plimsoll.spec.transforms import subsample, with_rate
from plimsoll.spec.workload import Workload
from plimsoll.spec.workload_files import load_workload

__all__ = ["SYSTEM"]

_AZURE = "traces/azure_llm_2023_{}.csv"
_BURSTGPT = "BurstGPT_1.csv"


# Known parameters, to be found again


def _known(alpha: float) -> BurstModel:
    """Four windows whose rate and shape drift, Zipf prompts, two modes of answers."""
    output = MixtureLength(
        weights=(0.4, 0.6),
        parts=(LognormalLength(median=20, sigma=0.4), LognormalLength(median=300, sigma=0.5)),
    )
    lengths = Lengths(
        prompt=ZipfLength(exponent=1.1, high=1_023), output=output, rank_correlation=0.3
    )
    rates, bends = (2.0, 4.0, 1.0, 3.0), (1.0, 1.2, 0.8, 1.0)
    windows = tuple(
        BurstWindow(rate_per_s=r, alpha=alpha * b) for r, b in zip(rates, bends, strict=True)
    )
    return BurstModel(
        name="known", window_s=2_000.0, windows=windows, kinds=(RequestKind(lengths=lengths),)
    )


def _found(alpha: float, seed: int, *, window_s: float = 2_000.0) -> tuple[BurstModel, BurstModel]:
    known = _known(alpha)
    return known, fit(known.sample(seed), window_s=window_s)


def _worst(values: list[float], detail: str) -> Measured:
    return Measured(value=max(values), values=tuple(values), detail=detail)


def _alpha_error(window_s: float) -> Callable[[Context], Measured]:
    def compute(context: Context) -> Measured:
        worst = []
        for seed in context.seeds:
            errors = [0.0]
            for alpha in (0.0625, 0.25, 1.0):
                known, found = _found(alpha, seed, window_s=window_s)
                for k, was in enumerate(known.windows):
                    window = found.windows[k * len(found.windows) // len(known.windows)]
                    errors.append(abs(window.alpha / was.alpha - 1))
            worst.append(max(errors))
        return _worst(worst, f"alpha 1/16, 1/4, 1 in four windows, fitted per {window_s:g} s")

    return compute


def _gap_ks(distance: Callable[[np.ndarray], float]) -> Callable[[Context], Measured]:  # type: ignore[type-arg]
    def compute(context: Context) -> Measured:
        values = []
        for seed in context.seeds:
            gaps = stream(seed, "gaps of CV 4").standard_gamma(1 / 16, 20_000)
            values.append(distance(gaps))
        return _worst(values, "20,000 gaps of CV 4")

    return compute


def _zipf_error(context: Context) -> Measured:
    errors = []
    for seed in context.seeds:
        prompt = _found(0.25, seed)[1].kinds[0].lengths.prompt
        errors.append(abs(prompt.exponent - 1.1) if isinstance(prompt, ZipfLength) else np.inf)
    return _worst(errors, "exponent 1.1 below 1,024, drawn and fitted")


def _zipf_clipped(context: Context) -> Measured:
    """The same with a spike: an unlimited Zipf law clipped at the limit."""
    errors = []
    for seed in context.seeds:
        base = _known(0.25).sample(seed)
        free = stream(seed, "unlimited").zipf(1.1, len(base))
        clipped = fit(base.with_changes(prompt_tokens=np.minimum(free, 1_023)))
        prompt = clipped.kinds[0].lengths.prompt
        errors.append(abs(prompt.exponent - 1.1) if isinstance(prompt, ZipfLength) else 1.0)
    return _worst(errors, "an error of 1 stands for: no longer a Zipf law")


def _mode_error(joined: bool) -> Callable[[Context], Measured]:
    def compute(context: Context) -> Measured:
        errors = []
        for seed in context.seeds:
            output = _found(0.25, seed)[1].kinds[0].lengths.output
            medians = [p.median for p in getattr(output, "parts", ())] or [np.inf]
            if joined:
                medians = [float(np.exp(np.mean(np.log(medians))))]
            errors.append(max(min(abs(m / mode - 1) for m in medians) for mode in (20, 300)))
        return _worst(errors, "lognormal modes at 20 and 300 tokens")

    return compute


# Public hours


def _azure(name: str, key: str) -> Callable[[Context], Measured]:
    def compute(context: Context) -> Measured:
        file = _AZURE.format(name)
        found = statistics_of(load_azure(context.file(file)))
        return Measured(value=found[key], detail=f"{found['requests']:,.0f} rows of {file}")

    return compute


def _poisson_cv(name: str) -> Callable[[Context], Measured]:
    def compute(context: Context) -> Measured:
        trace = load_azure(context.file(_AZURE.format(name)))
        drawn = _poisson_like(trace, 0)
        return Measured(value=statistics_of(drawn)["gap_cv"], detail="Poisson of the same rate")

    return compute


def _poisson_like(trace: Workload, seed: int) -> Workload:
    arrivals = PoissonArrivals(rate_per_s=trace.rate_per_s)
    return trace.with_changes(arrival_s=arrivals.sample(len(trace), seed))


def _minute_variance(workload: Workload) -> float:
    edges_s = np.arange(0, workload.duration_s, 60.0)
    return float(np.histogram(workload.arrival_s, edges_s)[0].var())


def _variance_ratio(name: str, model: bool) -> Callable[[Context], Measured]:
    def compute(context: Context) -> Measured:
        trace = load_azure(context.file(_AZURE.format(name)))
        fitted = fit(trace)
        target = _minute_variance(trace)
        ratios = []
        for seed in range(20):
            drawn = fitted.sample(seed) if model else _poisson_like(trace, seed)
            ratios.append(_minute_variance(drawn) / target)
        return Measured(
            value=float(np.mean(ratios)),
            values=tuple(ratios),
            detail="variance of requests per minute, drawn over measured; mean of 20 draws",
        )

    return compute


def _shape_kept(change: Callable[[Workload], Workload]) -> Callable[[Context], Measured]:
    def compute(context: Context) -> Measured:
        ratios = []
        for seed in context.seeds:
            base = load_workload("code", seed=seed)
            before, after = statistics_of(base)["gap_cv"], statistics_of(change(base))["gap_cv"]
            ratios.append(after / before)
        return Measured(
            value=float(np.mean(ratios)),
            values=tuple(ratios),
            detail="gap CV after over before, bundled code traffic at another rate",
        )

    return compute


# Effect on a service


_ANEW = 1000  # added to a seed for traffic drawn anew


def _effects(cv: float, context: Context) -> list[BurstEffect]:
    return [burst_effect(cv, seed) for seed in context.seeds]


def _beside_poisson(cv: float, context: Context) -> list[tuple[BurstEffect, BurstEffect]]:
    """Runs at ``cv`` and of Poisson arrivals, seed by seed; other draws where both are Poisson."""
    anew = _ANEW if cv == 1.0 else 0
    return [(burst_effect(cv, seed + anew), burst_effect(1.0, seed)) for seed in context.seeds]


def _tail(cv: float) -> Callable[[Context], Measured]:
    """P99 time to first token at ``cv`` over that of Poisson arrivals, seed by seed."""

    def compute(context: Context) -> Measured:
        ratios = [a.ttft_p99_s / b.ttft_p99_s for a, b in _beside_poisson(cv, context)]
        means = ", ".join(
            f"CV {c:g}: {np.mean([e.ttft_p99_s for e in _effects(c, context)]):.2f} s"
            for c in dict.fromkeys((1.0, cv))
        )
        return Measured(
            value=float(np.mean(ratios)),
            values=tuple(ratios),
            detail=f"OPT-66B on 4 x 4 A100, 70 % load; P99 {means}",
        )

    return compute


def _growth(cvs: tuple[float, ...]) -> Callable[[Context], Measured]:
    """The smallest step of P99 from one CV to the next; a CV again is another draw of it."""

    def compute(context: Context) -> Measured:
        steps = []
        for seed in context.seeds:
            again = [cvs[:k].count(cv) for k, cv in enumerate(cvs)]
            tails = [
                burst_effect(cv, seed + _ANEW * turn).ttft_p99_s
                for cv, turn in zip(cvs, again, strict=True)
            ]
            steps.append(min(b / a for a, b in zip(tails, tails[1:], strict=False)))
        return Measured(
            value=min(steps), values=tuple(steps), detail=f"CV {' -> '.join(f'{c:g}' for c in cvs)}"
        )

    return compute


def _preemptions(cv: float) -> Callable[[Context], Measured]:
    def compute(context: Context) -> Measured:
        more = [float(a.preemptions - b.preemptions) for a, b in _beside_poisson(cv, context)]
        return Measured(value=sum(more), values=tuple(more), detail="10,000 requests a seed")

    return compute


def _routers(context: Context) -> Measured:
    seed = context.seeds[0]
    table = {
        name: [burst_effect(cv, seed, name).ttft_p99_s for cv in (1.0, 2.0, 4.0)]
        for name in ROUTER_NAMES
    }
    shown = "; ".join(
        f"{name} {' / '.join(f'{v:.2f}' for v in row)} s" for name, row in table.items()
    )
    best = min(table.values(), key=lambda row: row[-1])[-1]
    return Measured(value=best, detail=f"P99 TTFT at CV 1 / 2 / 4: {shown}")


@functools.cache
def _shuffle_effect(path: Path, seeds: tuple[int, ...]) -> tuple[float, ...]:
    """P99 with rows shuffled against their times, over P99 as recorded."""
    trace = with_rate(load_azure(path), 6.0)
    before = effect_of(trace).ttft_p99_s
    ratios = []
    for seed in seeds:
        rows = stream(seed, "shuffle").permutation(len(trace))
        mixed = trace.with_changes(
            prompt_tokens=trace.prompt_tokens[rows], output_tokens=trace.output_tokens[rows]
        )
        ratios.append(effect_of(mixed).ttft_p99_s / before)
    return tuple(ratios)


def _shuffled(context: Context) -> Measured:
    ratios = _shuffle_effect(context.file(_AZURE.format("conv")), context.seeds)
    return Measured(
        value=float(np.mean(ratios)),
        values=ratios,
        detail="Azure conversation hour at 6 requests/s: P99 TTFT, lengths shuffled over recorded",
    )


# The real file, where the user has it


def _rows(context: Context) -> Measured:
    whole = load_burstgpt(context.file(_BURSTGPT), failures="cancel")
    return Measured(value=float(len(whole)), detail=_BURSTGPT)


def _failure_rate(context: Context) -> Measured:
    whole = load_burstgpt(context.file(_BURSTGPT), failures="cancel")
    share = float(np.mean(whole.cancel_after_s == 0))
    return Measured(value=100 * share, detail=f"{len(whole):,} rows of {_BURSTGPT}")


_RELEASE = "release 1.2, file 1"
_COUNTED = "Azure/AzurePublicDataset, AzureLLMInferenceTrace_{}.csv"

_CLAIMS = (
    Claim(id="size", text="10.31 M traces over 213 days", value=10.31e6, where="abstract"),
    Claim(id="rows", text="Rows of the first file", value=1_429_700, unit="rows", where=_RELEASE),
    Claim(id="failures", text="Failed requests of file 1", value=1.78, unit="%", where=_RELEASE),
    Claim(id="gamma", text="Gaps in a window are Gamma; shape and scale drift between windows"),
    Claim(id="lengths", text="Prompts are Zipf-like, answers bimodal"),
    Claim(
        id="conv-rate",
        text="Azure conversation",
        value=5.53,
        unit="req/s",
        where=_COUNTED.format("conv"),
    ),
    Claim(
        id="conv-cv", text="Azure conversation, gap CV", value=1.09, where=_COUNTED.format("conv")
    ),
    Claim(
        id="code-rate", text="Azure code", value=2.57, unit="req/s", where=_COUNTED.format("code")
    ),
    Claim(id="code-cv", text="Azure code, gap CV", value=13.15, where=_COUNTED.format("code")),
    Claim(id="model", text="The generator keeps the burstiness of real hours"),
    Claim(id="scaling", text="Dividing times keeps the shape of bursts; sampling does not"),
    Claim(id="effect", text="Realistic bursts cost a service efficiency and stability"),
)

_CHECKS = (
    Check(
        claim="rows",
        title="rows read from the file",
        how="derived",
        band=Within(0.001),
        compute=_rows,
        unit="rows",
        slow=True,
        optional=True,
    ),
    Check(
        claim="failures",
        title="rows with no response tokens",
        how="derived",
        band=Within(0.005),
        compute=_failure_rate,
        unit="%",
        slow=True,
        optional=True,
    ),
    Check(
        claim="gamma",
        title="largest error of a recovered shape",
        how="derived",
        band=AtMost(0.10),
        compute=_alpha_error(2_000.0),
        ablation=_alpha_error(8_000.0),
        ablation_title="one Gamma over all windows",
    ),
    Check(
        claim="gamma",
        title="distance of the fitted Gamma to the gaps (KS)",
        how="derived",
        band=AtMost(0.03),
        compute=_gap_ks(lambda gaps: ks_to_gamma(gaps, fit_gamma_shape(gaps))),
        ablation=_gap_ks(ks_to_exponential),
        ablation_title="Poisson of the same rate",
    ),
    Check(
        claim="gamma",
        title="distance of Poisson to gaps of CV 4 (KS)",
        how="derived",
        band=AtLeast(0.15),
        compute=_gap_ks(ks_to_exponential),
    ),
    Check(
        claim="lengths",
        title="error of the recovered Zipf exponent",
        how="derived",
        band=AtMost(0.1),
        compute=_zipf_error,
        ablation=_zipf_clipped,
        ablation_title="clipped at the limit instead of redrawn",
    ),
    Check(
        claim="lengths",
        title="error of the recovered answer modes",
        how="derived",
        band=AtMost(0.10),
        compute=_mode_error(joined=False),
        ablation=_mode_error(joined=True),
        ablation_title="a single mode",
    ),
    Check(
        claim="conv-rate",
        title="requests over the hour",
        how="derived",
        band=Within(0.005),
        compute=_azure("conv", "rate_per_s"),
    ),
    Check(
        claim="conv-cv",
        title="gaps of the hour",
        how="derived",
        band=Within(0.005),
        compute=_azure("conv", "gap_cv"),
        ablation=_poisson_cv("conv"),
        ablation_title="Poisson of the same rate",
    ),
    Check(
        claim="code-rate",
        title="requests over the hour",
        how="derived",
        band=Within(0.005),
        compute=_azure("code", "rate_per_s"),
    ),
    Check(
        claim="code-cv",
        title="gaps of the hour",
        how="derived",
        band=Within(0.005),
        compute=_azure("code", "gap_cv"),
        ablation=_poisson_cv("code"),
        ablation_title="Poisson of the same rate",
    ),
    Check(
        claim="model",
        title="minute variance, conversation",
        how="derived",
        band=Between(0.8, 1.2),
        compute=_variance_ratio("conv", model=True),
        ablation=_variance_ratio("conv", model=False),
        ablation_title="Poisson of the same rate",
        fitted_on="gaps and minute counts of this very hour: it says what the model keeps",
    ),
    Check(
        claim="model",
        title="minute variance, code",
        how="derived",
        band=Between(0.65, 1.35),
        compute=_variance_ratio("code", model=True),
        ablation=_variance_ratio("code", model=False),
        ablation_title="Poisson of the same rate",
        fitted_on="gaps of this very hour: it says what the model keeps",
    ),
    Check(
        claim="scaling",
        title="times divided by 4",
        how="derived",
        band=Between(0.999, 1.001),
        compute=_shape_kept(lambda w: scale(w, 4.0)),
        ablation=_shape_kept(lambda w: subsample(w, 0.25)),
        ablation_title="a quarter of the requests",
    ),
    Check(
        claim="effect",
        title="P99 time to first token, CV 4 over CV 1",
        how="simulated",
        band=AtLeast(3.0),
        compute=_tail(4.0),
        ablation=_tail(1.0),
        ablation_title="Poisson of the same rate",
        fitted_on="step times: published coefficients of another system's A100 runs",
    ),
    Check(
        claim="effect",
        title="smallest growth of P99 from CV to CV",
        how="simulated",
        band=AtLeast(1.05),
        compute=_growth((1.0, 2.0, 4.0)),
        ablation=_growth((1.0, 1.0, 1.0)),
        ablation_title="the CV held at 1",
    ),
    Check(
        claim="effect",
        title="preemptions, CV 4 less CV 1",
        how="simulated",
        band=AtLeast(1.0),
        compute=_preemptions(4.0),
        ablation=_preemptions(1.0),
        ablation_title="Poisson of the same rate",
    ),
    Check(
        claim="effect",
        title="four routers",
        how="simulated",
        band=Report("the paper compares no routers; shown for the reader"),
        compute=_routers,
        unit="s",
        slow=True,
    ),
    Check(
        claim="effect",
        title="lengths shuffled against arrivals",
        how="simulated",
        band=Report("the paper gives no figure for how lengths and arrivals go together"),
        compute=_shuffled,
        slow=True,
    ),
    *REAL_CHECKS,
)

SYSTEM = System(
    id="burstgpt",
    title="BurstGPT: a real workload and its generator",
    arxiv="2401.17644",
    family="workload",
    summary=(
        "Real traffic comes in bursts: Gamma gaps whose shape and scale drift, joint lengths, "
        "clustered failures; a service tuned on Poisson arrivals misses its tail"
    ),
    claims=_CLAIMS,
    rooms=(
        "spec/traces/burstgpt.py",
        "spec/burst/model.py",
        "spec/burst/fit.py",
        "spec/generators/arrivals.py",
        "spec/transforms.py",
        "catalog/burst_effect.py",
    ),
    checks=_CHECKS,
    not_reproduced={
        "size": "the files of release 1.2 hold 10.63 M rows (10.14 M without failures) over 231 "
        "days; neither total is the abstract's"
    },
)
