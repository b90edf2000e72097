"""TTSPM: when more samples, or more rounds of rethinking, stop paying.

Mechanism in ``laws/saturation.py`` (curves, gains, the last sample worth buying),
``laws/saturation_fit.py`` (fits from a pilot) and ``serving/policies/sampling.py`` (rules that stop
one question). Closed forms are checked against search; fits and rules on graded samples of tiny
models trained here, and on simulated outcomes.
Source: arXiv 2505.20522.
"""

from collections.abc import Callable

import numpy as np
from scipy.optimize import isotonic_regression
from scipy.stats import pearsonr

from plimsoll.catalog.contract import (
    AtLeast,
    AtMost,
    Check,
    Claim,
    Context,
    Measured,
    Report,
    System,
)
from plimsoll.laws.forms.contract import Floats
from plimsoll.laws.saturation import BetaTTSPM, TwoRate, saturation
from plimsoll.laws.saturation_fit import fit_beta, fit_rounds, fit_ttspm
from plimsoll.laws.testtime import pass_at_n
from plimsoll.serving.policies.sampling import AdaptiveSamples, SettledVotes
from plimsoll.spec.errors import InfeasibleError, UnsupportedError

__all__ = ["SYSTEM"]

Compute = Callable[[Context], Measured]

_DRAWS = 10_000
_QUESTIONS, _SAMPLES, _PILOT = 200, 64, 8
_FIXED = 32
_EPS = 0.01
_MIDDLE = 3
"""Which checkpoint is of partial competence: 1,000 steps."""
_CHAIN_QUESTIONS, _CHAIN_ROUNDS, _CHAIN_PILOT = 4000, 24, 6


def _brute_force(ceiling: bool) -> Compute:
    """Share of random (p, F, ε) for which the closed form is what a search over gains finds."""

    def compute(context: Context) -> Measured:
        rng = np.random.default_rng(context.seeds[0])
        agree = edges = 0
        for index in range(_DRAWS):
            p = float(rng.choice([rng.random(), 10 ** rng.uniform(-4, 0), 1.0]))
            f_max, eps = float(rng.random()), float(10 ** rng.uniform(-5, -0.7))
            if index % 10 == 0:
                eps = min(1.0, f_max * p * float(rng.uniform(1, 2))) or 0.1
            edges += p == 1 or f_max * p <= eps
            n = saturation(p, f_max, eps)
            if not ceiling:
                n = _floor(p, f_max, eps)
            agree += n == _searched(p, f_max, eps)
        return Measured(
            value=agree / _DRAWS,
            detail=f"{_DRAWS:,} draws, p from 1e-4 to 1, {edges:,} at p = 1 or with F·p <= ε",
        )

    return compute


def _floor(p: float, f_max: float, eps: float) -> int:
    if f_max * p <= eps:
        return 0
    return 1 if p == 1 else int(np.floor(np.log(eps / (f_max * p)) / np.log1p(-p)))


def _searched(p: float, f_max: float, eps: float) -> int:
    low, width = 0, 64
    while True:
        hit = np.flatnonzero(f_max * p * (1 - p) ** np.arange(low, low + width) <= eps)
        if len(hit):
            return low + int(hit[0])
        low, width = low + width, 4 * width


def _samples(context: Context, task: str, at: int, seed: int) -> tuple[Floats, Floats, Floats]:
    del context
    try:
        from plimsoll.catalog.ttspm_real import checkpoints, samples_of
    except ImportError as error:
        raise UnsupportedError(f"needs {error.name}; install plimsoll[torch]") from None
    solver = checkpoints(task, seed)[at]
    return samples_of(solver, questions=_QUESTIONS, samples=_SAMPLES, seed=seed + 1000)


