"""What to buy at test time: a larger model, more trials, longer ones, or a sparser cache.

Measured generations (length and grade of T trials a question) are enough to know the accuracy of
n trials within L tokens, for every n up to T and every L: pass@n by the unbiased estimator, or
the majority's answer. What they cost is averaged over the same lengths, since cost grows with
the square. The frontier is the upper envelope over models, n, L and KV budgets.
Pass@n supposes a selector that knows the right answer: report it as accuracy only with one.
Leaves out: prefill, waiting, and batches too small to hide the weights.
Sources: arXiv 2506.05333; arXiv 2107.03374 (estimator of pass@n).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

from plimsoll.cost.testtime import DecodeShape, eflops_dense, eflops_sparse
from plimsoll.laws.forms.contract import Floats
from plimsoll.spec.errors import InfeasibleError, SpecError

__all__ = [
    "Choice",
    "Selector",
    "Traces",
    "allocate",
    "cheapest",
    "choices",
    "envelope",
    "frontier",
    "limits_of",
    "majority_at_n",
    "pass_at_n",
]

Selector = Literal["pass", "majority"]
"""Who picks one of n answers: somebody who knows the right one, or a vote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """Graded generations of one model. ``prompt_tokens`` [q]; ``lengths`` [q, t] tokens;
    ``right`` [q, t]; ``truncated`` [q, t]: stopped by a limit, so wrong unless graded right.

    ``kv_budget``: positions a step could read as they were made, None for all, in blocks of
    ``block``. ``answers`` [q, t], for votes: 0 what is right, other numbers of a question its
    wrong answers, below 0 none.

    Raises:
        SpecError: no trials, shapes that disagree, or lengths that are not positive.
    """

    shape: DecodeShape
    prompt_tokens: Floats
    lengths: Floats
    right: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_] | None = None
    kv_budget: int | None = None
    block: int = 0
    answers: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        name = self.shape.name
        if not self.lengths.size:
            raise SpecError(f"traces of {name}: none; expected a length and a grade a trial")
        cut = self.lengths.shape if self.truncated is None else self.truncated.shape
        if not self.lengths.shape == self.right.shape == cut or self.lengths.ndim != 2:
            raise SpecError(
                f"traces of {name}: lengths {self.lengths.shape}, grades {self.right.shape}, "
                f"truncations {cut}; expected the same [questions, trials]"
            )
        if len(self.prompt_tokens) != len(self.lengths):
            raise SpecError(
                f"traces of {name}: {len(self.prompt_tokens)} prompts of {len(self.lengths)} "
                "questions; expected one each"
            )
        if not (np.isfinite(self.lengths) & (self.lengths > 0)).all():
            raise SpecError(f"traces of {name}: a length that is not positive; leave it out")

    @property
    def trials(self) -> int:
        """Trials a question."""
        return int(self.lengths.shape[1])

    def within(self, limit: float) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """(lengths, grades) [q, t] under a limit of tokens: what is longer is cut there and wrong.
        A generation that was truncated as it was made ends no earlier than that."""
        done = self.right & (self.lengths <= limit)
        return np.minimum(self.lengths, limit), done


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """``trials`` of a model with ``limit`` tokens each. ``flops`` and ``bytes``: of one question,
    on average. ``kv_budget`` None: dense attention. ``error``: standard error of the accuracy over
    questions; ``last_tokens``: tokens of the longest trial, on average."""

    model: str
    trials: int
    limit: float
    kv_budget: int | None
    accuracy: float
    flops: float
    bytes: float
    error: float = 0.0
    last_tokens: float = 0.0
    notes: tuple[str, ...] = field(default=())

    def eflops(self, intensity: float) -> float:
        """Equivalent FLOPs of one question."""
        return self.flops + intensity * self.bytes


