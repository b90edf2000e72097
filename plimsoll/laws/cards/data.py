"""Cards of laws of data: what repeating and filtering cost and gain."""

from plimsoll.laws.cards.contract import LawCard, Quantity
from plimsoll.laws.quality_fit import A_RANGE, B_RANGE, TAU_RANGE

__all__ = ["DATA_CARDS"]

_POOLS = """\
from plimsoll.laws.quality import {law}, QualityPool, best_pool

best = QualityPool(name="top 10 %", samples=12.8e6, b={b[0]}, tau={tau[0]})
next_best = QualityPool(name="10-20 %", samples=12.8e6, b={b[1]}, tau={tau[1]})
law = {law}(a={a}, d=0.1, normaliser=1e5)
print(best_pool(law, [best, next_best], 128e6))
"""
_PERCEPTRON = (
    "error = arccos(R)/pi; "
    "R = 2*alpha/(f*sqrt(2*pi*s)) * int Dt e^(-R^2*t^2/(2*s)) "
    "* [1 - e^(-gamma*(gamma - 2*R*t)/(2*s))] * (kappa - t); "
    "s = 2*alpha/f * int Dt [H(-R*t/sqrt(s)) - H(-(R*t - gamma)/sqrt(s))] * (kappa - t)^2; "
    "both integrals over t below kappa, alpha = f*alpha_tot, s = 1 - R^2, gamma = H^-1((1 - f)/2)"
)
_PRUNE = """\
from plimsoll.laws.pruning import pareto, perceptron_error
from plimsoll.laws.rough_pruning import probe_error

print(perceptron_error(30.0, 0.1), pareto(3.0).random_error)
print(probe_error(8.0, 0.3, angle=0.3, keep="easy"))
"""


def _fitted(a: str) -> tuple[Quantity, ...]:
    return (
        Quantity(name="a", meaning=a, unit="1/normaliser", low=A_RANGE[0], high=A_RANGE[1]),
        Quantity(
            name="b",
            meaning="utility of a pool, below zero",
            low=-B_RANGE[1],
            high=-B_RANGE[0],
        ),
        Quantity(
            name="tau",
            meaning="half-life of a pool",
            unit="epochs",
            low=TAU_RANGE[0],
            high=TAU_RANGE[1],
        ),
        Quantity(name="d", meaning="error that stays, given", unit="error"),
    )


_INPUTS = (
    Quantity(name="n_k", meaning="samples seen when epoch k ends", unit="samples"),
    Quantity(name="m_k", meaning="samples of epoch k", unit="samples"),
)
_GRADIENT = (
    "none; an exhaustive grid over a and tau, b refined in each cell, since gradient fits trade "
    "the three off"
)
_FITTED_ON = (
    "published: pools of 12.8M image-text pairs ranked by quality, up to 640M samples seen; here "
    "also losses of text repeated up to 14 times"
)

DATA_CARDS: tuple[LawCard, ...] = (
    LawCard(
        name="repeat-utility",
        title="Utility that fades with repetition",
        group="data",
        formula="y = (a*n_1)^(b_0) * prod over k >= 1 of (n_(k+1)/n_k)^(b_k) + d; "
        "b_k = b*2^(-k/tau)",
        predicts="y, error or loss after so many samples of a union of pools, whose utility fades",
        inputs=_INPUTS[:1],
        parameters=_fitted("factor of samples, shared by all pools"),
        gradient=_GRADIENT,
        fitted_on=_FITTED_ON,
        not_for="fewer than 1/a samples, where the order of utilities turns round; pools whose "
        "samples overlap; one pool sampled more often than another",
        source="arXiv 2404.07177",
        module="laws/quality.py",
        example=_POOLS.format(law="RepeatUtility", a=0.025, b=(-0.16, -0.125), tau=(6.73, 8.55)),
        command="plimsoll laws filter --pools pools.csv --samples 128M",
        evidence={"data-filtering": ("budget", "repetition", "unions")},
    ),
    LawCard(
        name="effective-data",
        title="Samples that fade with repetition",
        group="data",
        formula="y = (a * sum over k of m_k*2^(-k/tau))^b + d",
        predicts="y, error or loss after so many samples of a union of pools, which count less",
        inputs=_INPUTS[1:],
        parameters=_fitted("factor of samples, shared by all pools"),
        gradient=_GRADIENT,
        fitted_on=_FITTED_ON,
        not_for="fewer than 1/a samples; pools whose samples overlap; parameters of "
        "repeat-utility, which mean another thing",
        source="arXiv 2404.07177",
        module="laws/quality.py",
        example=_POOLS.format(law="EffectiveData", a=0.022, b=(-0.182, -0.145), tau=(4.0, 4.36)),
        command="plimsoll laws filter --pools pools.csv --samples 128M --fading data",
        evidence={"data-filtering": ("repetition",)},
    ),
    LawCard(
        name="data-pruning",
        title="Pruning by difficulty, solved for a perceptron",
        group="data",
        formula=_PERCEPTRON,
        predicts="share of new examples that a student of largest margin gets wrong",
        inputs=(
            Quantity(
                name="alpha_tot", meaning="examples there are, a dimension", unit="examples/dim"
            ),
            Quantity(name="f", meaning="fraction kept, the hardest or the easiest", unit=""),
            Quantity(
                name="angle",
                meaning="between the probe that judges and the truth, 0 in the equations above",
                unit="radians",
            ),
            Quantity(name="R", meaning="overlap of student and teacher, solved for"),
            Quantity(name="kappa", meaning="margin reached, solved for"),
            Quantity(name="H", meaning="upper tail of the normal distribution; Dt its measure"),
        ),
        parameters=(),
        gradient="none to fit; both equations solved by bisection in u = -ln(1 - R), the rough "
        "probe by a minimum over two overlaps",
        fitted_on="Gaussian inputs, a linear teacher, dimensions without bound; trained "
        "perceptrons of 200 dimensions agree",
        not_for="the size of a gain on real data: it says which end to prune from and that a "
        "rough probe ends the gain; teachers with noise; probes trained on the same examples",
        source="arXiv 2206.14486",
        module="laws/pruning.py",
        example=_PRUNE,
        evidence={"data-pruning": ()},
    ),
)