def _tail(task: str, mixture: bool, at: int = _MIDDLE) -> Compute:
    """Percentage points by which pass@32 is missed by a fit to eight samples a question."""

    def compute(context: Context) -> Measured:
        values, lines = [], []
        for seed in context.seeds:
            right, _, _ = _samples(context, task, at, seed)
            counts = right.sum(axis=1)
            truth = float(pass_at_n(counts, _SAMPLES, _FIXED).mean())
            pilot = right[:, :_PILOT]
            one = fit_ttspm(pilot).point
            if one is None:
                raise InfeasibleError("the pilot is all wrong or all right; train otherwise")
            many = fit_beta(pilot)
            found = {"beta": float(many.curve(_FIXED)), "one p": float(one.curve(_FIXED))}
            values.append(100 * abs(found["beta" if mixture else "one p"] - truth))
            lines.append(f"{truth:.3f}, beta {found['beta']:.3f}, one p {found['one p']:.3f}")
        return Measured(
            value=float(np.mean(values)),
            values=tuple(values),
            detail=f"{task}s of two numbers, {_QUESTIONS} questions, checkpoint {at + 1} of 6, "
            f"temperature 1; pass@32 {'; '.join(lines)}",
        )

    return compute


def _parallel_points(context: Context, seed: int) -> list[tuple[float, float]]:
    """(predicted, observed) saturation of each model: from eight samples, on the other 56."""
    from plimsoll.catalog.ttspm_real import STEPS, TASKS

    found = []
    for task in TASKS:
        for at in range(len(STEPS)):
            right, _, _ = _samples(context, task, at, seed)
            rest = right[:, _PILOT:].sum(axis=1)
            num = _SAMPLES - _PILOT
            curve = [0.0, *(float(pass_at_n(rest, num, n).mean()) for n in range(1, num + 1))]
            found.append((float(fit_beta(right[:, :_PILOT]).saturation(_EPS)), _first(curve)))
    return found


def _sequential_points(context: Context, seed: int) -> list[tuple[float, float]]:
    """The same of rounds: solved within r rounds, from six rounds, on other questions."""
    del context
    from plimsoll.catalog.ttspm_real import STEPS, TASKS, checkpoints, rounds_of

    found = []
    for task in TASKS:
        for at in range(len(STEPS)):
            solver = checkpoints(task, seed)[at]
            both = [
                np.maximum.accumulate(
                    rounds_of(solver, questions=_CHAIN_QUESTIONS, rounds=rounds, seed=part), axis=1
                )
                for part, rounds in ((seed + 50, _CHAIN_PILOT), (seed + 90, _CHAIN_ROUNDS))
            ]
            model = fit_rounds(both[0]).absorbing
            found.append(
                (float(model.saturation(_EPS)), _first([0.0, *both[1].mean(axis=0).tolist()]))
            )
    return found


def _first(curve: list[float]) -> float:
    """Where the curve's gains, made to fall, are first at most ε."""
    gains = isotonic_regression(np.diff(curve), increasing=False).x
    low = np.flatnonzero(gains <= _EPS)
    return float(low[0]) if len(low) else float(len(gains))


def _correlated(points: Callable[[Context, int], list[tuple[float, float]]]) -> Compute:
    def compute(context: Context) -> Measured:
        try:
            import torch  # noqa: F401
        except ImportError as error:
            raise UnsupportedError(f"needs {error.name}; install plimsoll[torch]") from None
        by_seed = [points(context, seed) for seed in context.seeds]
        values = tuple(float(pearsonr(*np.array(each).T).statistic) for each in by_seed)
        told = ", ".join(f"{said:g} {seen:g}" for said, seen in by_seed[0])
        return Measured(
            value=float(np.median(values)),
            values=values,
            detail=f"{len(by_seed[0])} models (2 tasks x 6 checkpoints) a seed, ε = {_EPS}; "
            f"predicted and observed: {told}",
        )

    return compute