def pass_at_n(num_right: npt.ArrayLike, num_trials: int, n: int) -> Floats:
    """P(at least one of ``n`` is right) [q], of trials drawn without replacement.

    Raises:
        SpecError: more asked for than there are, or counts that cannot be.
    """
    right = np.asarray(num_right)
    if not 1 <= n <= num_trials:
        raise SpecError(f"pass@{n} from {num_trials} trials; expected n from 1 to {num_trials}")
    if ((right < 0) | (right > num_trials)).any():
        raise SpecError(f"right answers from {right.min()} to {right.max()} of {num_trials} trials")
    wrong = num_trials - right
    logs = _log_choose(np.maximum(wrong, n), n) - _log_choose(np.asarray(num_trials), n)
    return np.asarray(1 - np.where(wrong >= n, np.exp(logs), 0.0))


def _log_choose(total: npt.NDArray[np.int64], n: int) -> Floats:
    return np.asarray(gammaln(total + 1) - gammaln(n + 1) - gammaln(total - n + 1))


def majority_at_n(
    answers: npt.NDArray[np.int64], truth: npt.NDArray[np.int64], n: int, *, draws: int, seed: int
) -> Floats:
    """Share of ``draws`` in which the most frequent of ``n`` answers is right [q].

    ``answers`` [q, t] as numbers, below 0 for none, which counts for nobody; ``truth`` [q]; ties go
    to the answer drawn first. With n it tends to whether the mode is right, not to 1.

    Raises:
        SpecError: more asked for than there are.
    """
    num_trials = answers.shape[1]
    if not 1 <= n <= num_trials:
        raise SpecError(f"majority of {n} from {num_trials} trials; expected 1 to {num_trials}")
    rng = np.random.default_rng(seed)
    won = np.zeros(len(answers))
    questions = np.arange(len(answers))
    _, codes = np.unique(answers, return_inverse=True)
    places = codes.reshape(answers.shape) + (codes.max() + 1) * questions[:, None]
    for _ in range(draws):
        order = np.argsort(rng.random(answers.shape), axis=1)[:, :n]
        drawn = np.take_along_axis(answers, order, axis=1)
        place = np.take_along_axis(places, order, axis=1)
        votes = np.where(drawn >= 0, np.bincount(place.ravel())[place], -1)
        first = votes.argmax(axis=1)
        won += (drawn[questions, first] == truth) & (votes[questions, first] > 0)
    return won / draws


def choices(
    traces: Iterable[Traces],
    *,
    trials: Sequence[int],
    limits: Sequence[float],
    select: Selector = "pass",
    draws: int = 64,
    seed: int = 0,
) -> list[Choice]:
    """Every combination, with accuracy and cost averaged over questions and measured lengths.

    Accuracy is pass@n, or that of a majority vote over ``draws`` subsets. The prompt's KV is read
    until the longest of the n trials ends.

    Raises:
        SpecError: no traces, more trials asked for than were made, or votes without answers.
    """
    found = []
    for each in traces:
        for limit in limits:
            lengths, right = each.within(limit)
            for n in trials:
                if select == "pass":
                    solved = pass_at_n(right.sum(axis=1), each.trials, n)
                else:
                    said = _said(each, limit)
                    truth = np.zeros(len(said), dtype=np.int64)
                    solved = majority_at_n(said, truth, n, draws=draws, seed=seed)
                flops, moved = _cost(each, lengths, n)
                found.append(
                    Choice(
                        model=each.shape.name,
                        trials=n,
                        limit=float(limit),
                        kv_budget=each.kv_budget,
                        accuracy=float(solved.mean()),
                        flops=flops,
                        bytes=moved,
                        error=float(solved.std() / np.sqrt(len(solved))),
                        last_tokens=float(_mean_longest(lengths, n).mean()),
                    )
                )
    if not found:
        raise SpecError("no traces, trials or limits; expected one or more of each")
    return found


def _said(each: Traces, limit: float) -> npt.NDArray[np.int64]:
    """Answers given within a limit."""
    if each.answers is None:
        raise SpecError(
            f"traces of {each.shape.name}: no answers to vote with; add them, or take pass@n"
        )
    return np.where(each.lengths <= limit, each.answers, -1)


