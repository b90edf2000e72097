"""The store of blocks on nine real models: bytes, equal scores, perplexity, and teeth.

Parent, children by adapter and children in all weights are those of ``evals/tinylm_children.py``.
The probe text is held-out text of every subject, two windows each; perplexity is read on other
windows of the child's own subject.
"""

import functools
import math
from collections.abc import Callable
from types import ModuleType

from plimsoll.catalog.contract import (
    AtLeast,
    AtMost,
    Between,
    Check,
    Context,
    Measured,
    Report,
)
from plimsoll.spec.errors import UnsupportedError

__all__ = ["ZOO_CHECKS"]

_THRESHOLDS = (0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9995, 1.1)
_PROBES = 2
_RANDOM = 100
_NOISY = 100
_NOISE = 1e-4


@functools.cache
def _parts() -> tuple[ModuleType, ModuleType, ModuleType]:
    """(children, zoo, equivalence), which need torch."""
    try:
        from plimsoll.compress import block_equivalence, block_zoo
        from plimsoll.evals import tinylm_children
    except ImportError as error:
        raise UnsupportedError(f"needs {error.name}; install plimsoll[torch]") from None
    return tinylm_children, block_zoo, block_equivalence


@functools.cache
def _family():  # type: ignore[no-untyped-def]
    return _parts()[0].tiny_family()


@functools.lru_cache(maxsize=16)
def _zoo(least_output: float):  # type: ignore[no-untyped-def]
    import torch

    family = _family()
    names = sorted(family.heldout)
    probe = torch.cat([family.heldout[name][:_PROBES] for name in names])[:, :-1]
    zoo = _parts()[1].BlockZoo(probe, least_output_cosine=least_output)
    for name, model in family.models.items():
        zoo.add(name, model, vocabulary=family.vocabulary)
    return zoo


@functools.cache
def _own_loss(name: str) -> float:
    family = _family()
    return float(_parts()[0].losses(family.models[name], family.heldout[name][_PROBES:]))


@functools.lru_cache(maxsize=64)
def _changes(least_output: float) -> dict[str, float]:
    """By child in all weights, the share by which its perplexity grows when assembled."""
    family, zoo = _family(), _zoo(least_output)
    found = {}
    for name in _parts()[0].FULL:
        chain = zoo.assemble(name)
        loss = _parts()[0].losses(chain, family.heldout[name][_PROBES:])
        found[name] = math.exp(loss - _own_loss(name)) - 1
    return found


def _default() -> float:
    return float(_parts()[2].LEAST_OUTPUT_COSINE)


def _bytes(context: Context) -> Measured:
    zoo = _zoo(_default())
    only_equal = _zoo(1.1)
    detail = (
        f"{zoo.stored_bytes:,} of {zoo.separate_bytes:,} bytes, nine models; "
        f"sharing only equal tensors takes {only_equal.stored_bytes / zoo.separate_bytes:.3f}"
    )
    return Measured(value=zoo.stored_bytes / zoo.separate_bytes, detail=detail)


def _apart(context: Context) -> Measured:
    """Each model in a store of its own."""
    family = _family()
    stored = whole = 0
    for name, model in family.models.items():
        zoo = _parts()[1].BlockZoo(family.heldout[name][:_PROBES, :-1])
        zoo.add(name, model, vocabulary=family.vocabulary)
        stored += zoo.stored_bytes
        whole += zoo.separate_bytes
    return Measured(value=stored / whole, detail="nine stores of one model each")


def _equal_scores(context: Context) -> Measured:
    """Share of the six adapter chains whose scores are bit for bit their own model's."""
    import torch

    from plimsoll.models.context import FullContext

    family, zoo = _family(), _zoo(_default())
    equal = []
    with torch.no_grad():
        for name in _parts()[0].ADAPTED:
            tokens = family.heldout[name][:8, :-1]
            scores = []
            for model in (family.children[name], zoo.assemble(name), family.parent):
                full = FullContext(*tokens.shape)
                scores.append(model.logits(model(tokens.flatten(), full.positions(), full)))
            if torch.equal(scores[0], scores[2]):
                raise UnsupportedError(f"{name}: its adapter changes nothing")
            equal.append(float(torch.equal(scores[0], scores[1])))
    return Measured(
        value=sum(equal) / len(equal),
        values=tuple(equal),
        detail="1,024 tokens of held-out text each, float32; each differs from the parent's",
    )


