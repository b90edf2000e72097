"""MassiveDS: the size of a datastore as a scaling axis.

Mechanism in ``data/datastore.py`` (exact search over shards), ``data/retrieve.py`` (everything
else as choices from one wide retrieval) and ``laws/datastore.py`` (a store against parameters and
tokens). Exactness and cost are measured on 200,000 chunks (``catalog/massiveds_search.py``); what a
store is worth on tiny language models trained here, whose answers come from memory or from what
was retrieved (``catalog/massiveds_answers.py``). The paper has no table of points, so the law is
fitted to runs of those models, kept with their provenance.
Source: arXiv 2407.12854.
"""

from collections.abc import Callable

import numpy as np

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
from plimsoll.catalog.massiveds_answers import against_larger, leak, rise, served, stored
from plimsoll.catalog.massiveds_runs import StoreRow, read_store_runs, store_law
from plimsoll.catalog.massiveds_search import agreeing, merged, swept
from plimsoll.laws.datastore import RETRIEVER_PARAMS, build_flops, compute_optimal

__all__ = ["SYSTEM"]

Compute = Callable[[Context], Measured]

_PARAMS, _TOKENS, _STORE = 7e9, 2e12, 1.4e12


def _frontier(store_counts: bool) -> Compute:
    """Share of budgets whose best split has a store."""

    def compute(context: Context) -> Measured:
        law = store_law(worthless=not store_counts)
        runs = read_store_runs()
        low, high = (6 * law.box["params"][i] * law.box["tokens"][i] for i in (0, 1))
        found = [
            compute_optimal(law, float(flops), retriever_params=runs.retriever_params, stretch=3.0)
            for flops in np.geomspace(low, high, 9)
        ]
        return Measured(
            value=float(np.mean([one.datastore > 0 for one in found])),
            detail=f"law of {law.points} points, budgets from {low:.2g} to {high:.2g} FLOPs: "
            + ", ".join(f"{one.datastore:.2g}" for one in found)
            + " tokens of store, "
            + ", ".join(f"{100 * one.store_fraction:.1g}" for one in found)
            + " % of the FLOPs",
        )

    return compute


def _envelope(largest: float) -> Compute:
    """Share of budgets whose best measured run, the FLOPs of its store counted, has a store; only
    fractions up to ``largest`` are looked at."""

    def compute(context: Context) -> Measured:
        del context
        runs = read_store_runs()
        cells: dict[tuple[int, int, float], list[StoreRow]] = {}
        for row in runs.rows:
            if row.fraction <= largest:
                cells.setdefault((row.width, row.steps, row.fraction), []).append(row)
        flops = np.array(
            [
                6 * found[0].params * found[0].tokens
                + build_flops(runs.retriever_params, max(row.datastore for row in found))
                for found in cells.values()
            ]
        )
        losses = np.array([np.mean([row.loss for row in found]) for found in cells.values()])
        fractions = np.array([fraction for _, _, fraction in cells])
        best = []
        for budget in np.geomspace(1.01 * flops.min(), 1.01 * flops.max(), 9):
            inside = np.flatnonzero(flops <= budget)
            best.append(inside[int(np.argmin(losses[inside]))])
        alone = [losses[(flops <= 1.01 * flops[at]) & (fractions == 0)].min() for at in best]
        return Measured(
            value=float((fractions[best] > 0).mean()),
            detail=f"{len(cells)} settings, means of {len(next(iter(cells.values())))} seeds, "
            f"budgets from {flops.min():.2g} to {flops.max():.2g} FLOPs; least loss with a store "
            + " ".join(f"{losses[at]:.2f}" for at in best)
            + ", alone "
            + " ".join(f"{one:.2f}" for one in alone),
        )

    return compute


def _fit_error(context: Context) -> Measured:
    law = store_law()
    assert law.rmse is not None
    named = ", ".join(f"{name} {value:.3g}" for name, value in law.named.items())
    return Measured(value=100 * law.rmse, detail=f"{law.points} points, {named}")


def _index_share(context: Context) -> Measured:
    del context
    store, train = build_flops(RETRIEVER_PARAMS, _STORE), 6 * _PARAMS * _TOKENS
    return Measured(
        value=100 * store / train,
        detail=f"{store:.3g} FLOPs to embed 1.4 T tokens, {train:.3g} to train 7 B on 2 T",
    )


_CLAIMS = (
    Claim(
        id="exact",
        text="Subsampling, filters and deduplication after one retrieval give what smaller stores "
        "would",
        where="section 3, appendix A",
    ),
    Claim(
        id="cheaper",
        text="Sharing index and retrieval makes the study about ten times cheaper",
        value=10,
        unit="times",
        where="section 3",
    ),
    Claim(
        id="monotone",
        text="Perplexity and knowledge tasks improve with the datastore's size, without an end",
        where="figures 1 and 3",
    ),
    Claim(
        id="smaller wins",
        text="A smaller model with the full datastore beats a larger one alone on knowledge tasks",
        setup="Llama-2 7B with 1.4 T tokens against Llama-2 13B",
        where="figure 1",
    ),
    Claim(
        id="compute",
        text="At equal training FLOPs, curves with retrieval lie below those of models alone",
        where="figure 4",
    ),
    Claim(
        id="index share",
        text="FLOPs of the index beside those of pretraining",
        value=0.4,
        unit="%",
        setup="1.4 T tokens, a retriever of 1.1e8 parameters; 7 B parameters on 2 T tokens",
        where="arithmetic on the numbers of section 4",
    ),
    Claim(
        id="reasoning",
        text="Gains are smaller on MMLU and MedQA",
        where="figure 3",
    ),
)

