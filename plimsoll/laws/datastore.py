"""A datastore against parameters and tokens: where the next FLOP does most.

Training costs 6·N·D, building a store of S tokens one pass of the retriever over it, 2·N_r·S:
beside a model's training a small sum (for 7 B parameters on 2 T tokens, 1.4 T tokens embedded with
1.1e8 parameters are 0.4 %). What a store costs later is counted apart, an answer: retrieved text
is read by the model, 2·N a token, and a flat search computes S's every distance.
Leaves out: disks and memory that hold the store; retrievers that are trained for it.
Source: arXiv 2407.12854, sections 3 and 4.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from plimsoll.laws.allocate import budget_text
from plimsoll.laws.forms.contract import Floats
from plimsoll.laws.law import Law
from plimsoll.spec.errors import InfeasibleError, SpecError

__all__ = [
    "RETRIEVER_PARAMS",
    "AnswerCost",
    "StoreAllocation",
    "StorePoint",
    "answer_cost",
    "build_flops",
    "compute_optimal",
    "size_alone",
    "sweep",
]

RETRIEVER_PARAMS = 1.1e8
"""Of the encoder in arXiv 2407.12854 (Contriever), as its section 4 counts it."""

_POINTS = 301
_ZOOMS = 5
_LEAST_STORE = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreAllocation:
    """``params``, ``tokens`` and ``datastore`` (tokens) of least ``loss`` for ``flops`` in all,
    ``store_flops`` of them to build the store. ``edge``: the limits the answer stands at, "" for
    a true minimum."""

    params: float
    tokens: float
    datastore: float
    loss: float
    flops: float
    store_flops: float
    edge: str

    @property
    def store_fraction(self) -> float:
        """Of the FLOPs."""
        return self.store_flops / self.flops


@dataclass(frozen=True, slots=True, kw_only=True)
class StorePoint:
    """A model with ``fraction`` of its store: ``datastore`` tokens, ``loss``, FLOPs to build."""

    fraction: float
    datastore: float
    loss: float
    store_flops: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerCost:
    """FLOPs of one answer: ``reading`` the question and writing, ``retrieved`` text read, and the
    ``search``."""

    reading: float
    retrieved: float
    search: float

    @property
    def total(self) -> float:
        """All three."""
        return self.reading + self.retrieved + self.search


def build_flops(retriever_params: float, datastore_tokens: float) -> float:
    """One forward pass of the retriever over the store."""
    return 2 * retriever_params * datastore_tokens


def answer_cost(
    params: float,
    *,
    tokens: float,
    retrieved_tokens: float,
    chunks: float = 0.0,
    dim: int = 768,
) -> AnswerCost:
    """Of ``tokens`` of question and answer with ``retrieved_tokens`` before them, from a flat
    index of ``chunks`` vectors."""
    return AnswerCost(
        reading=2 * params * tokens,
        retrieved=2 * params * retrieved_tokens,
        search=2.0 * dim * chunks,
    )


def _check(law: Law, **numbers: float) -> None:
    if law.form.inputs != ("params", "tokens", "datastore"):
        raise SpecError(
            f"{law.form.name} has inputs {', '.join(law.form.inputs)}; a datastore is weighed by a "
            "law of params, tokens and datastore: fit one with --form datastore"
        )
    for name, value in numbers.items():
        if not value > 0:
            raise SpecError(f"{name.replace('_', ' ')} is {value:g}; expected more than 0")


def compute_optimal(
    law: Law,
    flops: float,
    *,
    retriever_params: float = RETRIEVER_PARAMS,
    most_tokens: float = float("inf"),
    stretch: float = 10.0,
) -> StoreAllocation:
    """The best split of ``flops`` among size, tokens and a store of up to ``most_tokens`` (0: a
    model alone). Each lies within the runs' range, ``stretch`` times wider.

    Raises:
        SpecError: a law without a datastore, or numbers that cannot be.
        InfeasibleError: no size in the box leaves tokens in the box.
    """
    _check(law, flops=flops, retriever_params=retriever_params, stretch=stretch)
    if stretch < 1 or not most_tokens >= 0 or not np.isfinite(flops):
        raise SpecError(
            f"flops {flops:g}, stretch {stretch:g}, most tokens {most_tokens:g}; expected a finite "
            "budget, 1 or more and 0 or more"
        )
    n_low, n_high = law.box["params"][0] / stretch, law.box["params"][1] * stretch
    d_low, d_high = law.box["tokens"][0] / stretch, law.box["tokens"][1] * stretch
    s_high = min(law.box["datastore"][1] * stretch, most_tokens)
    sizes, stores = _grid(n_low, n_high), _stores(_LEAST_STORE * s_high, s_high)
    best = (n_low, 0.0)
    for _ in range(_ZOOMS):
        n, s = (part.ravel() for part in np.meshgrid(sizes, stores, indexing="ij"))
        d = (flops - build_flops(retriever_params, 1.0) * s) / (6 * n)
        keep = np.flatnonzero((d >= d_low * (1 - 1e-9)) & (d <= d_high * (1 + 1e-9)))
        if not len(keep):
            raise InfeasibleError(
                f"{budget_text(flops)} FLOPs: no size from {n_low:.3g} to {n_high:.3g} leaves "
                f"{d_low:.3g} to {d_high:.3g} tokens",
                binding=f"the fit's box, stretched {stretch:g} times",
                change="fit runs nearer to this budget, or stretch the box further",
            )
        x = {"params": n[keep], "tokens": d[keep], "datastore": s[keep]}
        at = keep[int(np.argmin(law.form.log_loss(law.theta, x)))]
        best = float(n[at]), float(s[at])
        sizes = _nearer(sizes, best[0])
        stores = _nearer(stores, best[1]) if best[1] > 0 else stores[:1]
    size, store = best
    tokens = (flops - build_flops(retriever_params, store)) / (6 * size)
    point = {"params": size, "tokens": tokens, "datastore": store}
    edges = [
        f"the {'largest' if np.isclose(value, high, rtol=1e-3) else 'smallest'} {what} allowed, "
        f"{value:.3g}"
        for what, value, low, high in (
            ("size", size, n_low, n_high),
            ("number of tokens", tokens, d_low, d_high),
            ("datastore", store, 0.0, s_high),
        )
        if np.isclose(value, high, rtol=1e-3) or (low and np.isclose(value, low, rtol=1e-3))
        if s_high or what != "datastore"
    ]
    return StoreAllocation(
        params=size,
        tokens=tokens,
        datastore=store,
        loss=float(law.predict({k: np.array([v]) for k, v in point.items()})[0]),
        flops=flops,
        store_flops=build_flops(retriever_params, store),
        edge=" and ".join(edges),
    )


def _grid(low: float, high: float) -> Floats:
    found = np.exp(np.linspace(np.log(low), np.log(high), _POINTS))
    found[0], found[-1] = low, high
    return found


def _stores(low: float, high: float) -> Floats:
    """None, and some."""
    return np.append(0.0, _grid(low, high)) if high > 0 else np.zeros(1)


def _nearer(values: Floats, best: float) -> Floats:
    """Between the neighbors of the best one; no store stays at hand."""
    some = values[values > 0]
    at = int(np.argmin(np.abs(some - best)))
    low, high = some[max(0, at - 1)], some[min(len(some) - 1, at + 1)]
    nearer = _grid(float(low), float(high))
    return np.append(0.0, nearer) if values[0] == 0 else nearer


def sweep(
    law: Law,
    *,
    params: float,
    tokens: float,
    datastore: float,
    fractions: Sequence[float],
    retriever_params: float = RETRIEVER_PARAMS,
) -> tuple[StorePoint, ...]:
    """One model with each of ``fractions`` of its store, 0 for none.

    Raises:
        SpecError: as ``compute_optimal``, or a fraction outside [0, 1].
    """
    _check(law, params=params, tokens=tokens, retriever_params=retriever_params)
    share = np.array(fractions, dtype=float)
    if not len(share) or not ((share >= 0) & (share <= 1)).all():
        raise SpecError(f"fractions {list(fractions)}; expected some, each from 0 to 1")
    x = {
        "params": np.full(len(share), params),
        "tokens": np.full(len(share), tokens),
        "datastore": share * datastore,
    }
    return tuple(
        StorePoint(
            fraction=float(part),
            datastore=float(part * datastore),
            loss=float(loss),
            store_flops=build_flops(retriever_params, float(part * datastore)),
        )
        for part, loss in zip(share, law.predict(x), strict=True)
    )


def size_alone(law: Law, loss: float, *, tokens: float, most_params: float) -> float:
    """Parameters at which a model alone, on as many tokens, has this loss; inf if none up to
    ``most_params`` has."""
    _check(law, loss=loss, tokens=tokens, most_params=most_params)
    sizes = _grid(1.0, most_params)
    x = {
        "params": sizes,
        "tokens": np.full(len(sizes), tokens),
        "datastore": np.zeros(len(sizes)),
    }
    losses = law.predict(x)
    if losses[-1] > loss:
        return float("inf")
    return float(np.exp(np.interp(-np.log(loss), -np.log(losses), np.log(sizes))))
