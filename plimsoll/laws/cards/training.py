"""Cards of laws of how to train, and of what a model of a size can do."""

from plimsoll.laws.cards.contract import INPUTS, Constants, LawCard, Quantity
from plimsoll.laws.hyper import STEP_LAW

__all__ = ["TRAINING_CARDS"]

_STEP = """\
from plimsoll.laws.hyper import suggest

found = suggest(1e9, 1e11, seq_len=2048)
print(found.lr, found.batch_tokens, found.lr_range, found.batch_range)
"""
_SERIES = """\
import numpy as np
from plimsoll.laws.series import fit_axis

sizes = np.array([2e3, 8e3, 3.2e4, 1.28e5, 5.12e5])
law = fit_axis("params", sizes, (1e3 / sizes) ** 0.12, floor=False)
print(law.alpha, law.gain(4.0))
"""
_DENSITY = """\
from plimsoll.laws.density import RatedModel, density, fit_ladder

sizes = {7e9: 0.35, 1.3e10: 0.47, 3.25e10: 0.58, 6.52e10: 0.64}
family = [
    RatedModel(name=f"{n:.3g}", family="ladder", params=n, scores={"exam": score})
    for n, score in sizes.items()
]
ladder = fit_ladder(family, ("exam",), floor=0.25)
small = RatedModel(name="small", family="other", params=3e9, scores={"exam": 0.5})
print(density(ladder, small).total)
"""
_TREND = """\
from datetime import date
from plimsoll.laws.density import RatedModel, ScoreLadder
from plimsoll.laws.density_trend import trend

ladder = ScoreLadder(
    m=23.5, s=0.8, floor=0.25, span=0.75, sizes=(7e9, 6.5e10), benchmarks=("exam",)
)
rows = [(2023, 0.40), (2024, 0.50), (2025, 0.60)]
models = [
    RatedModel(
        name=f"m{year}",
        family=f"f{year}",
        params=7e9,
        scores={"exam": score},
        released=date(year, 3, 1),
    )
    for year, score in rows
]
print(trend(ladder, models, since=date(2023, 1, 1)).line.doubling_months)
"""

