"""The fit of engine profiles: shared coefficients, engines that differ from them, small errors.

Every coefficient has a value all engines share and a deviation an engine, each with a prior
width: kernels' factors near 1, host and request costs near common values, deviations smaller than
what is shared. Without that, many rows of few models would be fitted, not engines: models and
systems left out are then predicted worse than with no fit at all. Rows of one (model, system,
engine, precision) count like a few independent ones. Errors are heavy-tailed (log of 1 + square).
The closed forms are the package's own, on tensors.
Leaves out: correlation of the errors of one row's TTFT and TPOT.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from plimsoll.cost.engine_factors import PARTS
from plimsoll.planning.closed_loop import (
    Admission,
    LoopLoad,
    LoopPieces,
    aggregated_times,
    disaggregated_times,
)
from plimsoll.planning.staggered_loop import staggered_first_token_s
from scripts.engine_rows import COUNTS, ENGINES, TIMES, FitRow

__all__ = ["BY_ENGINE", "COMMON", "Coefficients", "fit", "predict", "row_weights"]

BY_ENGINE: dict[str, tuple[float, float, float]] = {
    # name: (prior value, prior width of the shared value, of an engine's deviation), logs
    "dense": (1.0, 0.1, 0.05),
    "experts": (1.0, 0.1, 0.05),
    "attention": (1.0, 0.1, 0.08),
    "all_reduce": (1.0, 0.25, 0.1),
    "exchange": (1.0, 0.3, 0.2),
    "light": (1.0, 0.3, 0.15),
    "more_for_prompts": (0.1, 0.6, 0.5),
    "step_s": (5e-4, 0.6, 0.4),
    "sequence_s": (4e-6, 0.6, 0.4),
    "prompt_step_s": (1e-3, 0.8, 0.5),
    "fixed_s": (0.05, 0.5, 0.5),
    "expert_s": (0.03, 0.6, 0.4),
    "prompt_token_s": (2e-6, 0.6, 0.3),
    "admission_steps": (2.0, 0.3, 1.5),
    "rank_wait_steps": (5.0, 0.3, 1.2),
    "handover_s": (0.15, 0.7, 1.0),
}
COMMON: dict[str, tuple[float, float]] = {
    "more_across": (1.0, 1.0),
    "rank_overlap_odds": (3.0, 1.5),
    "more_accepted": (0.9, 0.4),
    "few_admission": (0.7, 0.3),
}
_N, _E = len(BY_ENGINE), len(ENGINES)
_TPOT_WIDTH, _TTFT_WIDTH, _TTFT_WEIGHT = 0.10, 0.20, 0.5
_ONLY_SGLANG_POLLS = 1
_PROMPT_SIDE = ("shared_prompt_s", "alone_s")
"""Pieces of the prefill workers where they are apart."""
Columns = dict[str, "torch.Tensor"]


def _prior() -> tuple[torch.Tensor, torch.Tensor]:
    means = [math.log(value) for value, _, _ in BY_ENGINE.values()]
    means += [0.0] * (_N * _E) + [math.log(value) for value, _ in COMMON.values()]
    widths = [shared for _, shared, _ in BY_ENGINE.values()]
    widths += [own for _, _, own in BY_ENGINE.values()] * _E
    widths += [width for _, width in COMMON.values()]
    return torch.tensor(means, dtype=torch.float64), torch.tensor(widths, dtype=torch.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficients:
    """The fitted vector, and the standard errors of its logs."""

    theta: torch.Tensor
    errors: torch.Tensor | None = None

    def by_engine(self, engine: int) -> dict[str, tuple[float, float]]:
        """name: (value, standard error)."""
        found = {}
        for i, name in enumerate(BY_ENGINE):
            own = _N * (1 + engine) + i
            value = float(torch.exp(self.theta[i] + self.theta[own]))
            spread = 0.0
            if self.errors is not None:
                spread = float(torch.sqrt(self.errors[i] ** 2 + self.errors[own] ** 2))
            found[name] = (value, value * min(spread, 3.0))
        return found

    def common(self) -> dict[str, tuple[float, float]]:
        """name: (value, standard error) of what engines share."""
        start = _N * (1 + _E)
        found = {}
        for i, name in enumerate(COMMON):
            value = float(torch.exp(self.theta[start + i]))
            spread = 0.0 if self.errors is None else float(self.errors[start + i])
            found[name] = (value, value * min(spread, 3.0))
        return found


def row_weights(rows: Sequence[FitRow], *, effective: float = 8.0) -> np.ndarray:
    """Weights: each kind of deployment counts as ``effective`` rows; guessed settings for less."""
    kinds = [
        (r.mode, r.model.replace("-V3", "-R1"), r.system, r.backend, r.precision, guessed > 0)
        for r, guessed in ((row.row, row.solved.settings.guessed) for row in rows)
    ]
    counts = Counter(kinds)
    return np.array(
        [
            min(1.0, effective / counts[kind]) * (0.3 if kind[5] and kind[0] == "disagg" else 1.0)
            for kind in kinds
        ]
    )


def tensors(columns: dict[str, np.ndarray]) -> Columns:
    """Columns as double tensors."""
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in columns.items()}


def basis_weights(own: Columns, across: torch.Tensor) -> torch.Tensor:
    """[rows, basis] weights of the basis clocks of ``engine_rows``, which see them in order."""
    more = own["more_for_prompts"]
    linked = ("all_reduce", "exchange")
    weights = []
    for part in PARTS:
        factor = own[part] * (across if part in linked else 1.0)
        weights += [factor * (1.0 - more), factor * more]
    weights += [own["step_s"], own["sequence_s"], own["prompt_step_s"]]
    return torch.stack(weights, dim=1)


def predict(theta: torch.Tensor, c: Columns) -> tuple[torch.Tensor, torch.Tensor]:
    """(TPOT, TTFT) in seconds of all rows."""
    engine = c["engine"].long()
    logs = theta[:_N] + theta[_N : _N * (1 + _E)].reshape(_E, _N)
    own = {name: torch.exp(logs[engine, i]) for i, name in enumerate(BY_ENGINE)}
    common = {name: torch.exp(theta[_N * (1 + _E) + i]) for i, name in enumerate(COMMON)}
    wide = basis_weights(own, 1.0 + c["across"] * common["more_across"])
    prompt_wide = basis_weights(own, 1.0 + c["prompt_across"] * common["more_across"])
    found = {
        name: (c["times"][:, :, i] * (prompt_wide if name in _PROMPT_SIDE else wide)).sum(dim=1)
        for i, name in enumerate(TIMES)
    }
    checked_s = (c["checked"] * wide).sum(dim=1)
    accepted = 1.0 + common["more_accepted"]
    weight = c["speculation"]
    found["token_s"] = torch.exp(
        (1.0 - weight) * torch.log(found["token_s"]) + weight * torch.log(checked_s / accepted)
    )
    found["step_s"] = found["token_s"] * accepted**weight
    ranked = (c["decode_ranks"] > 1).double()
    overlap = common["rank_overlap_odds"] / (1.0 + common["rank_overlap_odds"]) * ranked
    found["prompt_s"] = (1.0 - overlap) * found["prompt_s"] + overlap * found["shared_prompt_s"]
    pieces = LoopPieces(**found, **{name: c[name] for name in COUNTS})
    fixed_s = own["fixed_s"] + c["experts"] * own["expert_s"]
    fixed_s = fixed_s + own["prompt_token_s"] * c["prompt_tokens"]
    polls = (c["few"] * (engine == _ONLY_SGLANG_POLLS)).double()
    steps = own["admission_steps"] * torch.where(
        polls > 0, common["few_admission"], torch.ones_like(polls)
    )
    waits = torch.minimum(own["rank_wait_steps"], c["output_tokens"] / 4) * ranked
    load = LoopLoad(
        c["in_flight"],
        c["prompt_tokens"],
        c["output_tokens"],
        c["spread"],
        c["load_rounds"],
        c["apart_steps"],
    )
    admission = Admission(fixed_s, steps, waits)
    together_s = aggregated_times(load, pieces, admission, xp=torch).tpot_s
    first_s = staggered_first_token_s(load, pieces, together_s, admission, xp=torch)
    apart = disaggregated_times(load, pieces, Admission(fixed_s + own["handover_s"]), xp=torch)
    mixed = c["aggregated"] > 0
    return (
        torch.where(mixed, together_s, apart.tpot_s),
        torch.where(mixed, first_s, apart.ttft_s),
    )


def fit(
    c: Columns, weights: np.ndarray, *, prior: float = 1.5, with_errors: bool = False
) -> Coefficients:
    """The most likely coefficients; ``prior`` sharpens all priors alike."""
    means, widths = _prior()
    widths = widths / prior
    w = torch.tensor(weights, dtype=torch.float64)
    tpot_log, ttft_log = torch.log(c["tpot_s"]), torch.log(c["ttft_s"])

    def loss(z: torch.Tensor) -> torch.Tensor:
        tpot_s, ttft_s = predict(means + widths * z, c)
        tpot = torch.log1p(((torch.log(tpot_s) - tpot_log) / _TPOT_WIDTH) ** 2)
        ttft = torch.log1p(((torch.log(ttft_s) - ttft_log) / _TTFT_WIDTH) ** 2)
        return (w * (tpot + _TTFT_WEIGHT * ttft)).sum() + 0.5 * (z**2).sum()

    z = torch.zeros_like(means, requires_grad=True)
    search = torch.optim.LBFGS([z], max_iter=80, history_size=20, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        search.zero_grad()
        value = loss(z)
        value.backward()
        return value

    search.step(closure)
    found = z.detach()
    errors = None
    if with_errors:
        hessian = torch.autograd.functional.hessian(loss, found)
        inverse = torch.linalg.pinv(hessian + 1e-9 * torch.eye(len(found), dtype=torch.float64))
        errors = widths * torch.sqrt(torch.clamp(torch.diagonal(inverse), min=0.0))
    return Coefficients(theta=means + widths * found, errors=errors)