def _perplexity(least_output: Callable[[], float]) -> Callable[[Context], Measured]:
    """Largest growth of perplexity among the children tuned in all weights."""

    def compute(context: Context) -> Measured:
        changes = _changes(least_output())
        zoo = _zoo(least_output())
        shown = ", ".join(
            f"{name} {change:+.2%}, {_shared(zoo, name)} blocks shared"
            for name, change in changes.items()
        )
        return Measured(
            value=max(changes.values()),
            values=tuple(changes.values()),
            detail=f"outputs at least {least_output():g} alike: {shown} of 18",
        )

    return compute


def _shared(zoo, name: str) -> int:  # type: ignore[no-untyped-def]
    return sum(not block.name.startswith(f"{name}/") for block in zoo.chain(name))


def _sweep(context: Context) -> Measured:
    rows, values = [], []
    for threshold in _THRESHOLDS:
        zoo, changes = _zoo(threshold), _changes(threshold)
        values.append(zoo.stored_bytes / zoo.separate_bytes)
        shown = ", ".join(f"{name} {change:+.2%}" for name, change in changes.items())
        label = f"{threshold:g}" if threshold <= 1 else "equal tensors"
        rows.append(f"{label}: {values[-1]:.3f} of the bytes, {shown}")
    return Measured(value=values[0], values=tuple(values), detail="; ".join(rows))


def _matches(*, random: bool, outputs: bool = True) -> Callable[[Context], Measured]:
    """Share of changed layers' blocks that count as the parent's own.

    ``random``: layers of models that were never trained; else copies with noise of 1e-4.
    ``outputs`` False: weights are not looked at, only what the blocks do.
    """

    def compute(context: Context) -> Measured:
        import torch

        from plimsoll.models.block_chain import cut
        from plimsoll.models.loading import build

        family = _family()
        layers = family.parent.config["num_hidden_layers"]
        probe = family.heldout["parent"][:4, :-1]
        zoo = _parts()[1].BlockZoo(probe)
        zoo.add("parent", family.parent, vocabulary=family.vocabulary)
        equal, cosines = [], []
        for index in range(_RANDOM if random else _NOISY):
            generator = torch.Generator().manual_seed(1000 * context.seeds[0] + index)
            model = build(family.parent.config)
            source = cut("parent", family.parent, vocabulary=family.vocabulary)
            state = family.parent.state_dict()
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    noise = torch.randn(parameter.shape, generator=generator)
                    if not random:
                        parameter.copy_(state[name] + _NOISE * noise)
                    elif parameter.ndim == 2:
                        parameter.copy_(noise * parameter.shape[1] ** -0.5)
            depth = index % int(layers)
            blocks = [b for b in cut("other", model, vocabulary=family.vocabulary)]
            found = []
            for place in (1 + 2 * depth, 2 + 2 * depth):
                alike = zoo.compare(source[place].name, blocks[place])
                found.append(alike.equal if outputs else alike.outputs >= _default())
                cosines.append(alike.outputs)
            equal.append(all(found) if not random else any(found))
        detail = (
            f"{len(equal)} layers, attention and feed-forward part each; outputs alike "
            f"{min(cosines):.4f} to {max(cosines):.4f}"
        )
        return Measured(value=sum(equal) / len(equal), detail=detail)

    return compute


ZOO_CHECKS = (
    Check(
        claim="memory",
        title="stored bytes over those of nine separate models",
        how="run",
        band=AtMost(0.45),
        compute=_bytes,
        unit="x",
        ablation=_apart,
        ablation_title="a store for each model",
        slow=True,
    ),
    Check(
        claim="memory",
        title="adapter chains with the scores of their own model, bit for bit",
        how="run",
        band=Between(1.0, 1.0),
        compute=_equal_scores,
        unit="of chains",
        slow=True,
    ),
    Check(
        claim="memory",
        title="perplexity of fully tuned children on shared blocks over their own, less one",
        how="run",
        band=AtMost(0.01),
        compute=_perplexity(lambda: _default()),
        ablation=_perplexity(lambda: 0.0),
        ablation_title="weights alone decide",
        slow=True,
    ),
    Check(
        claim="memory",
        title="bytes by how alike outputs must be, with the growth of perplexity",
        how="run",
        band=Report("the trade between bytes and quality is the reader's"),
        compute=_sweep,
        unit="of the bytes",
        slow=True,
    ),
    Check(
        claim="memory",
        title="layers of untrained models that count as a trained one's",
        how="run",
        band=AtMost(0.0),
        compute=_matches(random=True),
        unit="of 100",
        slow=True,
    ),
    Check(
        claim="memory",
        title="copies with noise of 1e-4 that count as the layer they copy",
        how="run",
        band=AtLeast(1.0),
        compute=_matches(random=False),
        unit="of 100",
        slow=True,
    ),
)
