"""Tiny models of partial competence, and graded samples from them.

Problems are generated: sums and products of two numbers. A model writes the answer
digit by digit, lowest first, from the digits of both numbers, those it has written and an earlier
answer (or none): a multilayer perceptron with one hidden layer, trained with Adam for so few steps
that it is right now and then. Half of the training examples carry an earlier answer, right or
with digits changed, so that it can rethink; it is never told whether the earlier one was right.
"""

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from plimsoll.laws.forms.contract import Floats

__all__ = ["STEPS", "TASKS", "TinySolver", "checkpoints", "rounds_of", "samples_of", "trained"]

TASKS = ("sum", "product")
STEPS = (300, 450, 700, 1000, 1400, 1800)
_TOP = {"sum": 1000, "product": 100}
_DIGITS = 4
_BLANK = 10
_WORDS = 11
_HIDDEN = 128
_BATCH = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class TinySolver:
    """A model after ``steps`` of training on ``task``."""

    task: str
    steps: int
    model: nn.Module


def _problems(task: str, num: int, gen: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """(digits of both numbers [n, 6], digits of the answer, lowest first [n, 4])."""
    top = _TOP[task]
    x, y = (torch.randint(0, top, (num,), generator=gen) for _ in range(2))
    answer = x + y if task == "sum" else x * y
    given = torch.cat([_digits(x, 3), _digits(y, 3)], dim=1)
    return given, _digits(answer, _DIGITS)


def _digits(number: torch.Tensor, count: int) -> torch.Tensor:
    return torch.stack([number // 10**i % 10 for i in range(count)], dim=1)


class _Writer(nn.Module):
    """Logits of the next digit [n, 10] from given [n, 6], earlier [n, 4] and written [n, 4]."""

    def __init__(self, gen: torch.Generator) -> None:
        super().__init__()
        inputs = (6 + 2 * _DIGITS) * _WORDS + _DIGITS
        self.first = nn.Linear(inputs, _HIDDEN)
        self.last = nn.Linear(_HIDDEN, 10)
        for layer in (self.first, self.last):
            with torch.no_grad():
                layer.weight.normal_(0, layer.in_features**-0.5, generator=gen)
                layer.bias.zero_()

    def forward(
        self, given: torch.Tensor, earlier: torch.Tensor, written: torch.Tensor, place: torch.Tensor
    ) -> torch.Tensor:
        words = one_hot(torch.cat([given, earlier, written], dim=1), _WORDS).flatten(1).float()
        where = one_hot(place, _DIGITS).float()
        logits: torch.Tensor = self.last(torch.relu(self.first(torch.cat([words, where], dim=1))))
        return logits


def _spoiled(answer: torch.Tensor, gen: torch.Generator) -> torch.Tensor:
    """Earlier answers to train with: half none, a quarter right, a quarter with digits changed."""
    kind = torch.rand((len(answer), 1), generator=gen)
    other = torch.randint(0, 10, answer.shape, generator=gen)
    hit = torch.rand(answer.shape, generator=gen) < 0.4
    changed = torch.where(hit, other, answer)
    some = torch.where(kind < 0.75, answer, changed)
    return torch.where(kind < 0.5, torch.full_like(answer, _BLANK), some)


def trained(task: str, steps: tuple[int, ...], *, seed: int) -> list[TinySolver]:
    """One run, its model kept after each of ``steps``, ascending."""
    gen = torch.Generator().manual_seed(seed)
    model = _Writer(gen)
    adam = torch.optim.Adam(model.parameters(), lr=3e-3)
    kept = []
    for step in range(1, max(steps) + 1):
        given, answer = _problems(task, _BATCH, gen)
        earlier = _spoiled(answer, gen)
        place = torch.arange(_DIGITS).repeat(_BATCH)  # every answer at each of its digits
        given, earlier, answer = (
            part.repeat_interleave(_DIGITS, dim=0) for part in (given, earlier, answer)
        )
        written = torch.where(torch.arange(_DIGITS) < place[:, None], answer, _BLANK)
        wanted = answer.gather(1, place[:, None])[:, 0]
        loss = cross_entropy(model(given, earlier, written, place), wanted)
        adam.zero_grad()
        torch.autograd.backward(loss)
        adam.step()
        if step in steps:
            copy = _Writer(torch.Generator())
            copy.load_state_dict(model.state_dict())
            kept.append(TinySolver(task=task, steps=step, model=copy.eval()))
    return kept


@torch.inference_mode()
def _answers(
    solver: TinySolver,
    given: torch.Tensor,
    earlier: torch.Tensor,
    gen: torch.Generator,
    temperature: float,
) -> torch.Tensor:
    written = torch.full((len(given), _DIGITS), _BLANK)
    for place in range(_DIGITS):
        logits = solver.model(given, earlier, written, torch.full((len(given),), place))
        chances = (logits / temperature).softmax(dim=1)
        written[:, place] = torch.multinomial(chances, 1, generator=gen)[:, 0]
    return written


def samples_of(
    solver: TinySolver, *, questions: int, samples: int, seed: int, temperature: float = 1.0
) -> tuple[Floats, Floats, Floats]:
    """(grades [q, s], answers as numbers [q, s], truth [q]) of independent samples."""
    gen = torch.Generator().manual_seed(seed)
    given, truth = _problems(solver.task, questions, gen)
    many = given.repeat_interleave(samples, dim=0)
    blank = torch.full((len(many), _DIGITS), _BLANK)
    answers = _answers(solver, many, blank, gen, temperature)
    scale = 10 ** torch.arange(_DIGITS)
    said = (answers * scale).sum(dim=1).view(questions, samples).numpy()
    right = (truth * scale).sum(dim=1).numpy()
    return (said == right[:, None]).astype(np.float64), said, right


def rounds_of(
    solver: TinySolver, *, questions: int, rounds: int, seed: int, temperature: float = 1.0
) -> Floats:
    """Grades [q, r] where each round is shown the answer of the one before."""
    gen = torch.Generator().manual_seed(seed)
    given, truth = _problems(solver.task, questions, gen)
    earlier = torch.full((questions, _DIGITS), _BLANK)
    grades = []
    for _ in range(rounds):
        earlier = _answers(solver, given, earlier, gen, temperature)
        grades.append((earlier == truth).all(dim=1).numpy())
    return np.stack(grades, axis=1).astype(np.float64)


@functools.cache
def checkpoints(task: str, seed: int) -> tuple[TinySolver, ...]:
    """The models of one run after each of ``STEPS``; kept, since several checks ask."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # such small products are slower on more
    try:
        return tuple(trained(task, STEPS, seed=seed))
    finally:
        torch.set_num_threads(threads)
