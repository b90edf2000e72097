"""Chains on real processes: tokens of separate models, shared batches, lost agents, evictions."""
# ruff: noqa: E402

from collections.abc import Sequence
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from plimsoll.models.block_chain import cut
from plimsoll.models.context import GrowingContext
from plimsoll.models.loading import build
from plimsoll.models.lora import attach, new_lora
from plimsoll.serving.executors.chain_books import ChainBooks
from plimsoll.serving.executors.chain_requests import Send, Start
from plimsoll.serving.executors.torch.chain_agent import ServedBlock
from plimsoll.serving.executors.torch.chains import ChainServer, Prompt, Served
from plimsoll.serving.routers.chains import ChainPolicy
from plimsoll.spec.errors import ExecutionError

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
APPS = ("base", "adapted", "tuned")


def model(seed: int = 0) -> Any:
    made = build(CONFIG)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, parameter.shape[1] ** -0.5, generator=generator)
    return made.requires_grad_(False)


def models() -> dict[str, Any]:
    """The base, one with an adapter in every layer, one whose upper half is its own."""
    adapted, tuned, other = model(), model(), model(1)
    generator = torch.Generator().manual_seed(3)
    for index, layer in enumerate(adapted.layers):
        lora = new_lora(layer.self_attn.q_proj, 2, generator)
        lora.a_RC.requires_grad_(False)
        lora.b_DR.requires_grad_(False).normal_(0.0, 0.5, generator=generator)
        attach(adapted, {f"layers.{index}.self_attn.q_proj": lora})
    for index in (2, 3):
        tuned.layers[index].load_state_dict(other.layers[index].state_dict())
    return {"base": model(), "adapted": adapted, "tuned": tuned}


def served() -> tuple[list[ServedBlock], dict[str, tuple[str, ...]]]:
    """Two runs of two layers a model: the lower is everybody's."""
    parts = {name: cut(name, made, vocabulary="words") for name, made in models().items()}

    def pair(app: str, depth: int) -> tuple[Any, Any]:
        return parts[app][1 + 2 * depth], parts[app][2 + 2 * depth]

    def adapters(first: int) -> dict[str, Any]:
        return {"adapted": {i: pair("adapted", first + i)[0].loras for i in (0, 1)}}

    base, tuned = parts["base"], parts["tuned"]
    blocks = [
        ServedBlock(
            name="low",
            layers=(pair("base", 0), pair("base", 1)),
            table=base[0],
            adapters=adapters(0),
        ),
        ServedBlock(
            name="high",
            layers=(pair("base", 2), pair("base", 3)),
            head=base[-1],
            adapters=adapters(2),
        ),
        ServedBlock(name="own", layers=(pair("tuned", 2), pair("tuned", 3)), head=tuned[-1]),
    ]
    return blocks, {"base": ("low", "high"), "adapted": ("low", "high"), "tuned": ("low", "own")}


def prompts(num: int, *, apps: Sequence[str] = APPS, tokens: int = 12) -> list[Prompt]:
    generator = torch.Generator().manual_seed(7)
    found = []
    for i in range(num):
        length = int(torch.randint(1, 20, (), generator=generator))
        ids = torch.randint(0, 64, (length,), generator=generator).tolist()
        found.append(Prompt(apps[i % len(apps)], tuple(ids), tokens - i % 4))
    return found


def alone(asked: Sequence[Prompt]) -> list[tuple[int, ...]]:
    """The tokens of each request, one at a time, by its own model."""
    own, found = models(), []
    for prompt in asked:
        made, context = own[prompt.app], GrowingContext()
        text = list(prompt.tokens)
        fresh = text
        with torch.no_grad():
            for _ in range(prompt.max_tokens):
                positions = context.begin([(0, len(fresh))])
                hidden = made(torch.tensor(fresh), positions, context)
                fresh = [int(made.logits(hidden[-1:]).argmax())]
                text += fresh
        found.append(tuple(text[len(prompt.tokens) :]))
    return found


def serve(asked: Sequence[Prompt], placed: Sequence[Sequence[str]], **more: Any) -> Served:
    blocks, apps = served()
    policy = more.pop("policy", ChainPolicy())
    with ChainServer(policy, blocks, apps, placed, **more) as server:
        return server.serve(asked)


@pytest.mark.slow
def test_tokens_are_those_of_separate_models() -> None:
    asked = prompts(18)
    run = serve(asked, [("low",), ("high",), ("own",)])
    assert list(run.tokens) == alone(asked)
    assert run.resumed == 0
    assert run.batch["low"] > max(run.batch["high"], run.batch["own"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("placed", "lost", "resumed_at"),
    [
        ([("low",), ("high", "own"), ("high", "own")], 1, 1),
        ([("low", "high"), ("low", "high"), ("own",)], 0, 0),
    ],
)
def test_an_agent_lost_costs_no_token(
    placed: list[tuple[str, ...]], lost: int, resumed_at: int
) -> None:
    """Requests resume behind the block whose output is held, or from their tokens."""
    asked = prompts(12)
    run = serve(asked, placed, lose_after={15: lost})
    assert list(run.tokens) == alone(asked)
    assert run.resumed > 0
    assert resumed_at in {entry[2] for entry in run.decisions if entry[0] == "resume"}


@pytest.mark.slow
def test_an_evicted_block_is_served_elsewhere_or_missed_by_name() -> None:
    asked = prompts(12)
    placed = [("low", "high"), ("high", "own"), ("own",)]
    run = serve(asked, placed, evict_after={9: (1, "high")})
    assert list(run.tokens) == alone(asked)
    with pytest.raises(ExecutionError, match="requests wait for a block that no agent has"):
        serve(asked, [("low",), ("high",), ("own",)], lose_after={9: 0})


@pytest.mark.slow
def test_the_same_events_lead_to_the_same_decisions() -> None:
    """A real run's log of events, told to fresh books, brings out its decisions."""
    asked = prompts(30)
    blocks, apps = served()
    placed = [("low",), ("high", "own"), ("high", "own")]
    with ChainServer(ChainPolicy(), blocks, apps, placed, lose_after={30: 1}) as server:
        run = server.serve(asked)
        books = server.books()
    books.log = []
    for name, *what, now_s in run.events:
        follow(books, getattr(books, name)(*what, now_s), now_s)
    assert tuple(books.log) == run.decisions
    assert len(run.decisions) > 500 and any(d[0] == "resume" for d in run.decisions)


def follow(books: ChainBooks, effects: list[Send | Start], now_s: float) -> None:
    """Inputs arrive at once, as the real executor tells it."""
    while effects:
        came = [effect.item for effect in effects if isinstance(effect, Send)]
        effects = books.arrived(came, now_s) if came else []