def _adaptive(kind: str, what: str, adaptive: bool = True) -> Compute:
    """``kind`` "real" or "simulated" outcomes; ``what`` "share" of 32 samples, or "gap" in
    percentage points to the fixed number that takes as many samples."""

    def compute(context: Context) -> Measured:
        values, lines = [], []
        for seed in context.seeds:
            pilot, right = _outcomes(context, kind, seed)
            prior = fit_beta(pilot)
            used, solved = _ruled(prior, right) if adaptive else _all(right)
            fixed = float(right[:, :_FIXED].any(axis=1).mean())
            equal = max(1, round(float(used.mean())))
            same = float(right[:, :equal].any(axis=1).mean())
            lines.append(
                f"solved {solved:.3f} with {used.mean():.1f} samples, {fixed:.3f} with {_FIXED}, "
                f"{same:.3f} with {equal}"
            )
            lost = max(0.0, 100 * (fixed - solved) - 0.5)
            share = float(used.mean()) / _FIXED
            values.append(share if what == "share" and not lost else 100 * (solved - same))
            if what == "share" and lost:
                values[-1] = 1.0 + lost  # not of equal accuracy: no saving
        worst = max(values) if what == "share" else min(values)
        return Measured(value=worst, values=tuple(values), detail="; ".join(lines))

    return compute


def _outcomes(context: Context, kind: str, seed: int) -> tuple[Floats, Floats]:
    """(a pilot to fit the prior on, grades of other questions)."""
    if kind == "real":
        pilot, _, _ = _samples(context, "sum", _MIDDLE, seed)
        from plimsoll.catalog.ttspm_real import checkpoints, samples_of

        solver = checkpoints("sum", seed)[_MIDDLE]
        right, _, _ = samples_of(
            solver, questions=2 * _QUESTIONS, samples=_SAMPLES, seed=seed + 5000
        )
        return pilot[:, :_PILOT], right
    rng = np.random.default_rng(seed)
    p = np.where(rng.random(1200) < 0.9, rng.beta(0.6, 2.0, 1200), 0.0)
    right = (rng.random((1200, _SAMPLES)) < p[:, None]).astype(float)
    return right[:200, :_PILOT], right[200:]


def _ruled(prior: BetaTTSPM, right: Floats) -> tuple[Floats, float]:
    """(samples used [q], share solved), at the price of the prior's chance after 32 wrong."""
    free = AdaptiveSamples(
        a=prior.a, b=prior.b, f_max=prior.f_max, value=1.0, price=1e-12, most=_SAMPLES
    )
    rule = AdaptiveSamples(
        a=prior.a,
        b=prior.b,
        f_max=prior.f_max,
        value=1.0,
        price=free.chance(_FIXED),
        most=_SAMPLES,
    )
    used = np.zeros(len(right))
    solved = 0
    for index, grades in enumerate(right):
        drawn = hits = 0
        while rule.more(drawn, hits):
            hits += int(grades[drawn])
            drawn += 1
        used[index], solved = drawn, solved + (hits > 0)
    return used, solved / len(right)


def _all(right: Floats) -> tuple[Floats, float]:
    return np.full(len(right), float(_FIXED)), float(right[:, :_FIXED].any(axis=1).mean())


def _votes() -> Compute:
    """Share of 32 samples that voting takes, without a verifier."""

    def compute(context: Context) -> Measured:
        values, lines = [], []
        for seed in context.seeds:
            _, answers, truth = _samples(context, "sum", _MIDDLE + 1, seed)
            rule = SettledVotes(confidence=0.95, most=_FIXED)
            used = hits = fixed = 0
            for said, right in zip(answers.astype(int).tolist(), truth.tolist(), strict=True):
                votes: dict[int, int] = {}
                drawn = 0
                while rule.more(list(votes.values())):
                    votes[said[drawn]] = votes.get(said[drawn], 0) + 1
                    drawn += 1
                used += drawn
                hits += max(votes, key=votes.__getitem__) == right
                whole = said[:_FIXED]
                fixed += max(whole, key=whole.count) == right
            num = len(truth)
            lost = max(0.0, 100 * (fixed - hits) / num - 0.5)
            values.append(used / num / _FIXED if not lost else 1.0 + lost)
            lines.append(
                f"right {hits / num:.3f} with {used / num:.1f}, {fixed / num:.3f} with {_FIXED}"
            )
        return Measured(value=max(values), values=tuple(values), detail="; ".join(lines))

    return compute


