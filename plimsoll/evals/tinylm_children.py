"""Fine-tuned children of the small language model: six by adapters, two in all their weights.

The parent is ``tiny_lm`` after 300 steps. Each child learns the documents of one subject: those of
its corpus that speak of it, or (for the child tuned hardest) Python source instead of prose. A
tenth of a subject's text is held out. Adapters of rank 4 sit on queries, values and the two ends
of the feed-forward part. The folder is kept in the user's cache like the parent's.
Left out: instruction tuning; the children differ by subject alone.
"""

import hashlib
import json
import math
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from plimsoll.evals.artifact_cache import cache_root, cached_folder
from plimsoll.evals.tinylm import NUM_THREADS, code_sha256, tiny_lm
from plimsoll.evals.tinylm_corpus import normalized, read_corpus
from plimsoll.evals.tinylm_tokenizer import token_stream
from plimsoll.evals.tinylm_train import LENGTH_TOKENS, pinned
from plimsoll.models.context import Decoder, FullContext
from plimsoll.models.loading import load
from plimsoll.models.lora import Lora, adapters_of, attach, new_lora

__all__ = ["ADAPTED", "FULL", "Family", "losses", "tiny_family"]

PARENT_STEPS = 300
ADAPTED = {
    "mail": "mail",
    "threads": "thread",
    "files": "file",
    "tests": "test",
    "network": "socket",
    "classes": "class",
}
"""Children by adapter, and the word that the documents they learn contain."""
FULL = ("language", "code")
"""Children in all weights: the language reference, and Python source."""

