"""Forecasters of series trained from scratch: the cells of a sweep over sizes, data and seeds.

A run sees a fixed number of tokens (patches; those to be forecast count, for both architectures
alike) in batches of series from a pool that is generated, normalised by each context. AdamW, a
warm-up of 5 % of the steps and a linear fall to nothing. The learning rate is tuned for each size
and architecture: of half, one and two times 4e-3·(32/width)^½, and twice or half of the best as
long as that is the last tried, the one with the lowest loss on validation series after a quarter
of the tokens with a seed of its own. All runs look at validation series twelve times. On part of
the pool a run passes over it again and again, until three looks in a row were no better; the state
of its best look is kept, and only distinct tokens are data.
"""

import copy
import functools
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from plimsoll.data.series import SeriesSet, ar1, generate
from plimsoll.data.series_domains import OOD_DOMAINS, TRAIN_DOMAINS
from plimsoll.evals.series import score_series
from plimsoll.models.tsfm import (
    Floats,
    Forecast,
    TSConfig,
    TSDecoder,
    TSEncoder,
    cut_patches,
    forecast,
    init_series_model,
    instance_scale,
    non_embedding_params,
)

__all__ = [
    "ARCHITECTURES",
    "BATCH",
    "CONTEXT",
    "FORECAST",
    "PATCH",
    "SHARES",
    "TOKENS",
    "WIDTHS",
    "Cell",
    "CellRun",
    "Look",
    "Scored",
    "Trained",
    "ar1_excess",
    "config_of",
    "run_cell",
    "train",
    "tuned_rate",
]

Arch = Literal["encoder", "decoder"]
ARCHITECTURES: tuple[Arch, ...] = ("encoder", "decoder")
WIDTHS = (8, 16, 32, 64, 128)
"""Sizes 2,048 to 524,288 without embedding and head, each four times the last."""
PATCH = 16
CONTEXT = 8
FORECAST = 4
BATCH = 32
TOKENS = 320_000
SHARES = (1 / 64, 1 / 16, 1 / 4)
"""Of the pool, besides all of it, for the data axis."""
_PER_SERIES = CONTEXT + FORECAST
_TEST, _VALIDATION = 64, 32
_VALIDATION_SEED, _TEST_SEED, _TUNING_SEED = 9_001, 9_002, 9_003
_LOOKS, _PATIENCE = 12, 3
_PATHS = 4
_AR1_CONTEXT, _AR1_TEST = 24, 4_000
_GAPS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One run: ``share`` of the pool is its data, ``rate`` its highest learning rate."""

    arch: Arch
    width: int
    seed: int
    rate: float
    share: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What a run came to on a test set. ``next`` is the first patch after the context, which both
    architectures say from the same values; ``all`` the whole horizon; nats above the bound."""

    next_excess: Floats
    next_bound: float
    all_excess: Floats
    mape: float
    mase: float


