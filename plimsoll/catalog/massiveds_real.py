"""Tiny language models that answer from memory, from retrieved text, or both.

A decoder of two layers, the first of which sees two tokens only, a word a token. It is trained on
questions behind three statements of made-up facts that answer them, which teaches to read; on
questions behind three that do not, and on questions alone. Of the latter two, half ask facts that
the model may learn, half others with an answer at random, which teaches what it cannot know. What
is made up is drawn anew for every example and carries no knowledge. Adam, constant rate after a
warm-up, loss of the answers only; the model is kept after each of ``STEPS``.
Answers are scored over all people of the world, most of whose facts no model has learned.
"""

import functools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from plimsoll.catalog.facts_world import FactsWorld
from plimsoll.data.datastore import Datastore, Hits
from plimsoll.data.near_duplicates import representatives
from plimsoll.data.retrieve import (
    Decontaminate,
    Representatives,
    Subsample,
    postprocess,
    prompt,
)
from plimsoll.models.context import Decoder, FullContext
from plimsoll.models.decoder_stack import parameter_count
from plimsoll.models.loading import build, save

__all__ = [
    "LARGE",
    "RETRIEVED",
    "SIZES",
    "SMALL",
    "STEPS",
    "TOKENS_A_STEP",
    "FactsModel",
    "Scored",
    "answers_served",
    "cell",
    "models",
    "prompts",
    "score",
    "searched",
    "world_of",
]

SMALL = 32
LARGE = 76
SIZES = (SMALL, 44, 58, LARGE)
STEPS = (100, 200, 400)
RETRIEVED = 100
"""K of the one search."""
_BATCH = 64
_STATED, _ASKED = 3, 6
_BEFORE = _STATED * 5
TOKENS_A_STEP = _BATCH * _ASKED * 3 + (_BATCH * 3 // 4) * _BEFORE
_LR = 5e-3
_WARM = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class FactsModel:
    """``num_params`` with embeddings; ``steps`` of training so far."""

    width: int
    steps: int
    num_params: int
    model: Decoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """``right`` [people]; ``loss``: nats an answer; ``prompt_tokens`` a question on average."""

    right: np.ndarray
    loss: float
    prompt_tokens: float

    @property
    def accuracy(self) -> float:
        """Share right."""
        return float(self.right.mean())


@functools.cache
def world_of(seed: int) -> FactsWorld:
    """The world of a seed, with what it has made."""
    return FactsWorld(seed)


def _config(world: FactsWorld, width: int) -> dict[str, Any]:
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": len(world.vocabulary),
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "use_sliding_window": True,
        "sliding_window": 2,
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_theta": 1e6,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
    }


