"""Learning rate and batch size from parameters and tokens, and how much it costs to be off.

    lr = a·N^b·D^c        batch (tokens) = d·D^e, or d·N^f·D^e

N counts parameters without embeddings (of experts: all of them), D training tokens. Around the
best pair ln of the loss is a bowl, ½·δᵀHδ with δ = (δ ln lr, δ ln batch): wide, so that the
published coefficients are known far less well than the loss they give. A suggestion therefore
carries its plateau: a box in which the bowl costs at most a quarter of a percent.
Holds for a warm-up of 2,000 steps and a cosine down to a fixed 1e-5; a decay to a tenth of the peak
has another optimum. Leaves out: other optimizers, weight decay, very small models.
Source: arXiv 2503.04715. H is the mean over the 17 cells of its released sweep, fitted here to
points within 2 % of each minimum (spread over cells: 0.0027, 0.0015, 0.0014).
"""

from dataclasses import dataclass

import numpy as np

from plimsoll.laws.forms.contract import Floats
from plimsoll.spec.errors import InfeasibleError, SpecError

__all__ = ["STEP_LAW", "StepLaw", "Suggestion", "suggest"]

PLATEAU = 0.0025


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLaw:
    """Powers for the learning rate and for the batch in tokens.

    ``bowl``: (H_lr, H_batch, H_cross), all 0 if not known. ``params_box`` and ``tokens_box``: the
    ranges that the law was fitted on.
    """

    lr_factor: float
    lr_params: float
    lr_tokens: float
    batch_factor: float
    batch_tokens: float
    batch_params: float = 0.0
    bowl: tuple[float, float, float] = (0.0, 0.0, 0.0)
    params_box: tuple[float, float]
    tokens_box: tuple[float, float]
    source: str = ""

    def lr(self, params: Floats | float, tokens: Floats | float) -> Floats:
        """Peak learning rate."""
        log_n, log_d = np.log(params), np.log(tokens)
        found = np.log(self.lr_factor) + self.lr_params * log_n + self.lr_tokens * log_d
        return np.asarray(np.exp(found))

    def batch(self, params: Floats | float, tokens: Floats | float) -> Floats:
        """Tokens a step."""
        log_n, log_d = np.log(params), np.log(tokens)
        found = np.log(self.batch_factor) + self.batch_params * log_n + self.batch_tokens * log_d
        return np.asarray(np.exp(found))

    def excess(self, lr_ratio: float, batch_ratio: float) -> float:
        """ln of the loss over the least one, by the bowl, that many times off the best pair."""
        a, b = float(np.log(lr_ratio)), float(np.log(batch_ratio))
        h_lr, h_batch, cross = self.bowl
        return 0.5 * h_lr * a * a + 0.5 * h_batch * b * b + cross * a * b