_TARGETS = ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.down_proj")
_RANK = 4
_ADAPTER_STEPS, _ADAPTER_RATE = 30, 2e-3
_FULL_STEPS = {"language": 30, "code": 60}
_FULL_RATE = {"language": 2e-4, "code": 1e-3}
_BATCH = 16
_SOURCES_OF_CODE = 60
_HELDOUT_FRACTION = 0.1
_MOST_HELDOUT = 48
_SOURCES = ("evals/tinylm_children.py", "models/lora.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """The parent and its children, as models of their own; ``heldout`` [N, 129] tokens by name."""

    parent: Decoder
    children: Mapping[str, Decoder]
    heldout: Mapping[str, Tensor]
    vocabulary: str
    tokenizer: Tokenizer

    @property
    def models(self) -> dict[str, Decoder]:
        """All nine, the parent first."""
        return {"parent": self.parent, **self.children}


def tiny_family(progress: Callable[[str], None] = lambda name: None) -> Family:
    """The nine models, trained now if the cache has no whole folder (two to four minutes).

    Raises:
        UnsupportedError, ExecutionError: as ``tiny_lm``.
    """
    parent = tiny_lm(steps=PARENT_STEPS)
    code = code_sha256(_SOURCES)
    digest = hashlib.sha256(f"{parent.name} {code} {NUM_THREADS}".encode()).hexdigest()[:16]
    text = (parent / "tokenizer.json").read_text(encoding="utf-8")
    tokenizer = Tokenizer.from_str(text)
    subjects = {name: _windows(tokenizer, docs) for name, docs in _documents().items()}

    def make(folder: Path) -> None:
        for name in (*ADAPTED, *FULL):
            progress(name)
            child = load(parent)
            with pinned(NUM_THREADS):
                tensors = _tuned(child, name, subjects[name][0])
            save_file(tensors, folder / f"{name}.safetensors")
        (folder / "subjects.json").write_text(
            json.dumps({name: len(parts[0]) for name, parts in subjects.items()}) + "\n"
        )

    folder = cached_folder(cache_root() / "tinylm-children" / digest, make)
    children: dict[str, Decoder] = {}
    for name in (*ADAPTED, *FULL):
        child = load(parent)
        stored = load_file(folder / f"{name}.safetensors")
        if name in FULL:
            child.load_state_dict(stored)  # type: ignore[attr-defined]
        else:
            paths = {key.rpartition(".")[0] for key in stored}
            loras = {p: Lora(stored[f"{p}.a"], stored[f"{p}.b"]) for p in sorted(paths)}
            attach(child, loras)  # type: ignore[arg-type]
        child.requires_grad_(False)  # type: ignore[attr-defined]
        children[name] = child
    base = load(parent)
    base.requires_grad_(False)  # type: ignore[attr-defined]
    heldout = {name: parts[1] for name, parts in subjects.items()}
    heldout["parent"] = torch.cat([part[:8] for part in heldout.values()])
    return Family(
        parent=base,
        children=children,
        heldout=heldout,
        vocabulary=hashlib.sha256(text.encode()).hexdigest()[:12],
        tokenizer=tokenizer,
    )


@torch.no_grad()
def losses(model: Decoder, windows: Tensor) -> float:
    """Mean nats a token over [N, 129]; perplexity is its exponential."""
    return float(torch.cat([_losses(model, part) for part in windows.split(_BATCH)]).mean())


def _documents() -> dict[str, list[str]]:
    from pydoc_data.topics import topics

    documents = read_corpus().documents
    found = {n: [d for d in documents if w in d.lower()] for n, w in ADAPTED.items()}
    found["language"] = [normalized(topics[name]) for name in sorted(topics)]
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    paths = sorted(stdlib.glob("*.py"))[:_SOURCES_OF_CODE]
    found["code"] = [normalized(p.read_text(encoding="utf-8", errors="replace")) for p in paths]
    return found


def _windows(tokenizer: Tokenizer, documents: list[str]) -> tuple[Tensor, Tensor]:
    """([N, 129] to learn, [M, 129] held out), without a token in both."""
    stream = torch.from_numpy(token_stream(tokenizer, documents))
    span = LENGTH_TOKENS + 1
    windows = stream[: len(stream) // span * span].view(-1, span)
    cut = max(1, min(_MOST_HELDOUT, int(len(windows) * _HELDOUT_FRACTION)))
    return windows[:-cut], windows[-cut:]


def _losses(model: Decoder, tokens: Tensor) -> Tensor:
    context = FullContext(len(tokens), LENGTH_TOKENS)
    hidden_TC = model(tokens[:, :-1].flatten(), context.positions(), context)
    return torch.nn.functional.cross_entropy(
        model.logits(hidden_TC), tokens[:, 1:].flatten(), reduction="none"
    )


def _tuned(child: Decoder, name: str, windows: Tensor) -> dict[str, Tensor]:
    """What there is to store of a child after its steps; ``child`` is the parent's copy."""
    generator = torch.Generator().manual_seed(
        int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)
    )
    full = name in FULL
    child.requires_grad_(full)  # type: ignore[attr-defined]
    if full:
        parameters = list(child.parameters())  # type: ignore[attr-defined]
        steps, rate = _FULL_STEPS[name], _FULL_RATE[name]
    else:
        parameters = []
        for index, layer in enumerate(child.layers):
            loras = {t: new_lora(layer.get_submodule(t), _RANK, generator) for t in _TARGETS}  # type: ignore[arg-type]
            attach(child, {f"layers.{index}.{t}": lora for t, lora in loras.items()})  # type: ignore[arg-type]
            parameters += [m for lora in loras.values() for m in (lora.a_RC, lora.b_DR)]
        steps, rate = _ADAPTER_STEPS, _ADAPTER_RATE
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        batch = windows[torch.randint(len(windows), (_BATCH,), generator=generator)]
        optimizer.zero_grad()
        _losses(child, batch).mean().backward()
        optimizer.step()
    if full:
        return {k: p.detach().contiguous() for k, p in child.named_parameters()}  # type: ignore[attr-defined]
    return {
        f"{path}.{part}": matrix.detach().contiguous()
        for path, lora in adapters_of(child).items()  # type: ignore[arg-type]
        for part, matrix in (("a", lora.a_RC), ("b", lora.b_DR))
    }
