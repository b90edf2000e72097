"""A small language model that anybody can train in minutes, for demonstrations and tests.

``tiny_lm`` gives the folder of a Hugging Face checkpoint (a Llama of 0.93 million parameters with
its tokenizer), trained on this machine from text that ships with Python, without any download.
The folder is kept in the user's cache under the corpus, the code, the seed, the steps and the
threads it came from, and is made again if any of its files is not as written. ``report.json``
says how it was made and how well it predicts text it has not seen. Left out: models that know
anything; this one writes plausible fragments of Python's documentation.
"""

import ast
import hashlib
import importlib.metadata
import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import ClassVar, Literal

from plimsoll.evals.artifact_cache import cache_root, cached_folder, flaw
from plimsoll.evals.tinylm_corpus import Corpus, read_corpus
from plimsoll.spec.errors import SpecError, UnsupportedError
from plimsoll.spec.io import PLAIN, read, write

__all__ = [
    "NUM_STEPS",
    "NUM_THREADS",
    "SOURCES",
    "TinyLmReport",
    "code_sha256",
    "existing_tiny_lm",
    "read_report",
    "tiny_lm",
]

NUM_STEPS = 400
NUM_THREADS = 1
"""Two are faster on idle cores; on busy ones they wait for each other at every small product,
and a step has been measured to take 9 s instead of 0.4 s."""
SOURCES = (
    "evals/muon.py",
    "evals/tinylm_corpus.py",
    "evals/tinylm_tokenizer.py",
    "evals/tinylm_train.py",
    "models/attention.py",
    "models/context.py",
    "models/decoder_stack.py",
    "models/dimensions.py",
    "models/grouped_attention.py",
    "models/layers.py",
    "models/llama.py",
    "models/rope.py",
)
"""The files of the package that decide the weights."""

_LIBRARIES = ("numpy", "safetensors", "tokenizers", "torch")
_REPORT = "report.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyLmReport:
    """How a model was made and how well it predicts.

    ``heldout_loss`` is in nats a token, ``heldout_bits_per_byte`` does not depend on the tokenizer;
    both are over ``num_heldout_tokens`` predictions from the end of the corpus, each seeing at most
    ``train_length_tokens`` - 1 tokens before it in its window. ``max_positions`` is what the
    configuration offers.
    """

    __pydantic_config__: ClassVar = PLAIN
    FORMAT_VERSION: ClassVar[int] = 1
    format_version: Literal[1] = 1
    seed: int
    steps: int
    threads: int
    corpus_sha256: str
    code_sha256: str
    weights_sha256: str
    num_documents: int
    num_train_tokens: int
    num_heldout_tokens: int
    num_parameters: int
    vocab_size: int
    train_length_tokens: int
    max_positions: int
    heldout_loss: float
    heldout_perplexity: float
    heldout_bits_per_byte: float
    training_s: float
    python_version: str
    libraries: dict[str, str]
    notes: tuple[str, ...]


def tiny_lm(
    seed: int = 0,
    *,
    steps: int = NUM_STEPS,
    progress: Callable[[int, int, float], None] | None = None,
) -> Path:
    """The folder of the model, trained now if the cache has no whole one.

    ``progress`` is told (steps done, steps in all, loss) while it trains.

    Raises:
        UnsupportedError: torch, safetensors or tokenizers is not installed, or Python came
            without its texts.
        ExecutionError: the cache cannot be written.
    """
    corpus = read_corpus()
    origin = _origin(corpus, seed, steps)

    def make(folder: Path) -> None:
        _make(folder, corpus, origin, progress=progress)

    return cached_folder(origin.folder(), make, judge=origin.contradicted_by)


def existing_tiny_lm(seed: int = 0, *, steps: int = NUM_STEPS) -> Path:
    """The folder of a model that is already there and whole.

    Raises:
        SpecError: it is not; nothing is trained.
    """
    origin = _origin(read_corpus(), seed, steps)
    folder = origin.folder()
    wrong = origin.contradicted_by(folder) if folder.exists() else "not built yet"
    if wrong:
        again = f" --seed {seed}" if seed else ""
        raise SpecError(f"{folder}: {wrong}; run `plimsoll tinylm build{again}`")
    return folder


def read_report(folder: Path) -> TinyLmReport:
    """What ``report.json`` of a model's folder says."""
    return read(TinyLmReport, folder / _REPORT)


