"""MassiveDS: the size of a datastore as a scaling axis.

Mechanism in ``data/datastore.py`` (exact search over shards), ``data/retrieve.py`` (everything
else as choices from one wide retrieval) and ``laws/datastore.py`` (a store against parameters and
tokens). Exactness and cost are measured on 200,000 chunks; what a store is worth on tiny language
models trained here, whose answers come from memory or from what was retrieved. The paper has no
table of points, so the law is fitted to runs of those models, kept with their provenance.
Source: arXiv 2407.12854.
"""

from collections.abc import Callable
from types import ModuleType

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
from plimsoll.catalog.massiveds_runs import StoreRow, read_store_runs, store_law
from plimsoll.catalog.massiveds_setting import (
    CHUNKS,
    QUERIES,
    SHARDS,
    WIDE,
    searched,
    single_precision,
)
from plimsoll.data.datastore import Datastore, Hits
from plimsoll.data.retrieve import (
    Decontaminate,
    Selected,
    Subsample,
    draws,
    postprocess,
    shortfall,
    sweep,
)
from plimsoll.laws.datastore import RETRIEVER_PARAMS, build_flops, compute_optimal
from plimsoll.spec.errors import UnsupportedError

__all__ = ["SYSTEM"]

Compute = Callable[[Context], Measured]

_K = 3
_SWEPT = (0.003, 0.01, 0.03, 0.1, 0.3, 0.5, 1.0)
_SWEPT_QUERIES = 100
_FRACTIONS = (0.01, 0.03, 0.1, 0.3, 1.0)
_LEAKED, _LEAK_FRACTION = 0.3, 0.1
_PARAMS, _TOKENS, _STORE = 7e9, 2e12, 1.4e12


def _merged(rescored: bool) -> Compute:
    """Share of queries whose top K, scores included, are the same bits in shards and whole."""

    def compute(context: Context) -> Measured:
        one = searched(context.seeds[0])
        many, whole = (one.sharded, one.single) if rescored else single_precision(one)
        same = (many.chunks == whole.chunks).all(axis=1) & (
            many.scores.view(np.int64) == whole.scores.view(np.int64)
        ).all(axis=1)
        ties = int((np.diff(whole.scores, axis=1) == 0).sum())
        return Measured(
            value=float(same.mean()),
            detail=f"{CHUNKS:,} chunks, {SHARDS} shards, {QUERIES:,} queries, K = {WIDE:,}; "
            f"{ties:,} neighbors with equal scores",
        )

    return compute


def _agreeing(fraction: float, what: str, how: str = "hash") -> Compute:
    """``what`` "same": share of queries that get what a rebuilt smaller store gives; "flags": share
    whose flag says whether they do. ``how``: "hash" of chunk ids, a "fresh" draw a query, or the
    "last" k filtered in place of the K."""

    def compute(context: Context) -> Measured:
        one = searched(context.seeds[0])
        values, lines = [], []
        for seed in context.seeds:
            keep = draws(one.store.ids, seed) < fraction
            smaller = one.store.kept(keep)
            rebuilt = np.flatnonzero(keep)[smaller.search(one.queries, _K).chunks]
            found = _chosen(one.sharded, one.store, fraction, seed, how)
            same = np.array(
                [list(a) == b for a, b in zip(found.chunks, rebuilt.tolist(), strict=True)]
            )
            values.append(float((same != found.short).mean() if what == "flags" else same.mean()))
            lines.append(f"{int(found.short.sum())} flagged, {int((~same).sum())} differ")
        expected = QUERIES * shortfall(WIDE, fraction, _K)
        return Measured(
            value=float(np.mean(values)),
            values=tuple(values),
            detail=f"p = {fraction:g}, k = {_K} of K = {WIDE:,}, {QUERIES:,} queries a seed: "
            f"{'; '.join(lines)}; the binomial tail expects {expected:.3g}",
        )

    return compute


def _chosen(hits: Hits, store: Datastore, fraction: float, seed: int, how: str) -> Selected:
    if how == "hash":
        rule = Subsample(fraction=fraction, seed=seed)
        return postprocess(hits, store, subsample=rule, k=_K)
    if how == "last":
        last = Hits(chunks=hits.chunks[:, :_K], scores=hits.scores[:, :_K], distances=0)
        return postprocess(last, store, subsample=Subsample(fraction=fraction, seed=seed), k=_K)
    kept = np.random.default_rng(seed).random(hits.chunks.shape) < fraction
    chosen = tuple(
        tuple(row[mask][:_K].tolist()) for row, mask in zip(hits.chunks, kept, strict=True)
    )
    survivors = kept.sum(axis=1)
    return Selected(chunks=chosen, survivors=survivors, short=survivors < _K)