def _chain(num: int, rounds: int, p: float, q: float, seed: int) -> Floats:
    rng = np.random.default_rng(seed)
    state, seen = np.zeros(num, dtype=bool), []
    for _ in range(rounds):
        draw = rng.random(num)
        state = np.where(state, draw >= q, draw < p)
        seen.append(state)
    return np.stack(seen, axis=1).astype(float)


def _detected(flips: bool) -> Compute:
    """Share of simulated chains for which right is found to turn wrong, or to stay."""

    def compute(context: Context) -> Measured:
        del context
        rates = (0.03, 0.06, 0.12) if flips else (0.0,)
        verdicts = [
            isinstance(fit_rounds(_chain(300, 8, p, q, seed)).model, TwoRate) == flips
            for q in rates
            for p in (0.1, 0.3, 0.6)
            for seed in range(10)
        ]
        return Measured(
            value=float(np.mean(verdicts)),
            detail=f"{len(verdicts)} chains of 300 questions and 8 rounds, q in {rates}",
        )

    return compute


def _late(kind: str, two_rates: bool) -> Compute:
    """Percentage points by which accuracy after 24 rounds is missed by a fit to six."""

    def compute(context: Context) -> Measured:
        values, lines = [], []
        for seed in context.seeds:
            if kind == "simulated":
                right = _chain(_CHAIN_QUESTIONS, _CHAIN_ROUNDS, 0.25, 0.08, seed)
            else:
                try:
                    from plimsoll.catalog.ttspm_real import checkpoints, rounds_of
                except ImportError as error:
                    raise UnsupportedError(f"needs {error.name}; use plimsoll[torch]") from None
                right = rounds_of(
                    checkpoints("sum", seed)[_MIDDLE],
                    questions=_CHAIN_QUESTIONS,
                    rounds=_CHAIN_ROUNDS,
                    seed=seed + 70,
                )
            found = fit_rounds(right[:, :_CHAIN_PILOT])
            model = found.model if two_rates else found.absorbing
            truth = float(right[:, -4:].mean())
            values.append(100 * abs(float(model.curve(_CHAIN_ROUNDS)) - truth))
            lines.append(
                f"{truth:.3f}, said {float(model.curve(_CHAIN_ROUNDS)):.3f} "
                f"({found.flips} of {found.held} right answers turned wrong)"
            )
        return Measured(value=float(np.mean(values)), values=tuple(values), detail="; ".join(lines))

    return compute


_CLAIMS = (
    Claim(
        id="bound",
        text="Parallel and sequential scaling follow F(1 − (1 − p)^N)",
        where="section 3",
    ),
    Claim(
        id="saturation",
        text="A closed form gives the number of samples after which gains are below a threshold",
        where="section 3",
    ),
    Claim(
        id="predicted",
        text="Predicted and observed saturation correlate",
        value=0.803,
        unit="r",
        setup="DeepSeek-R1-Distill-Qwen 7B, parallel, MATH-500",
        where="figure 5",
    ),
    Claim(
        id="aime",
        text="30.0 % to 53.3 % with 32 parallel samples",
        value=53.3,
        unit="%",
        setup="DeepSeek-R1-Distill-Qwen 1.5B, AIME 2024",
        where="table 1",
    ),
)

