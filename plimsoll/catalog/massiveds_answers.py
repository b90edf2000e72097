"""What a store is worth to tiny language models: what the checks of MassiveDS measure on them.

Models, worlds and searches are those of ``catalog/massiveds_real.py``, which needs torch. Values
are of the worst seed, so that a check speaks for all of them.
"""

from collections.abc import Callable
from types import ModuleType

import numpy as np

from plimsoll.catalog.contract import Context, Measured
from plimsoll.catalog.massiveds_runs import read_store_runs
from plimsoll.data.datastore import Hits
from plimsoll.data.retrieve import Decontaminate, draws, postprocess, sweep
from plimsoll.spec.errors import UnsupportedError

__all__ = ["against_larger", "leak", "rise", "served", "stored"]

Compute = Callable[[Context], Measured]

_K = 3
_FRACTIONS = (0.01, 0.03, 0.1, 0.3, 1.0)
_LEAKED, _LEAK_FRACTION = 0.3, 0.1


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


def rise(what: str, search: bool = True) -> Compute:
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


def against_larger(with_store: bool) -> Compute:
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


def leak(planted: bool) -> Compute:
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


def served(context: Context) -> Measured:
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


def stored(context: Context) -> Measured:
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