def _swept(shared: bool) -> Compute:
    """Distances of a sweep over those of one retrieval, both for the same queries."""

    def compute(context: Context) -> Measured:
        one = searched(context.seeds[0])
        queries = one.queries[:_SWEPT_QUERIES]
        wide = one.store.search(queries, WIDE)
        sweep(wide, one.store, _SWEPT, context.seeds, k=_K)
        rebuilt = 0
        for seed in context.seeds:
            drawn = draws(one.store.ids, seed)
            for fraction in _SWEPT:
                smaller = one.store.kept(drawn < fraction)
                rebuilt += smaller.search(queries, _K).distances
        once = _SWEPT_QUERIES * CHUNKS
        ours, naive = wide.distances / once, rebuilt / once
        return Measured(
            value=ours if shared else naive,
            detail=f"{len(_SWEPT)} fractions x {len(context.seeds)} seeds, {_SWEPT_QUERIES} "
            f"queries over {CHUNKS:,} chunks: {wide.distances:,} distances in one search of the "
            f"shards, {rebuilt:,} in stores rebuilt one by one, {naive / ours:.1f} times as many",
        )

    return compute


def _real() -> ModuleType:
    try:
        from plimsoll.catalog import massiveds_real as found
    except ImportError as error:
        raise UnsupportedError(f"needs {error.name}; install plimsoll[torch]") from None
    return found


def _accuracies(seed: int, *, search: bool = True) -> list[float]:
    """Of the small model, at each fraction of the store; without ``search``, chunks at random."""
    real = _real()
    world, (store, wide, stands) = real.world_of(seed), real.searched(seed)
    if not search:
        chunks = np.random.default_rng(seed).integers(0, len(store), wide.chunks.shape)
        wide = Hits(chunks=chunks, scores=wide.scores, distances=0)
    filters = {"dedupe": stands, "decontaminate": Decontaminate(held_out=world.quiz)}
    found = sweep(wide, store, _FRACTIONS, (seed,), k=_K, **filters)
    small = real.models(real.SMALL, seed)[-1]
    return [
        real.score(small, world, store, found[fraction, seed].chunks).accuracy
        for fraction in _FRACTIONS
    ]


def _rise(what: str, search: bool = True) -> Compute:
    """``what`` "step": the least gain from one fraction to the next; "total": from first to last;
    percentage points, of the worst seed."""

    def compute(context: Context) -> Measured:
        values, lines = [], []
        for seed in context.seeds:
            accuracy = 100 * np.array(_accuracies(seed, search=search))
            steps = np.diff(accuracy)
            values.append(float(steps.min() if what == "step" else steps.sum()))
            lines.append(" ".join(f"{one:.1f}" for one in accuracy))
        real = _real()
        small = real.models(real.SMALL, context.seeds[0])[-1]
        return Measured(
            value=min(values),
            values=tuple(values),
            detail=f"{small.num_params:,} parameters, 30 of 300 facts learned; % right with "
            f"{', '.join(f'{p:g}' for p in _FRACTIONS)} of the store: {'; '.join(lines)}",
        )

    return compute


def _against_larger(with_store: bool) -> Compute:
    """Points by which the small model beats the large one alone, worst seed."""

    def compute(context: Context) -> Measured:
        real = _real()
        values, lines = [], []
        for seed in context.seeds:
            world = real.world_of(seed)
            small, large = (real.models(width, seed)[-1] for width in (real.SMALL, real.LARGE))
            alone = real.score(large, world)
            bare = real.score(small, world)
            helped = 100 * _accuracies(seed)[-1] if with_store else 100 * bare.accuracy
            values.append(helped - 100 * alone.accuracy)
            lines.append(
                f"{helped:.1f} % against {100 * alone.accuracy:.1f} %"
                f" (the small one alone {100 * bare.accuracy:.1f} %)"
            )
        return Measured(
            value=min(values),
            values=tuple(values),
            detail=f"{small.num_params:,} against {large.num_params:,} parameters, the same 30 of "
            f"300 facts and steps: {'; '.join(lines)}",
        )

    return compute


def _leak(planted: bool) -> Compute:
    """Points of accuracy that a store's copies of the quiz are worth: found as the difference that
    decontamination makes. Worst seed if planted, largest if not."""

    def compute(context: Context) -> Measured:
        real = _real()
        values, lines = [], []
        for seed in context.seeds:
            world = real.world_of(seed)
            store, wide, stands = real.searched(seed, _LEAKED if planted else 0.0)
            small = real.models(real.SMALL, seed)[-1]
            kept = draws(store.ids, seed) < _LEAK_FRACTION
            kept |= [one.startswith("quiz") for one in store.ids]  # every store has the leaks
            hits = Hits(
                chunks=np.where(kept[wide.chunks], wide.chunks, -1),
                scores=wide.scores,
                distances=wide.distances,
            )
            accuracy, shown = [], []
            for rule in (None, Decontaminate(held_out=world.quiz)):
                found = postprocess(hits, store, dedupe=stands, decontaminate=rule, k=_K)
                accuracy.append(100 * real.score(small, world, store, found.chunks).accuracy)
                shown.append(
                    sum(
                        f"quiz{person}#0" in {store.ids[c] for c in row}
                        for person, row in enumerate(found.chunks)
                    )
                )
            values.append(accuracy[0] - accuracy[1])
            lines.append(
                f"{accuracy[0]:.1f} % with {shown[0]} items shown to their question, "
                f"{accuracy[1]:.1f} % with {shown[1]}"
            )
        return Measured(
            value=min(values) if planted else max(values),
            values=tuple(values),
            detail=f"{_LEAK_FRACTION:g} of the store and the quiz items of "
            f"{100 * _LEAKED if planted else 0:.0f} % of the questions; decontamination off, on: "
            f"{'; '.join(lines)}",
        )

    return compute


