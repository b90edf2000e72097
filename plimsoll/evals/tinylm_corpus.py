"""The text the small language model learns from: English that ships with Python itself.

The language reference topics of ``pydoc_data`` and every docstring of more than 120 characters in
the standard library, one document each. White space is collapsed and characters outside ASCII
become "?". Documents come in sorted order, each text once (so that none is both learned and held
out), and are then shuffled with a fixed seed: one CPython patch release gives one corpus, named by
its SHA-256. Nothing is downloaded. Left out: tests and installed packages, comments, code.
Source: pydoc_data/topics.py and the docstrings of the running CPython.
"""

import ast
import functools
import hashlib
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plimsoll.spec.errors import UnsupportedError

__all__ = ["Corpus", "docstrings", "make_corpus", "normalized", "read_corpus"]

_MIN_CHARACTERS = 120
_SHUFFLE_SEED = 0
_SKIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
_HAS_DOCSTRING = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Documents in their shuffled order; ``sha256`` is of the documents, a line each."""

    documents: tuple[str, ...]
    sha256: str


@functools.cache
def read_corpus() -> Corpus:
    """The corpus of the running Python, read once a process (3 to 4 s).

    Raises:
        UnsupportedError: this Python ships without its topics or without its sources.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise UnsupportedError(
            "this Python ships without pydoc_data.topics, which the small model learns from; "
            "install the documentation package of your distribution or a Python from python.org"
        ) from None
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    found = list(docstrings(stdlib))
    if not found:
        raise UnsupportedError(
            f"{stdlib}: no Python sources, whose docstrings the small model learns from; "
            "use a Python that ships its standard library as .py files"
        )
    return make_corpus([*(normalized(topics[name]) for name in sorted(topics)), *found])


def make_corpus(documents: list[str]) -> Corpus:
    """Documents, each once, shuffled with the fixed seed, and their hash."""
    different = list(dict.fromkeys(documents))
    order = np.random.default_rng(_SHUFFLE_SEED).permutation(len(different))
    shuffled = tuple(different[i] for i in order)
    return Corpus(
        documents=shuffled, sha256=hashlib.sha256("\n".join(shuffled).encode("ascii")).hexdigest()
    )


def docstrings(stdlib: Path) -> Iterator[str]:
    """Normalized docstrings of the sources below a folder, in sorted path order."""
    paths = {p.relative_to(stdlib).as_posix(): p for p in stdlib.rglob("*.py")}
    for name in sorted(paths):
        if _SKIPPED.isdisjoint(name.split("/")[:-1]):
            yield from _docstrings_of(paths[name])


def _docstrings_of(path: Path) -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the escapes in other people's strings
        tree = ast.parse(path.read_bytes(), filename=str(path))
    for node in ast.walk(tree):
        if isinstance(node, _HAS_DOCSTRING):
            text = normalized(ast.get_docstring(node, clean=False) or "")
            if len(text) > _MIN_CHARACTERS:
                yield text


def normalized(text: str) -> str:
    """White space collapsed to single spaces, characters outside ASCII replaced by "?"."""
    return " ".join(text.split()).encode("ascii", "replace").decode("ascii")