def code_sha256(sources: Sequence[str] = SOURCES) -> str:
    """Hash of the code that decides the weights (or of other files of the package), comments and
    docstrings aside, and of the versions of the libraries under it.

    Raises:
        UnsupportedError: one of them is not installed.
    """
    found = hashlib.sha256(repr(sorted(_versions().items())).encode())
    package = Path(__file__).resolve().parents[1]
    for name in sources:
        tree = ast.parse((package / name).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
                text = body[0].value
                if isinstance(text, ast.Constant) and isinstance(text.value, str):
                    text.value = ""
        found.update(f"{name}\n{ast.dump(tree)}\n".encode())
    return found.hexdigest()


def _versions() -> dict[str, str]:
    try:
        return {name: importlib.metadata.version(name) for name in _LIBRARIES}
    except importlib.metadata.PackageNotFoundError as error:
        raise UnsupportedError(
            f"the small model needs {error.name}, which is not installed; install plimsoll[torch]"
        ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Origin:
    """All that decides a model's weights, but for the processor."""

    corpus_sha256: str
    code_sha256: str
    seed: int
    steps: int
    threads: int

    def folder(self) -> Path:
        """Where the model lies."""
        digest = hashlib.sha256(repr(self).encode()).hexdigest()[:16]
        return cache_root() / "tinylm" / f"seed{self.seed}-{digest}"

    def contradicted_by(self, folder: Path) -> str:
        """What is wrong with a model's folder: damaged, or of another origin; "" for nothing."""
        if wrong := flaw(folder):
            return wrong
        try:
            report = read_report(folder)
        except SpecError as error:
            return f"its {_REPORT} cannot be read ({error})"
        other = [f.name for f in fields(self) if getattr(report, f.name) != getattr(self, f.name)]
        return f"made with another {', '.join(other)}" if other else ""


def _origin(corpus: Corpus, seed: int, steps: int) -> _Origin:
    if not 0 <= seed < 2**63:
        raise SpecError(f"seed {seed}: expected 0 to 2**63 - 1")
    if steps < 1:
        raise SpecError(f"steps {steps}: expected 1 or more")
    return _Origin(
        corpus_sha256=corpus.sha256,
        code_sha256=code_sha256(),
        seed=seed,
        steps=steps,
        threads=NUM_THREADS,
    )


def _make(
    folder: Path,
    corpus: Corpus,
    origin: _Origin,
    *,
    progress: Callable[[int, int, float], None] | None,
) -> None:
    """Train and write everything into an empty folder."""
    from plimsoll.evals import tinylm_tokenizer as text
    from plimsoll.evals import tinylm_train as training
    from plimsoll.models.loading import save

    started_s = time.monotonic()
    tokenizer = text.train_tokenizer(corpus.documents)
    stream = text.token_stream(tokenizer, corpus.documents)
    learned, heldout = training.split(stream)
    end_id = tokenizer.token_to_id(text.END)
    with training.pinned(origin.threads):
        config = training.config_of(tokenizer.get_vocab_size(), end_id)
        model = training.train(
            config, learned, seed=origin.seed, steps=origin.steps, progress=progress
        )
        loss = training.heldout_loss(model, heldout)
    save(model, folder)
    text.save_tokenizer(tokenizer, folder, max_positions=training.MAX_POSITIONS)
    targets = heldout[:, 1:]
    num_bytes = sum(
        len(tokenizer.decode(row, skip_special_tokens=False)) for row in targets.tolist()
    )
    weights = (folder / "model.safetensors").read_bytes()
    report = TinyLmReport(
        **asdict(origin),
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        num_documents=len(corpus.documents),
        num_train_tokens=learned.shape[0] * training.LENGTH_TOKENS + 1,
        num_heldout_tokens=targets.numel(),
        num_parameters=sum(p.numel() for p in model.parameters()),
        vocab_size=tokenizer.get_vocab_size(),
        train_length_tokens=training.LENGTH_TOKENS,
        max_positions=training.MAX_POSITIONS,
        heldout_loss=loss,
        heldout_perplexity=math.exp(loss),
        heldout_bits_per_byte=loss / math.log(2) * targets.numel() / num_bytes,
        training_s=round(time.monotonic() - started_s, 1),
        python_version=platform.python_version(),
        libraries=_versions(),
        notes=(
            f"trained on windows of {training.LENGTH_TOKENS} tokens; the configuration offers "
            f"{training.MAX_POSITIONS:,} positions, the rest of which the model has never learned",
        ),
    )
    write(report, folder / _REPORT)