_CHECKS = (
    Check(
        claim="saturation",
        title="random (p, F, ε) for which the closed form is what a search finds",
        how="derived",
        band=AtLeast(1.0),
        compute=_brute_force(ceiling=True),
        ablation=_brute_force(ceiling=False),
        ablation_title="floor in place of ceiling",
    ),
    Check(
        claim="bound",
        title="tiny model of sums: pass@32 from 8 samples, p of its own a question, mean of seeds",
        how="run",
        band=AtMost(2.0),
        compute=_tail("sum", mixture=True),
        unit="points off",
        ablation=_tail("sum", mixture=False),
        ablation_title="one p for all",
        slow=True,
    ),
    Check(
        claim="bound",
        title="tiny model of sums, one checkpoint earlier: the same",
        how="run",
        band=Report(
            "the check above stands at the checkpoint that is right in a seventh of samples; "
            "earlier ones, right in a twentieth, miss by more than 2 points, later ones by less"
        ),
        compute=_tail("sum", mixture=True, at=_MIDDLE - 1),
        unit="points off",
        slow=True,
    ),
    Check(
        claim="bound",
        title="tiny model of products: the same, where the spread of p is no Beta",
        how="run",
        band=Report(
            "most products have a chance of a percent or two, which 8 samples cannot tell from "
            "none: both forms promise too little"
        ),
        compute=_tail("product", mixture=True),
        unit="points off",
        slow=True,
    ),
    Check(
        claim="predicted",
        title="samples: predicted against observed saturation of 12 tiny models",
        how="run",
        band=AtLeast(0.75),
        compute=_correlated(_parallel_points),
        unit="r",
        slow=True,
    ),
    Check(
        claim="predicted",
        title="rounds: predicted against observed saturation of 12 tiny models",
        how="run",
        band=AtLeast(0.75),
        compute=_correlated(_sequential_points),
        unit="r",
        slow=True,
    ),
    Check(
        claim="saturation",
        title="tiny model, other questions: share of 32 samples at equal accuracy (0.5 points)",
        how="run",
        band=AtMost(0.6),
        compute=_adaptive("real", "share"),
        ablation=_adaptive("real", "share", adaptive=False),
        ablation_title="a fixed number",
        slow=True,
    ),
    Check(
        claim="saturation",
        title="tiny model: points above a fixed number of as many samples",
        how="run",
        band=AtLeast(0.0),
        compute=_adaptive("real", "gap"),
        unit="points",
        slow=True,
    ),
    Check(
        claim="saturation",
        title="simulated outcomes: share of 32 samples at equal accuracy (0.5 points)",
        how="simulated",
        band=AtMost(0.6),
        compute=_adaptive("simulated", "share"),
        ablation=_adaptive("simulated", "share", adaptive=False),
        ablation_title="a fixed number",
    ),
    Check(
        claim="saturation",
        title="simulated outcomes: points above a fixed number of as many samples",
        how="simulated",
        band=AtLeast(0.0),
        compute=_adaptive("simulated", "gap"),
        unit="points",
    ),
    Check(
        claim="saturation",
        title="tiny model, votes and no verifier: share of 32 samples at equal accuracy",
        how="run",
        band=Report("the paper has no such rule; answers that scatter settle late"),
        compute=_votes(),
        slow=True,
    ),
    Check(
        claim="bound",
        title="simulated rounds with answers that turn wrong: found to do so",
        how="simulated",
        band=AtLeast(0.95),
        compute=_detected(flips=True),
    ),
    Check(
        claim="bound",
        title="simulated rounds with answers that stay right: found to do so",
        how="simulated",
        band=AtLeast(0.95),
        compute=_detected(flips=False),
    ),
    Check(
        claim="bound",
        title="simulated rounds with flips: accuracy after 24 from 6, two rates",
        how="simulated",
        band=AtMost(2.0),
        compute=_late("simulated", two_rates=True),
        unit="points off",
        ablation=_late("simulated", two_rates=False),
        ablation_title="right answers stay",
    ),
    Check(
        claim="bound",
        title="tiny model rethinking: accuracy after 24 rounds from 6, two rates",
        how="run",
        band=AtMost(5.0),
        compute=_late("real", two_rates=True),
        unit="points off",
        ablation=_late("real", two_rates=False),
        ablation_title="right answers stay",
        slow=True,
    ),
)

SYSTEM = System(
    id="ttspm",
    title="TTSPM: the saturation of test-time scaling",
    arxiv="2505.20522",
    family="scaling laws",
    summary=(
        "samples and rethinking rounds have one curve with an upper bound; its gains say how many "
        "are worth buying, for a whole set of questions or for one as its samples come back"
    ),
    claims=_CLAIMS,
    rooms=("laws/saturation.py", "laws/saturation_fit.py", "serving/policies/sampling.py"),
    checks=_CHECKS,
    not_reproduced={
        "aime": "needs the 1.5 B model and the AIME questions; tiny models trained here stand in",
    },
)