TRAINING_CARDS: tuple[LawCard, ...] = (
    LawCard(
        name="step-law",
        title="Step Law",
        group="training",
        formula="lr = a*N^b*D^c; batch = d*N^f*D^e",
        predicts="peak learning rate, and batch in tokens a step, with the plateau around both",
        inputs=(INPUTS["params"], INPUTS["tokens"]),
        parameters=(
            Quantity(name="a", meaning="factor of the learning rate", unit="params^-b*tokens^-c"),
            Quantity(name="b", meaning="power of parameters in it"),
            Quantity(name="c", meaning="power of tokens in it"),
            Quantity(name="d", meaning="factor of the batch", unit="tokens^(1-e)*params^-f"),
            Quantity(name="e", meaning="power of tokens in it"),
            Quantity(name="f", meaning="power of parameters in it, 0 as published"),
        ),
        gradient="none; least squares of logarithms on points within a quarter of a percent of "
        "each cell's least loss; judged by regret, since the plateau leaves coefficients loose",
        fitted_on="17 cells of 215M to 1.07B parameters without embeddings on 4B to 100B tokens; "
        "warm-up of 2,000 steps, cosine to a fixed 1e-5",
        not_for="other optimizers or weight decay; a decay to a tenth of the peak; very small "
        "models; batches in sequences in place of tokens",
        source=STEP_LAW.source,
        module="laws/hyper.py",
        example=_STEP,
        command="plimsoll laws hyper --params 1B --tokens 100B",
        evidence={"step-law": ()},
        published=(
            Constants(
                name="step-law",
                values={
                    "a": STEP_LAW.lr_factor,
                    "b": STEP_LAW.lr_params,
                    "c": STEP_LAW.lr_tokens,
                    "d": STEP_LAW.batch_factor,
                    "e": STEP_LAW.batch_tokens,
                    "f": STEP_LAW.batch_params,
                },
                box={"params": STEP_LAW.params_box, "tokens": STEP_LAW.tokens_box},
                source=STEP_LAW.source,
            ),
        ),
    ),
    LawCard(
        name="series",
        title="Powers for time-series models",
        group="training",
        formula="L(x) = E + (x_c/x)^alpha, x one of N, D, C",
        predicts="L, negative log-likelihood in nats a point of a normalised series, in and out of "
        "distribution",
        inputs=(
            INPUTS["params"],
            Quantity(name="D", meaning="different time points seen", unit="points"),
            Quantity(name="C", meaning="training compute, 6*N*points seen", unit="FLOPs"),
        ),
        parameters=(
            Quantity(name="x_c", meaning="scale of the axis", unit="that of x"),
            Quantity(name="alpha", meaning="exponent along the axis"),
            Quantity(
                name="E", meaning="floor; 0 where the loss is above a known entropy", unit="nats"
            ),
        ),
        gradient="exact, of ln L by every parameter; a floor where Akaike's criterion asks for "
        "one; intervals from resampled seeds",
        fitted_on="published: 1e3 to 1e8 parameters (range not verified); here on models trained "
        "from scratch on made series",
        not_for="losses without a fixed normalisation and a declared offset, since they may be "
        "negative; data seen again counted as data; an OOD set that shares generators with "
        "training",
        source="arXiv 2410.12360",
        module="laws/series.py",
        example=_SERIES,
        command="plimsoll laws series runs.csv",
        evidence={"tsfm-scaling": ()},
    ),
    LawCard(
        name="density",
        title="Capability density",
        group="capability",
        formula="rho = N_ref(S)/N; S = d + c/(1 + exp(-(ln N_ref - m)/s))",
        predicts="rho, how many times its size a model is worth beside a reference family",
        inputs=(
            Quantity(name="S", meaning="mean score of the model", unit="share right"),
            Quantity(name="N", meaning="parameters, all or active", unit="params"),
        ),
        parameters=(
            Quantity(name="m", meaning="ln of the size at the middle of the sigmoid"),
            Quantity(name="s", meaning="width of the sigmoid in ln of size"),
            Quantity(name="c", meaning="scores from guessing to the top", unit="share right"),
            Quantity(name="d", meaning="score of guessing", unit="share right"),
        ),
        gradient="numerical; least squares of scores over one family; with losses known, two "
        "powers and a sigmoid in their place (two-powers)",
        fitted_on="the reference family's sizes; answers say how far outside they lie",
        not_for="scores within a twentieth of the sigmoid's ends, which it refuses; instruct "
        "models; benchmarks whose answers were trained on",
        source="arXiv 2412.04315",
        module="laws/density.py",
        example=_DENSITY,
        command="plimsoll laws density scores.csv --benchmarks MMLU --reference Llama",
        evidence={"densing-law": ("inversion", "cleaner", "compressed")},
    ),
    LawCard(
        name="densing-law",
        title="Densing law",
        group="capability",
        formula="ln rho_max = A*t + B",
        predicts="the largest density on a day, and with it the size that will reach a score",
        inputs=(Quantity(name="t", meaning="time since the first record", unit="days"),),
        parameters=(
            Quantity(name="A", meaning="growth; ln 2/A is the doubling time", unit="1/day"),
            Quantity(name="B", meaning="ln of the density at the start"),
        ),
        gradient="closed form; least squares through the records of density alone, bootstrap over "
        "models",
        fitted_on="published: 29 open base models; here those of a public table by MMLU, "
        "relative to the first Llama sizes",
        not_for="dates far beyond the last record; all models in place of records; tables that mix "
        "base and instruct models; upload dates in place of release dates",
        source="arXiv 2412.04315",
        module="laws/density_trend.py",
        example=_TREND,
        command="plimsoll laws density scores.csv --benchmarks MMLU --reference Llama "
        "--released months.csv",
        evidence={"densing-law": ("growth", "doubling", "spread")},
    ),
)