_CHECKS = (
    Check(
        claim="exact",
        title="200,000 chunks: eight shards merged are one index, bit for bit",
        how="run",
        band=AtLeast(1.0),
        compute=merged(rescored=True),
        unit="of queries",
        ablation=merged(rescored=False),
        ablation_title="single precision as the index gives it",
        slow=True,
    ),
    Check(
        claim="exact",
        title="a tenth of the store: chosen from the results as from a rebuilt store",
        how="run",
        band=AtLeast(0.999),
        compute=agreeing(0.1, "same"),
        unit="of queries",
        ablation=agreeing(0.1, "same", how="fresh"),
        ablation_title="a fresh draw a query",
        slow=True,
    ),
    Check(
        claim="exact",
        title="a hundredth of the store: the same",
        how="run",
        band=Between(0.995, 0.999),
        compute=agreeing(0.01, "same"),
        unit="of queries",
        ablation=agreeing(0.01, "same", how="last"),
        ablation_title="the last k filtered in place of the K",
        slow=True,
    ),
    Check(
        claim="exact",
        title="a hundredth of the store: queries whose flag is right",
        how="run",
        band=AtLeast(1.0),
        compute=agreeing(0.01, "flags"),
        unit="of queries",
        slow=True,
    ),
    Check(
        claim="cheaper",
        title="distances of a sweep over those of one retrieval",
        how="run",
        band=AtMost(1.3),
        compute=swept(shared=True),
        unit="times",
        ablation=swept(shared=False),
        ablation_title="every store rebuilt and searched",
        slow=True,
    ),
    Check(
        claim="monotone",
        title="tiny model: least gain from one size of store to the next, worst seed",
        how="run",
        band=AtLeast(0.0),
        compute=rise("step"),
        unit="points",
        slow=True,
    ),
    Check(
        claim="monotone",
        title="tiny model: gain from a hundredth of the store to all of it, worst seed",
        how="run",
        band=AtLeast(20.0),
        compute=rise("total"),
        unit="points",
        ablation=rise("total", search=False),
        ablation_title="chunks at random",
        slow=True,
    ),
    Check(
        claim="smaller wins",
        title="tiny model with the store against one four times larger without, worst seed",
        how="run",
        band=AtLeast(5.0),
        compute=against_larger(with_store=True),
        unit="points",
        ablation=against_larger(with_store=False),
        ablation_title="no store for either",
        slow=True,
    ),
    Check(
        claim="exact",
        title="planted quiz items: accuracy that decontamination takes away, worst seed",
        how="run",
        band=AtLeast(5.0),
        compute=leak(planted=True),
        unit="points",
        ablation=leak(planted=False),
        ablation_title="none planted",
        slow=True,
    ),
    Check(
        claim="smaller wins",
        title="retrieval-augmented prompts: the serving engine answers as the forward pass",
        how="run",
        band=AtLeast(0.995),
        compute=served,
        unit="of questions",
        slow=True,
    ),
    Check(
        claim="compute",
        title="tiny runs as measured: budgets whose best run has a store",
        how="run",
        band=AtLeast(1.0),
        compute=_envelope(1.0),
        unit="of budgets",
        ablation=_envelope(0.01),
        ablation_title="no more than a hundredth of the store",
    ),
    Check(
        claim="compute",
        title="law of the tiny runs: budgets whose best split has a store",
        how="run",
        band=AtLeast(1.0),
        compute=_frontier(store_counts=True),
        unit="of budgets",
        ablation=_frontier(store_counts=False),
        ablation_title="a store that is worth nothing",
    ),
    Check(
        claim="compute",
        title="law of the tiny runs: what it misses",
        how="run",
        band=Report(
            "no law of datastores is published to compare with; the form is ours, and these runs "
            "are no power law: size hardly matters, and the loss falls faster once a store states "
            "nearly every fact"
        ),
        compute=_fit_error,
        unit="% of the loss",
    ),
    Check(
        claim="compute",
        title="tiny runs: cells trained again against those stored",
        how="run",
        band=AtMost(2.0),
        compute=stored,
        unit="points",
        slow=True,
    ),
    Check(
        claim="index share",
        title="share of the index",
        how="derived",
        band=Within(0.1),
        compute=_index_share,
        unit="%",
    ),
)

SYSTEM = System(
    id="massiveds",
    title="MassiveDS: datastore size as a scaling axis",
    arxiv="2407.12854",
    family="scaling laws",
    summary=(
        "a model that retrieves improves with the size of what it retrieves from; one wide search "
        "stands for stores of every size, and a store costs little beside training"
    ),
    claims=_CLAIMS,
    rooms=("data/datastore.py", "data/retrieve.py", "laws/datastore.py"),
    checks=_CHECKS,
    not_reproduced={
        "reasoning": "needs models that reason; tiny models trained here only recall and read",
    },
)
