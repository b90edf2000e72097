"""Saturation curves from a pilot: a few graded samples a question, or a few rounds.

The likelihood is of each question's own count of right samples, never of an averaged curve: a
mixture over questions averages to a curve that no single p has. A question is solvable with
probability F; then its count is binomial (one p), or beta-binomial (p of its own). Given the rest,
the best F is known in closed form. Both forms are fitted, and the likelihood of questions held out
decides. Where all samples are right or all wrong there is no point to give, only an interval.
For rounds the transitions count: a likelihood ratio says whether right answers stay right.
Leaves out: grades that are wrong, beyond a share the caller allows in rounds.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq, minimize, minimize_scalar
from scipy.special import betaln, gammaln
from scipy.stats import beta as beta_distribution

from plimsoll.laws.forms.contract import Floats
from plimsoll.laws.saturation import TTSPM, BetaTTSPM, TwoRate
from plimsoll.spec.errors import InfeasibleError, SpecError

__all__ = [
    "ChainFit",
    "PilotFit",
    "choose_form",
    "fit_beta",
    "fit_rounds",
    "fit_ttspm",
    "log_likelihood",
]

_HALF_CHI = 1.9207  # half of the 95 % point of chi-square with one degree of freedom
_RATIO = 3.8415
_EDGE = 1e-9
_FOLDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class PilotFit:
    """``point`` None at a boundary: then only the intervals hold, and ``why`` says so.

    ``p`` and ``f_max``: 95 % likelihood intervals; ``solved``: 95 % interval of the share of
    questions with one right answer among the pilot's ``samples``. ``log_likelihood`` of a question.
    """

    point: TTSPM | None
    p: tuple[float, float]
    f_max: tuple[float, float]
    solved: tuple[float, float]
    samples: int
    log_likelihood: float
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainFit:
    """``model``: with right answers that stay if the ratio allows it, else with two rates.

    ``ratio``: twice the gain in log likelihood of letting answers turn wrong; ``flips`` of
    ``held`` right answers did."""

    model: TTSPM | TwoRate
    absorbing: TTSPM
    ratio: float
    flips: int
    held: int


def _counts(right: npt.ArrayLike, what: str) -> tuple[npt.NDArray[np.int64], int]:
    """Right samples of each question, and samples a question."""
    grades = np.asarray(right, dtype=float)
    if grades.ndim != 2 or not grades.size:
        raise SpecError(f"grades of shape {grades.shape}; expected [questions, {what}]")
    missing = int((~np.isin(grades, (0, 1))).sum())
    if missing:
        raise SpecError(f"{missing} of {grades.size} grades are missing or not 0 or 1; grade them")
    if grades.shape[1] < 2:
        raise InfeasibleError(
            f"a pilot of one of {what}: how often a sample is right and how many questions can be "
            "solved cannot be told apart",
            binding=f"the number of {what}",
            change="take at least 2, better 8",
        )
    return grades.sum(axis=1).astype(np.int64), grades.shape[1]


def fit_ttspm(right: npt.ArrayLike) -> PilotFit:
    """One p and F of ``right`` [questions, samples], grades 0 or 1.

    Raises:
        SpecError: grades that are missing.
        InfeasibleError: one sample a question.
    """
    counts, samples = _counts(right, "samples")
    num = len(counts)
    hit = int((counts > 0).sum())
    solved = _clopper(hit, num)
    if not hit:
        return PilotFit(
            point=None,
            p=(0.0, 1.0),
            f_max=(0.0, 1.0),
            solved=solved,
            samples=samples,
            log_likelihood=0.0,
            why=f"no sample of {num * samples} is right: only how many questions {samples} "
            "samples solve is bounded",
        )
    misses = hit * samples - int(counts.sum())
    total = float(_log_choose(samples, counts[counts > 0]).sum())

    def at(p: float, f: float | None = None) -> float:
        """Log likelihood at p and F, the best F if none is given."""
        some = -np.expm1(samples * np.log1p(-p)) if p < 1 else 1.0
        share = min(1.0, hit / num / some) if f is None else f
        found = total + hit * np.log(share) + counts.sum() * np.log(p)
        found += misses * np.log1p(-p) if misses else 0.0
        rest = 1 - share * some
        return float(found + (num - hit) * np.log(max(rest, 1e-300)) if num > hit else found)

    best, top = _peak(lambda x: at(x), 1 - _EDGE if misses else 1.0)
    p_range = _around(lambda x: at(x), best, top, 1 - _EDGE if misses else 1.0)
    f_best = hit / num / (-np.expm1(samples * np.log1p(-best)) if best < 1 else 1.0)
    f_best = min(1.0, f_best)

    def profile(f: float) -> float:
        return _peak(lambda x: at(x, f), 1 - _EDGE if misses else 1.0)[1]

    f_range = _around(profile, f_best, top, 1.0)
    why = "" if misses else "every sample of a solvable question is right: p is bounded from below"
    return PilotFit(
        point=TTSPM(p=best, f_max=f_best) if misses else None,
        p=p_range,
        f_max=f_range,
        solved=solved,
        samples=samples,
        log_likelihood=top / num,
        why=why,
    )


def _peak(value: Callable[[float], float], most: float) -> tuple[float, float]:
    """The argument of the largest value between 0 and ``most``, and that value."""
    grid = np.concatenate([np.geomspace(1e-6, 0.1, 20), np.linspace(0.15, min(most, 0.98), 18)])
    middle = float(grid[int(np.argmax([value(x) for x in grid]))])
    found = minimize_scalar(
        lambda x: -value(x),
        bounds=(middle / 3, min(most, middle * 3)),
        method="bounded",
        options={"xatol": 1e-10},
    )
    best, top = float(found.x), -float(found.fun)
    at_most = value(most)
    return (most, at_most) if at_most >= top else (best, top)


def _around(
    value: Callable[[float], float], best: float, top: float, most: float
) -> tuple[float, float]:
    """Where the value has fallen by what a 95 % interval allows."""

    def gap(x: float) -> float:
        return value(x) - (top - _HALF_CHI)

    low = float(brentq(gap, 1e-9, best, xtol=1e-9)) if gap(1e-9) < 0 < gap(best) else 0.0
    high = most
    if best < most and gap(most) < 0 < gap(best):
        high = float(brentq(gap, best, most, xtol=1e-9))
    return low, (1.0 if high >= 1 - 2 * _EDGE else high)


def _clopper(hit: int, num: int) -> tuple[float, float]:
    """Exact 95 % interval of a share."""
    low = float(beta_distribution.ppf(0.025, hit, num - hit + 1)) if hit else 0.0
    high = float(beta_distribution.ppf(0.975, hit + 1, num - hit)) if hit < num else 1.0
    return low, high


def _log_choose(total: int, some: npt.NDArray[np.int64]) -> Floats:
    return np.asarray(gammaln(total + 1) - gammaln(some + 1) - gammaln(total - some + 1))


def fit_beta(right: npt.ArrayLike) -> BetaTTSPM:
    """a, b and F of ``right`` [questions, samples].

    A pilot hardly tells a share of unsolvable questions from a Beta with much weight near 0. F is
    therefore 1 unless a free F gains a log-likelihood ratio of 3.84 (5 %).

    Raises:
        SpecError: grades that are missing.
        InfeasibleError: one sample a question, or all samples right, or all wrong.
    """
    counts, samples = _counts(right, "samples")
    num, hit = len(counts), int((counts > 0).sum())
    if not hit or int(counts.sum()) == num * samples:
        raise InfeasibleError(
            f"all {num * samples} samples are {'right' if hit else 'wrong'}: they say nothing of "
            "how p differs between questions",
            binding="the pilot",
            change="take harder questions" if hit else "take easier questions or more samples",
        )
    some, often = np.unique(counts[counts > 0], return_counts=True)

    def lost(point: Floats, free: bool) -> float:
        a, b = np.exp(point)
        share, none = _beta_share(a, b, samples, hit / num)
        share = share if free else 1.0
        found = often @ (betaln(a + some, b + samples - some) - betaln(a, b)) + hit * np.log(share)
        rest = max(1 - share * (1 - none), 1e-300)
        return -float(found + (num - hit) * np.log(rest)) / num

    bounds = [(-5.0, 6.0), (-5.0, 8.0)]
    best = []
    for free in (False, True):
        tried = [
            minimize(lost, np.log([a, a * ratio]), args=(free,), method="L-BFGS-B", bounds=bounds)
            for a in (0.2, 1.0, 5.0)
            for ratio in (0.3, 2.0, 10.0)
        ]
        best.append(min(tried, key=lambda one: float(one.fun)))
    whole, part = best
    free = 2 * num * float(whole.fun - part.fun) > _RATIO
    a, b = (float(v) for v in np.exp((part if free else whole).x))
    share = _beta_share(a, b, samples, hit / num)[0] if free else 1.0
    return BetaTTSPM(a=a, b=b, f_max=share)


def _beta_share(a: float, b: float, samples: int, hit: float) -> tuple[float, float]:
    """The best F, and the chance that a solvable question has no right sample."""
    none = float(np.exp(betaln(a, b + samples) - betaln(a, b)))
    return min(1.0, hit / max(1 - none, 1e-12)), none


def log_likelihood(model: TTSPM | BetaTTSPM, right: npt.ArrayLike) -> float:
    """ln of the probability of the counts of ``right``, mean over questions."""
    counts, samples = _counts(right, "samples")
    if isinstance(model, TTSPM):
        p = min(max(model.p, 1e-12), 1 - 1e-12)
        one = counts * np.log(p) + (samples - counts) * np.log1p(-p)
    else:
        one = betaln(model.a + counts, model.b + samples - counts) - betaln(model.a, model.b)
    solvable = model.f_max * np.exp(one + _log_choose(samples, counts))
    none = np.where(counts == 0, 1 - model.f_max, 0.0)
    return float(np.log(np.maximum(solvable + none, 1e-300)).mean())


def choose_form(
    right: npt.ArrayLike, *, seed: int = 0
) -> tuple[TTSPM | BetaTTSPM, dict[str, float]]:
    """The form that says best what it has not seen, fitted to all; and both mean log likelihoods
    of questions held out, in five folds.

    Raises:
        SpecError: grades that are missing.
        InfeasibleError: fewer than ten questions, or a pilot at a boundary.
    """
    grades = np.asarray(right, dtype=float)
    _counts(grades, "samples")
    if len(grades) < 2 * _FOLDS:
        raise InfeasibleError(
            f"{len(grades)} questions; forms are told apart on {2 * _FOLDS} or more",
            binding="the number of questions",
            change="grade more questions",
        )
    fold = np.random.default_rng(seed).permutation(len(grades)) % _FOLDS
    scores = {"one p": 0.0, "beta": 0.0}
    for turn in range(_FOLDS):
        kept, out = grades[fold != turn], grades[fold == turn]
        share = len(out) / len(grades)
        scores["one p"] += share * log_likelihood(_point(kept), out)
        scores["beta"] += share * log_likelihood(fit_beta(kept), out)
    whole = fit_beta(grades) if scores["beta"] > scores["one p"] else _point(grades)
    return whole, scores


def _point(grades: Floats) -> TTSPM:
    found = fit_ttspm(grades)
    if found.point is None:
        raise InfeasibleError(found.why, binding="the pilot", change="take other questions")
    return found.point


def fit_rounds(right: npt.ArrayLike, *, grading_noise: float = 0.005) -> ChainFit:
    """Rates of rethinking from ``right`` [questions, rounds], the grade after each round.

    Right answers are taken to stay unless letting them turn wrong more often than
    ``grading_noise`` gains a log-likelihood ratio of 3.84 (5 %).

    Raises:
        SpecError: grades that are missing, or noise outside of 0 to 1.
        InfeasibleError: one round, or no answer ever right.
    """
    if not 0 <= grading_noise < 1:
        raise SpecError(f"grading noise {grading_noise:g}; expected from 0 to below 1")
    counts, rounds = _counts(right, "rounds")
    if not counts.any():
        raise InfeasibleError(
            f"no answer was right in {rounds} rounds: rates cannot be told",
            binding="the pilot",
            change="take easier questions or more rounds",
        )
    state = np.asarray(right, dtype=np.int64)
    before = np.concatenate([np.zeros((len(state), 1), dtype=np.int64), state[:, :-1]], axis=1)
    ever = counts > 0
    turned = int(((before == 0) & (state == 1)).sum())
    stayed = int(((before == 0) & (state == 0))[ever].sum())
    flips, held = int(((before == 1) & (state == 0)).sum()), int((before == 1).sum())
    first = np.where(ever, state.argmax(axis=1), rounds)
    p, f_max = _right_rate(turned, stayed, int(ever.sum()), len(state), rounds)
    # where right answers stay, only the rounds up to the first right one count
    waited = int(first[ever].sum())
    alone, alone_f = _right_rate(int(ever.sum()), waited, int(ever.sum()), len(state), rounds)
    absorbing = TTSPM(p=alone, f_max=alone_f)
    free = flips / held if held else 0.0
    ratio = 2 * (
        _flip_likelihood(free, flips, held)
        - _flip_likelihood(min(free, grading_noise), flips, held)
    )
    model: TTSPM | TwoRate = absorbing
    if ratio > _RATIO:
        model = TwoRate(p=p, q=free, f_max=f_max)
    return ChainFit(model=model, absorbing=absorbing, ratio=ratio, flips=flips, held=held)


def _flip_likelihood(q: float, flips: int, held: int) -> float:
    if flips and q <= 0:
        return -np.inf
    found = flips * np.log(q) if flips else 0.0
    return float(found + ((held - flips) * np.log1p(-q) if held > flips else 0.0))


def _right_rate(turned: int, stayed: int, ever: int, num: int, rounds: int) -> tuple[float, float]:
    """(p, F) of ``turned`` wrong answers that became right and ``stayed`` that did not, both of
    the ``ever`` questions right at some time; the others were wrong in all rounds."""

    def at(p: float) -> float:
        some = -np.expm1(rounds * np.log1p(-p)) if p < 1 else 1.0
        share = min(1.0, ever / num / some)
        found = ever * np.log(share) + turned * np.log(p)
        found += stayed * np.log1p(-p) if stayed else 0.0
        rest = max(1 - share * some, 1e-300)
        return float(found + (num - ever) * np.log(rest) if num > ever else found)

    p, _ = _peak(at, 1 - _EDGE if stayed else 1.0)
    some = -np.expm1(rounds * np.log1p(-p)) if p < 1 else 1.0
    return p, min(1.0, ever / num / some)