def _served(context: Context) -> Measured:
    """Share of questions that the serving engine answers as the forward pass does."""
    real = _real()
    seed = context.seeds[0]
    world, (store, wide, stands) = real.world_of(seed), real.searched(seed)
    small = real.models(real.SMALL, seed)[-1]
    chosen = postprocess(wide, store, dedupe=stands, k=_K).chunks
    plain = real.score(small, world, store, chosen)
    served = real.answers_served(small, world, store, chosen)
    wanted = [world.vocabulary[town] for town in world.answers]
    right = np.array(served) == np.array(wanted)
    alone = real.score(small, world)
    return Measured(
        value=float((right == plain.right).mean()),
        detail=f"{len(served)} questions, {_K} chunks each; {100 * right.mean():.1f} % right; "
        f"prompts of {plain.prompt_tokens:.1f} tokens instead of {alone.prompt_tokens:.1f}, all "
        "read by the model",
    )


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


def _stored(context: Context) -> Measured:
    """Largest difference of accuracy, in points, between cells trained again and those stored."""
    real = _real()
    runs = read_store_runs()
    seed = context.seeds[0]
    rows = [r for r in runs.rows if r.seed == seed and r.width == real.SMALL]
    off = []
    for row in rows:
        one = next(m for m in real.models(real.SMALL, seed) if m.steps == row.steps)
        again = real.cell(one, seed, row.fraction)
        off.append(100 * abs(again.accuracy - row.accuracy))
    return Measured(
        value=max(off),
        detail=f"{len(off)} of {len(runs.rows)} cells; the table is of {runs.made_with}",
    )


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
        compute=_merged(rescored=True),
        unit="of queries",
        ablation=_merged(rescored=False),
        ablation_title="single precision as the index gives it",
        slow=True,
    ),
    Check(
        claim="exact",
        title="a tenth of the store: chosen from the results as from a rebuilt store",
        how="run",
        band=AtLeast(0.999),
        compute=_agreeing(0.1, "same"),
        unit="of queries",
        ablation=_agreeing(0.1, "same", how="fresh"),
        ablation_title="a fresh draw a query",
        slow=True,
    ),
    Check(
        claim="exact",
        title="a hundredth of the store: the same",
        how="run",
        band=Between(0.995, 0.999),
        compute=_agreeing(0.01, "same"),
        unit="of queries",
        ablation=_agreeing(0.01, "same", how="last"),
        ablation_title="the last k filtered in place of the K",
        slow=True,
    ),
    Check(
        claim="exact",
        title="a hundredth of the store: queries whose flag is right",
        how="run",
        band=AtLeast(1.0),
        compute=_agreeing(0.01, "flags"),
        unit="of queries",
        slow=True,
    ),
    Check(
        claim="cheaper",
        title="distances of a sweep over those of one retrieval",
        how="run",
        band=AtMost(1.3),
        compute=_swept(shared=True),
        unit="times",
        ablation=_swept(shared=False),
        ablation_title="every store rebuilt and searched",
        slow=True,
    ),
    Check(
        claim="monotone",
        title="tiny model: least gain from one size of store to the next, worst seed",
        how="run",
        band=AtLeast(0.0),
        compute=_rise("step"),
        unit="points",
        slow=True,
    ),
    Check(
        claim="monotone",
        title="tiny model: gain from a hundredth of the store to all of it, worst seed",
        how="run",
        band=AtLeast(20.0),
        compute=_rise("total"),
        unit="points",
        ablation=_rise("total", search=False),
        ablation_title="chunks at random",
        slow=True,
    ),
    Check(
        claim="smaller wins",
        title="tiny model with the store against one four times larger without, worst seed",
        how="run",
        band=AtLeast(5.0),
        compute=_against_larger(with_store=True),
        unit="points",
        ablation=_against_larger(with_store=False),
        ablation_title="no store for either",
        slow=True,
    ),
    Check(
        claim="exact",
        title="planted quiz items: accuracy that decontamination takes away, worst seed",
        how="run",
        band=AtLeast(5.0),
        compute=_leak(planted=True),
        unit="points",
        ablation=_leak(planted=False),
        ablation_title="none planted",
        slow=True,
    ),
    Check(
        claim="smaller wins",
        title="retrieval-augmented prompts: the serving engine answers as the forward pass",
        how="run",
        band=AtLeast(0.995),
        compute=_served,
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
        compute=_stored,
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