def _examples(world: FactsWorld, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """(statements and six questions with their answers [3/4 batch, length], questions alone [1/4
    batch, 18]); the first two thirds of the former ask what was stated."""
    people, towns = len(world.people), len(world.towns)
    first_name = world.vocabulary[world.names[0]]
    stop, ask, first_filler = 0, 1, 2
    stated_shape, asked_shape = (_BATCH, _STATED), (_BATCH, _ASKED)
    who, where = rng.integers(0, people, stated_shape), rng.integers(0, towns, stated_shape)
    fillers = rng.integers(first_filler, first_name, (*stated_shape, 2))
    stated = np.concatenate(
        [
            fillers,
            first_name + people + where[..., None],
            first_name + who[..., None],
            np.full((*stated_shape, 1), stop),
        ],
        axis=2,
    )
    which = rng.integers(0, _STATED, asked_shape)
    read, said = (np.take_along_axis(part, which, axis=1) for part in (who, where))
    may = np.array(world.learnable)
    others = np.setdiff1d(np.arange(people), may)
    truth = np.array([world.vocabulary[town] for town in world.answers])
    learned, unknown = may[rng.integers(0, len(may), asked_shape)], rng.choice(others, asked_shape)
    knows = rng.random(asked_shape) < 0.5
    guess = first_name + people + rng.integers(0, towns, asked_shape)
    from_memory = np.arange(_BATCH)[:, None] >= _BATCH // 2
    asked = np.where(from_memory, np.where(knows, learned, unknown), read)
    answer = np.where(
        from_memory, np.where(knows, truth[learned], guess), first_name + people + said
    )
    questions = np.stack([np.full(asked_shape, ask), first_name + asked, answer], axis=2)
    questions = questions.reshape(_BATCH, -1)
    cut = _BATCH * 3 // 4
    shown = np.concatenate([stated.reshape(_BATCH, -1)[:cut], questions[:cut]], axis=1)
    return torch.from_numpy(shown), torch.from_numpy(questions[cut:])


def _loss(model: Decoder, tokens: Tensor) -> Tensor:
    """Of all answers, summed."""
    at = tokens.shape[1] - 1 - 3 * torch.arange(_ASKED)
    hidden = _hidden(model, tokens[:, :-1])[:, at - 1]
    return cross_entropy(
        model.logits(hidden.flatten(0, 1)), tokens[:, at].flatten(), reduction="sum"
    )


@functools.cache
def models(width: int, seed: int, steps: tuple[int, ...] = STEPS) -> tuple[FactsModel, ...]:
    """One run, its model kept after each of ``steps``, ascending; cached, since checks share it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # such small products are slower on more
    try:
        return tuple(_trained(world_of(seed), width, seed, steps))
    finally:
        torch.set_num_threads(threads)


def _trained(world: FactsWorld, width: int, seed: int, steps: tuple[int, ...]) -> list[FactsModel]:
    rng = np.random.default_rng([seed, width])
    model = build(_config(world, width), dtype=torch.float32, device="cpu")
    _initialize(cast(nn.Module, model), torch.Generator().manual_seed(seed))
    adam = torch.optim.Adam(cast(nn.Module, model).parameters(), lr=_LR, betas=(0.9, 0.98))
    kept = []
    for step in range(1, max(steps) + 1):
        adam.param_groups[0]["lr"] = _LR * min(1.0, step / _WARM)
        shown, alone = _examples(world, rng)
        loss = (_loss(model, shown) + _loss(model, alone)) / (_BATCH * _ASKED)
        adam.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(cast(nn.Module, model).parameters(), 1.0)
        adam.step()
        if step in steps:
            copy = build(_config(world, width), dtype=torch.float32, device="cpu")
            cast(nn.Module, copy).load_state_dict(cast(nn.Module, model).state_dict())
            kept.append(
                FactsModel(
                    width=width,
                    steps=step,
                    num_params=parameter_count(cast(nn.Module, copy)),
                    model=copy,
                )
            )
    return kept


def _initialize(model: nn.Module, gen: torch.Generator) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(True)
            if parameter.ndim < 2:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            else:
                spread = 0.3 if "embed" in name else parameter.shape[1] ** -0.5
                parameter.normal_(0.0, spread, generator=gen)


def _hidden(model: Decoder, tokens: Tensor) -> Tensor:
    """[B, L] to [B, L, C]."""
    context = FullContext(*tokens.shape)
    hidden: Tensor = model(tokens.flatten(), context.positions(), context)
    return hidden.view(*tokens.shape, -1)


def prompts(
    world: FactsWorld, store: Datastore | None, chosen: Sequence[tuple[int, ...]]
) -> list[list[int]]:
    """Tokens of each question behind its chunks, the best nearest."""
    return [
        world.tokens(prompt(question, [store.texts[c] for c in row] if store else []))
        for question, row in zip(world.questions, chosen, strict=True)
    ]


@torch.inference_mode()
def score(
    one: FactsModel,
    world: FactsWorld,
    store: Datastore | None = None,
    chosen: Sequence[tuple[int, ...]] | None = None,
) -> Scored:
    """Answers to all questions, with ``chosen`` chunks of the store before each, or alone."""
    asked = prompts(world, store, chosen if chosen is not None else [()] * len(world.people))
    wanted = torch.tensor([world.vocabulary[town] for town in world.answers])
    right = np.zeros(len(asked), dtype=bool)
    total = 0.0
    lengths = np.array([len(tokens) for tokens in asked])
    for length in np.unique(lengths).tolist():
        rows = np.flatnonzero(lengths == length)
        tokens = torch.tensor([asked[row] for row in rows])
        logits = one.model.logits(_hidden(one.model, tokens)[:, -1])
        total += float(cross_entropy(logits, wanted[rows], reduction="sum"))
        right[rows] = (logits.argmax(dim=-1) == wanted[rows]).numpy()
    return Scored(right=right, loss=total / len(asked), prompt_tokens=float(lengths.mean()))


def answers_served(
    one: FactsModel, world: FactsWorld, store: Datastore, chosen: Sequence[tuple[int, ...]]
) -> list[int]:
    """First token of the serving engine's answer to each question: paged, batched, greedy."""
    from plimsoll.evals.real_runs import Asked, RealRun, instance
    from plimsoll.serving.policies.chunked_prefill import ChunkedPrefillPolicy

    with tempfile.TemporaryDirectory(prefix="plimsoll-facts-") as folder:
        save(cast(Any, one.model), Path(folder))
        asked = [Asked(tokens, 1) for tokens in prompts(world, store, chosen)]
        spec = instance(ChunkedPrefillPolicy(token_budget=512), max_model_len=256)
        with RealRun(Path(folder), [spec], local=True) as run:
            return [tokens[0] for tokens in run.serve(asked)]


def cell(one: FactsModel, seed: int, fraction: float) -> Scored:
    """A model with that part of its world's store, chosen from one search; 0: alone."""
    world = world_of(seed)
    if not fraction:
        return score(one, world)
    store, wide, stands = searched(seed)
    rule = Subsample(fraction=fraction, seed=seed)
    chosen = postprocess(
        wide,
        store,
        dedupe=stands,
        decontaminate=Decontaminate(held_out=world.quiz),
        subsample=rule,
    )
    return score(one, world, store, chosen.chunks)


@functools.cache
def searched(seed: int, leaks: float = 0.0) -> tuple[Datastore, Hits, Representatives]:
    """The store of a world, one search of it for all people, and who stands for its copies."""
    world = world_of(seed)
    store = world.store(leaks)
    wide = store.search(list(world.people), RETRIEVED)
    return store, wide, Representatives(stands=representatives(store.texts))