def limits_of(each: Traces) -> list[float]:
    """Limits of tokens worth asking for: powers of two and halves between, up to the longest
    generation, or to where the shortest truncated one was cut: beyond that nothing is known."""
    top = float(each.lengths.max())
    if each.truncated is not None and each.truncated.any():
        top = float(each.lengths[each.truncated].min())
    steps = sorted(m * 2.0**k for k in range(4, 30) for m in (1.0, 1.5))
    least = float(each.lengths.min())
    return [*(step for step in steps if least <= step < top), top]


def _cost(each: Traces, lengths: Floats, n: int) -> tuple[float, float]:
    """(FLOPs, bytes) of n trials of an average question."""
    prompt = each.prompt_tokens[:, None]
    if each.kv_budget is not None:
        one = eflops_sparse(
            each.shape,
            prompt_tokens=prompt,
            tokens=lengths,
            kv_budget=each.kv_budget,
            block=each.block,
        )
        return n * float(one.flops.mean()), n * float(one.bytes.mean())
    one = eflops_dense(each.shape, prompt_tokens=prompt, tokens=lengths)
    alone = eflops_dense(each.shape, prompt_tokens=0, tokens=lengths)
    shared = each.prompt_tokens * _mean_longest(lengths, n) * each.shape.kv_bytes_per_token
    return n * float(one.flops.mean()), n * float(alone.bytes.mean()) + float(shared.mean())


def _mean_longest(lengths: Floats, n: int) -> Floats:
    """Mean over draws of n trials of the longest [q], exactly."""
    total = lengths.shape[1]
    rank = np.arange(1, total + 1)
    logs = _log_choose(np.maximum(rank - 1, n - 1), n - 1) - _log_choose(np.asarray(total), n)
    share = np.where(rank >= n, np.exp(logs), 0.0)
    return np.asarray(np.sort(lengths, axis=1) @ share)


def envelope(found: Iterable[Choice], cost: Callable[[Choice], float]) -> list[Choice]:
    """Those that no cheaper one equals in accuracy, cheapest first."""
    kept: list[Choice] = []
    for one in sorted(found, key=lambda c: (cost(c), -c.accuracy)):
        if not kept or one.accuracy > kept[-1].accuracy:
            kept.append(one)
    return kept


def frontier(found: Iterable[Choice], *, intensity: float) -> list[Choice]:
    """The envelope by equivalent FLOPs."""
    return envelope(found, lambda one: one.eflops(intensity))


def allocate(found: Iterable[Choice], eflops: float, *, intensity: float) -> Choice:
    """The most accurate within a budget for one question.

    Raises:
        InfeasibleError: none is that cheap.
    """
    best = frontier(found, intensity=intensity)
    able = [one for one in best if one.eflops(intensity) <= eflops]
    if not able:
        least = best[0].eflops(intensity)
        raise InfeasibleError(
            f"{eflops:.3g} eFLOPs a question: the cheapest choice takes {least:.3g}",
            binding="the budget",
            nearest=f"{best[0].trials} x {best[0].model} within {best[0].limit:g} tokens",
            change=f"allow {least:.3g}, or measure smaller models or shorter limits",
        )
    return able[-1]


def cheapest(found: Iterable[Choice], accuracy: float, *, intensity: float) -> Choice:
    """The cheapest that reaches an accuracy.

    Raises:
        InfeasibleError: none does.
    """
    best = frontier(found, intensity=intensity)
    for one in best:
        if one.accuracy >= accuracy:
            return one
    raise InfeasibleError(
        f"accuracy {accuracy:.3g}: the best choice reaches {best[-1].accuracy:.3g}",
        binding="the models measured",
        nearest=f"{best[-1].trials} x {best[-1].model} within {best[-1].limit:g} tokens",
        change=f"ask for {best[-1].accuracy:.3g} or measure more trials or larger models",
    )
