"""A fixed table of made-up accuracies for the Qwen3 family: what Kinetics' choices are judged on.

Question i has difficulty d_i, a model skill s: a trial is right with probability 1/(1 + e^(d − s)).
Lengths are log-normal, longer for hard questions and for small models, and a trial cut by a limit
is wrong. Skills gain less from each size to the next. Nothing here is measured, and other tables
give other factors: this one shows that rankings flip, not how often they do.
"""

import numpy as np

from plimsoll.cost.testtime import DecodeShape, decode_shape
from plimsoll.laws.testtime import Traces
from plimsoll.spec.model_files import load_model

__all__ = ["QWEN3", "qwen3_shapes", "table"]

QWEN3 = ("0.6b", "1.7b", "4b", "8b", "14b", "32b")
_STORED_TWICE = ("0.6b", "1.7b")
"""Their files hold the tied table a second time as the head, and the paper counts the files."""
_QUESTIONS = 60
_TRIALS = 32
_LONGEST = 32_768
_SKILLS = (-2.5, -1.0, 0.0, 0.6, 1.2, 1.7)


def qwen3_shapes() -> dict[str, DecodeShape]:
    """By size, parameters counted as their files store them."""
    return {
        size: decode_shape(load_model(f"qwen3-{size}"), tied_twice=size in _STORED_TWICE)
        for size in QWEN3
    }


def table(seed: int) -> list[Traces]:
    """Traces of every model on the same questions."""
    rng = np.random.default_rng(seed)
    difficulty = np.sort(rng.normal(0.0, 1.5, _QUESTIONS))
    prompt = np.full(_QUESTIONS, 256.0)
    found = []
    for rank, (shape, skill) in enumerate(zip(qwen3_shapes().values(), _SKILLS, strict=True)):
        chance = 1 / (1 + np.exp(difficulty - skill))
        right = rng.random((_QUESTIONS, _TRIALS)) < chance[:, None]
        middle = 9.0 + 0.1 * difficulty - 0.05 * rank
        lengths = np.exp(rng.normal(middle[:, None], 0.4, right.shape))
        truncated = lengths >= _LONGEST
        found.append(
            Traces(
                shape=shape,
                prompt_tokens=prompt,
                lengths=np.minimum(lengths, _LONGEST),
                right=right & ~truncated,
                truncated=truncated,
            )
        )
    return found