STEP_LAW = StepLaw(
    lr_factor=1.79,
    lr_params=-0.713,
    lr_tokens=0.307,
    batch_factor=0.58,
    batch_tokens=0.571,
    bowl=(0.01327, 0.01195, -0.00491),
    params_box=(2.1466e8, 1.07374e9),
    tokens_box=(4e9, 1e11),
    source="arXiv 2503.04715",
)
"""As published."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """What to train with.

    ``best_batch_tokens`` is the law's; ``batch_tokens`` the nearest that the devices can be given,
    ``batch_sequences`` the same in sequences. ``lr_range`` and ``batch_range`` (tokens): within
    both the bowl costs at most ``plateau`` in ln of the loss; None if the law has no bowl.
    ``excess``: what rounding the batch costs by the bowl. ``outside``: by input, how many times
    beyond the law's box.
    """

    lr: float
    batch_tokens: int
    batch_sequences: int
    best_batch_tokens: float
    steps: int
    lr_range: tuple[float, float] | None
    batch_range: tuple[float, float] | None
    plateau: float
    excess: float
    outside: dict[str, float]
    source: str

    @property
    def in_box(self) -> bool:
        """Whether both inputs lie where the law was fitted."""
        return not self.outside


def suggest(
    params: float,
    tokens: float,
    *,
    seq_len: int,
    data_parallel: int = 1,
    micro_batch: int = 1,
    law: StepLaw = STEP_LAW,
    plateau: float = PLATEAU,
) -> Suggestion:
    """Learning rate and batch for a run; the batch is a multiple of ``data_parallel`` ranks times
    ``micro_batch`` sequences of ``seq_len`` tokens.

    Raises:
        SpecError: a count that cannot be, or fewer tokens than one step takes.
        InfeasibleError: one step of these ranks is beyond the plateau (twice the law's batch if
            the law has none).
    """
    for name, value in (("params", params), ("tokens", tokens), ("plateau", plateau)):
        if not (np.isfinite(value) and value > 0):
            raise SpecError(f"{name} is {value:g}; expected more than zero")
    for name, count in (
        ("sequence length", seq_len),
        ("data-parallel size", data_parallel),
        ("micro-batch", micro_batch),
    ):
        if count < 1:
            raise SpecError(f"{name} is {count}; expected 1 or more")
    lr, best = float(law.lr(params, tokens)), float(law.batch(params, tokens))
    unit = seq_len * data_parallel * micro_batch
    if unit > tokens:
        raise SpecError(
            f"one step of {data_parallel} x {micro_batch} sequences of {seq_len} takes {unit:,} "
            f"tokens, the whole run has {tokens:,.0f}; use fewer ranks or more tokens"
        )
    sides = _plateau_sides(law, plateau)
    widest = best * (sides[1] if sides else 2.0)
    if unit > widest:
        fits = max(1, int(widest // (seq_len * micro_batch)))
        raise InfeasibleError(
            f"one step of {data_parallel} ranks x {micro_batch} sequences of {seq_len} takes "
            f"{unit:,} tokens; the law's batch is {best:,.0f} and its plateau ends at "
            f"{widest:,.0f}",
            binding="the batch size beyond which the loss rises",
            nearest=f"{fits} data-parallel ranks",
            change="split the model over some of the ranks, or shorten the micro-batch",
        )
    batch = min(max(1, round(best / unit)), int(tokens // unit)) * unit
    return Suggestion(
        lr=lr,
        batch_tokens=batch,
        batch_sequences=batch // seq_len,
        best_batch_tokens=best,
        steps=max(1, round(tokens / batch)),
        lr_range=(lr / sides[0], lr * sides[0]) if sides else None,
        batch_range=(best / sides[1], best * sides[1]) if sides else None,
        plateau=plateau,
        excess=law.excess(1.0, batch / best),
        outside=_outside(law, params, tokens),
        source=law.source,
    )


def _plateau_sides(law: StepLaw, plateau: float) -> tuple[float, float] | None:
    """Factors (lr, batch) of the largest box, in the bowl's own proportions, all of whose corners
    cost at most ``plateau``."""
    h_lr, h_batch, cross = law.bowl
    if not (h_lr > 0 and h_batch > 0 and h_lr * h_batch > cross * cross):
        return None
    a, b = np.sqrt(2 * plateau / h_lr), np.sqrt(2 * plateau / h_batch)
    worst = 0.5 * h_lr * a * a + 0.5 * h_batch * b * b + abs(cross) * a * b
    shrink = np.sqrt(plateau / worst)
    return float(np.exp(a * shrink)), float(np.exp(b * shrink))


def _outside(law: StepLaw, params: float, tokens: float) -> dict[str, float]:
    found = {}
    for name, value, (low, high) in (
        ("params", params, law.params_box),
        ("tokens", tokens, law.tokens_box),
    ):
        if value > high * (1 + 1e-9):
            found[name] = value / high
        elif value < low * (1 - 1e-9):
            found[name] = value / low
    return found