@dataclass(frozen=True, slots=True)
class Look:
    """Nats above the bound on validation series, first patch after the context, at ``tokens``."""

    tokens: int
    excess: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A model and how it came along."""

    model: TSEncoder | TSDecoder
    looks: tuple[Look, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRun:
    """``params`` without embedding and head; ``scores`` on "id" and "ood"."""

    cell: Cell
    params: int
    data_tokens: int
    seen_tokens: int
    looks: tuple[Look, ...]
    scores: dict[str, Scored]


def config_of(width: int) -> TSConfig:
    """Two layers, heads 16 wide (one of 8 at the smallest)."""
    return TSConfig(width=width, heads=max(1, width // 16), patch=PATCH)


def _pool_size(tokens: int) -> int:
    """Series a domain."""
    return -(-tokens // (_PER_SERIES * len(TRAIN_DOMAINS)))


def _length() -> int:
    return _PER_SERIES * PATCH


@functools.lru_cache(maxsize=2)
def _pool(seed: int) -> SeriesSet:
    return generate(
        tuple(TRAIN_DOMAINS),
        seed,
        num=_pool_size(TOKENS),
        length=_length(),
        leads=FORECAST * PATCH,
        gaps=_GAPS,
    )


@functools.cache
def _held(kind: Literal["validation", "id", "ood"]) -> SeriesSet:
    domains = tuple(OOD_DOMAINS) if kind == "ood" else tuple(TRAIN_DOMAINS)
    each = _VALIDATION if kind == "validation" else _TEST
    return generate(
        domains,
        _VALIDATION_SEED if kind == "validation" else _TEST_SEED,
        num=each * len(TRAIN_DOMAINS) // len(domains),
        length=_length(),
        leads=FORECAST * PATCH,
        gaps=_GAPS,
    )


def _windows(series: SeriesSet, *, leak: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """(patches, seen) normalised by the context alone, unless the future is to leak."""
    mean, scale = instance_scale(series.values if leak else series.context)
    return cut_patches((series.values - mean) / scale, PATCH)


def _loss(
    model: TSEncoder | TSDecoder, window: torch.Tensor, seen: torch.Tensor, num_context: int
) -> torch.Tensor:
    """Mean NLL of the known points of the patches after the context."""
    said = model.teach(window, seen, num_context)
    there = seen[:, num_context:]
    nll = -said.log_prob(window[:, num_context:])
    return (nll * there).sum() / there.sum()


@torch.inference_mode()
def _excess(model: TSEncoder | TSDecoder, series: SeriesSet) -> float:
    """Nats above the bound of the first patch after the context."""
    window, seen = _windows(series)
    num_context = series.context.shape[1] // PATCH
    said = model.teach(window, seen, num_context)
    density = said.log_prob(window[:, num_context:])[:, 0]
    scale = instance_scale(series.context)[1]
    bound = series.bound_nats[:, :PATCH] - np.log(scale)
    return float(-density.double().mean() - bound.mean())


def train(
    arch: Arch,
    width: int,
    pool: SeriesSet,
    *,
    seed: int,
    rate: float,
    tokens: int,
    watch: SeriesSet,
    keep_best: bool = False,
    leak: bool = False,
) -> Trained:
    """A model after ``tokens``, or with ``keep_best`` its state at the best look at ``watch``."""
    gen = torch.Generator().manual_seed(seed)
    model = (TSEncoder if arch == "encoder" else TSDecoder)(config_of(width))
    init_series_model(model, gen)
    window, seen = _windows(pool, leak=leak)
    num_context = pool.context.shape[1] // PATCH
    a_step = BATCH * window.shape[1]
    steps = max(1, tokens // a_step)
    adam = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01, fused=True)
    warm = max(1, steps // 20)
    looks_at = {round(steps * (look + 1) / _LOOKS) for look in range(_LOOKS)}
    looks: list[Look] = []
    kept = None
    order = torch.empty(0, dtype=torch.long)
    for step in range(1, steps + 1):
        while len(order) < BATCH:
            order = torch.cat([order, torch.randperm(len(window), generator=gen)])
        rows, order = order[:BATCH], order[BATCH:]
        fall = min(step / warm, (steps - step + 1) / max(1, steps - warm))
        adam.param_groups[0]["lr"] = rate * min(1.0, fall)
        loss = _loss(model, window[rows], seen[rows], num_context)
        adam.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        if step in looks_at:
            found = _excess(model, watch)
            if keep_best and found < min((look.excess for look in looks), default=np.inf):
                kept = copy.deepcopy(model.state_dict())
            looks.append(Look(step * a_step, found))
            since = len(looks) - 1 - int(np.argmin([look.excess for look in looks]))
            if keep_best and since >= _PATIENCE:
                break
    if kept is not None:
        model.load_state_dict(kept)
    return Trained(model=model.eval(), looks=tuple(looks))


def tuned_rate(arch: Arch, width: int) -> tuple[float, dict[float, float]]:
    """The learning rate of a size, and the losses of all that were tried; see the module text."""
    found: dict[float, float] = {}

    def best() -> float:
        return min(found, key=lambda rate: found[rate])

    wanted = [float(f"{times * 4e-3 * (32 / width) ** 0.5:.2g}") for times in (0.5, 1.0, 2.0)]
    while wanted:
        for rate in wanted:
            trained = train(
                arch,
                width,
                _pool(_TUNING_SEED),
                seed=_TUNING_SEED,
                rate=rate,
                tokens=TOKENS // 4,
                watch=_held("validation"),
            )
            loss = trained.looks[-1].excess
            found[rate] = loss if np.isfinite(loss) else float("inf")
        at = best()
        wanted = [2 * at] if at == max(found) else [0.5 * at] if at == min(found) else []
    return best(), found


def run_cell(cell: Cell) -> CellRun:
    """Train a cell here and score it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        pool = _pool(cell.seed)
        part = pool.first(round(cell.share * len(pool)))
        trained = train(
            cell.arch,
            cell.width,
            part,
            seed=cell.seed,
            rate=cell.rate,
            tokens=TOKENS,
            watch=_held("validation"),
            keep_best=cell.share < 1,
        )
        return CellRun(
            cell=cell,
            params=non_embedding_params(trained.model),
            data_tokens=min(TOKENS, len(part) * _PER_SERIES),
            seen_tokens=TOKENS if cell.share == 1 else trained.looks[-1].tokens,
            looks=trained.looks,
            scores={kind: _scored(trained.model, _held(kind)) for kind in ("id", "ood")},
        )
    finally:
        torch.set_num_threads(threads)


def _scored(model: TSEncoder | TSDecoder, test: SeriesSet) -> Scored:
    def say(context: Floats, horizon: int) -> Forecast:
        return forecast(model, context, horizon, paths=_PATHS)

    near = score_series(say, test.context, test.future[:, :PATCH], test.bound_nats[:, :PATCH])
    far = score_series(say, test.context, test.future, test.bound_nats)
    return Scored(
        next_excess=near.excess,
        next_bound=near.bound,
        all_excess=far.excess,
        mape=far.mape,
        mase=far.mase,
    )


def ar1_excess(arch: Arch, seed: int, *, leak: bool = False, tokens: int = 600_000) -> Floats:
    """NLL above the analytic entropy of AR(1) (phi 0.7), nats a point of the patch after 24 known
    ones, one a test series; a model of 32,768 parameters trained on nothing else.

    ``leak``: mean and scale are taken of the whole window, as they must not be.
    """
    length = (_AR1_CONTEXT + 1) * PATCH
    made = functools.partial(ar1, length=length, leads=PATCH, phi=0.7, std=1.0)
    pool = made(seed, num=-(-tokens // (_AR1_CONTEXT + 1)))
    test = made(_TEST_SEED, num=_AR1_TEST)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = train(
            arch, 32, pool, seed=seed, rate=4e-3, tokens=tokens, watch=test.first(200), leak=leak
        ).model
    finally:
        torch.set_num_threads(threads)
    mean, scale = instance_scale(test.values if leak else test.context)
    window, seen = cut_patches((test.values - mean) / scale, PATCH)
    with torch.inference_mode():
        said = model.teach(window, seen, _AR1_CONTEXT)
        density = said.log_prob(window[:, _AR1_CONTEXT:])[:, 0].double().numpy()
    bound = test.bound_nats[:, :PATCH] - np.log(scale)
    excess: Floats = (-density - bound).mean(axis=1)
    return excess
