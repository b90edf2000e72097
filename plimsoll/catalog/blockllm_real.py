"""Chains on three real processes: tokens of separate models, batches over applications, guesses.

The models are the parent of ``evals/tinylm_children.py`` and two of its children by adapter, cut
into two runs of four layers that all three share. Processes talk over gloo.
"""

import functools
from types import ModuleType

from plimsoll.catalog.contract import AtLeast, Between, Check, Context, Measured
from plimsoll.serving.executors.chain_guesses import surrogate_name
from plimsoll.serving.routers.chains import ChainPolicy
from plimsoll.spec.errors import ExecutionError, UnsupportedError

__all__ = ["REAL_CHECKS"]

_APPS = ("parent", "mail", "network")
_A_APP = 6
_TOKENS = 24
_PROMPT = 24
_PLACED = (("low",), ("high",), ("low", "high"))


@functools.cache
def _parts() -> tuple[ModuleType, ModuleType, ModuleType]:
    try:
        from plimsoll.evals import tinylm_children
        from plimsoll.models import block_chain
        from plimsoll.serving.executors.torch import chains
    except ImportError as error:
        raise UnsupportedError(f"needs {error.name}; install plimsoll[torch]") from None
    return tinylm_children, block_chain, chains


@functools.cache
def _family():  # type: ignore[no-untyped-def]
    return _parts()[0].tiny_family()


def _blocks():  # type: ignore[no-untyped-def]
    """The two runs of layers, and a surrogate of the upper: its last layer alone."""
    from plimsoll.serving.executors.torch.chain_agent import ServedBlock

    family = _family()
    cut = {
        app: _parts()[1].cut(app, family.models[app], vocabulary=family.vocabulary) for app in _APPS
    }
    base = cut["parent"]

    def run(name: str, first: int, end: int, **more):  # type: ignore[no-untyped-def]
        layers = tuple((base[1 + 2 * i], base[2 + 2 * i]) for i in range(first, end))
        adapters = {
            app: {
                i - first: {**cut[app][1 + 2 * i].loras, **cut[app][2 + 2 * i].loras}
                for i in range(first, end)
            }
            for app in _APPS[1:]
        }
        return ServedBlock(name=name, layers=layers, adapters=adapters, **more)

    return [
        run("low", 0, 4, table=base[0]),
        run("high", 4, 8, head=base[-1]),
        run(surrogate_name("high"), 7, 8, head=base[-1]),
    ]


@functools.cache
def _prompts(seed: int):  # type: ignore[no-untyped-def]
    family = _family()
    prompt = _parts()[2].Prompt
    found = []
    for i in range(_A_APP):
        for app in _APPS:
            window = family.heldout[app][(seed + i) % len(family.heldout[app])]
            start = (5 * seed) % 40
            tokens = tuple(window[start : start + _PROMPT - i].tolist())
            found.append(prompt(app, tokens, _TOKENS - i))
    return tuple(found)


@functools.cache
def _alone(seed: int) -> tuple[tuple[int, ...], ...]:
    """Greedy tokens of each request by its own model, one at a time."""
    import torch

    from plimsoll.models.context import GrowingContext

    found = []
    with torch.no_grad():
        for prompt in _prompts(seed):
            model, context = _family().models[prompt.app], GrowingContext()
            fresh, made = list(prompt.tokens), []
            for _ in range(prompt.max_tokens):
                positions = context.begin([(0, len(fresh))])
                hidden = model(torch.tensor(fresh), positions, context)
                fresh = [int(model.logits(hidden[-1:]).argmax())]
                made += fresh
            found.append(tuple(made))
    return tuple(found)


def _server(policy: ChainPolicy, placed: tuple[tuple[str, ...], ...]):  # type: ignore[no-untyped-def]
    apps = {app: ("low", "high") for app in _APPS}
    return _parts()[2].ChainServer(policy, _blocks(), apps, placed)


def _share_equal(made: tuple[tuple[int, ...], ...], seed: int) -> float:
    alone = _alone(seed)
    return sum(a == b for a, b in zip(made, alone, strict=True)) / len(alone)


def _tokens(context: Context) -> Measured:
    values = []
    with _server(ChainPolicy(), _PLACED) as server:
        for seed in context.seeds:
            values.append(_share_equal(server.serve(_prompts(seed)).tokens, seed))
    detail = f"{3 * _A_APP} greedy requests a seed of three applications, fp32"
    return Measured(value=min(values), values=tuple(values), detail=detail)


_SHARED = (("low",), ("high",), ())
"""Blocks by process: two that all chains share, and one process without."""


def _batches(context: Context) -> Measured:
    """Mean batch of a shared block over the largest that a model reaches on its own."""
    values, shown = [], []
    with _server(ChainPolicy(), _SHARED) as server:
        for seed in context.seeds:
            asked = _prompts(seed)
            together = min(server.serve(asked).batch.values())
            own = max(
                max(server.serve([p for p in asked if p.app == app]).batch.values())
                for app in _APPS
            )
            values.append(together / own)
            shown.append(f"{together:.1f}/{own:.1f}")
    detail = f"requests a batch of the smaller block: {', '.join(shown)}"
    return Measured(value=min(values), values=tuple(values), detail=detail)


def _mixing(context: Context) -> Measured:
    """Mean batch of a shared block with requests of all applications in it, over that with one
    application a batch; waiting for each other makes those larger than a model's own, too."""
    found: dict[bool, list[float]] = {True: [], False: []}
    for mixed, batches in found.items():
        with _server(ChainPolicy(mix_apps=mixed), _SHARED) as server:
            for seed in context.seeds:
                batches.append(min(server.serve(_prompts(seed)).batch.values()))
    values = tuple(a / b for a, b in zip(found[True], found[False], strict=True))
    shown = ", ".join(f"{a:.1f}/{b:.1f}" for a, b in zip(found[True], found[False], strict=True))
    detail = f"requests a batch of the smaller block: {shown}"
    return Measured(value=min(values), values=values, detail=detail)


def _guessed(context: Context) -> Measured:
    """Share of requests with the tokens of true blocks while a surrogate guesses ahead."""
    values, right = [], []
    placed = (("low", surrogate_name("high")), ("high",), ())
    with _server(ChainPolicy(speculate=True, trial=1 << 30), placed) as server:
        for seed in context.seeds:
            run = server.serve(_prompts(seed))
            values.append(_share_equal(run.tokens, seed))
            if not run.guesses:
                raise ExecutionError("no surrogate guessed")
            right.append(f"{run.right_guesses} of {run.guesses}")
    detail = f"one of four layers guesses for all; right: {', '.join(right)}"
    return Measured(value=min(values), values=tuple(values), detail=detail)


REAL_CHECKS = (
    Check(
        claim="chains",
        title="requests on three processes with the tokens of their own model",
        how="run",
        band=Between(1.0, 1.0),
        compute=_tokens,
        unit="of requests",
        slow=True,
    ),
    Check(
        claim="chains",
        title="mean batch of a shared block over the largest of a model by itself",
        how="run",
        band=AtLeast(1.3),
        compute=_batches,
        unit="x",
        slow=True,
    ),
    Check(
        claim="chains",
        title="mean batch of a shared block over that with one application a batch",
        how="run",
        band=AtLeast(1.2),
        compute=_mixing,
        unit="x",
        slow=True,
    ),
    Check(
        claim="speculation",
        title="requests with the tokens of true blocks while a surrogate guesses ahead",
        how="run",
        band=Between(1.0, 1.0),
        compute=_guessed,
        unit="of requests",
        slow=True,
    ),
)
