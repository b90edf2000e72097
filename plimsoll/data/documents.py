"""Documents from JSON lines, cut into chunks of so many words.

A line holds ``{"id": ..., "text": ...}``; without an id a document is called by its file and line.
A chunk is the text of up to ``chunk_words`` words in a row, parted by blanks, and is called
``ID#0``, ``ID#1``, … A document without words has no chunk.
Left out: sentences and headings (a chunk may end anywhere); chunks that overlap.
Source: arXiv 2407.12854, section 3 (chunks of 256 words).
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from plimsoll.spec.errors import SpecError

__all__ = ["CHUNK_WORDS", "Chunk", "Document", "chunks_of", "read_documents"]

CHUNK_WORDS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A text; ``where`` it was read, for complaints."""

    id: str
    text: str
    where: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Up to so many words of a document."""

    id: str
    text: str


def read_documents(paths: Iterable[Path]) -> Iterator[Document]:
    """All documents of the files, in order; blank lines are passed over.

    Raises:
        SpecError: a file that cannot be read, a line that is no JSON object with a text; it names
            file and line.
    """
    for path in paths:
        try:
            with path.open("rb") as lines:
                for number, raw in enumerate(lines, start=1):
                    if raw.strip():
                        yield _document(raw, path, number)
        except OSError as error:
            raise SpecError(
                f"{path}: cannot be read: {error.strerror}; expected JSON lines, each with a text"
            ) from None


def _document(raw: bytes, path: Path, number: int) -> Document:
    where = f"{path} line {number}"
    try:
        found = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise SpecError(f"{where}: byte {error.start} is not UTF-8; expected JSON") from None
    except json.JSONDecodeError as error:
        raise SpecError(
            f"{where}: is no JSON ({error.msg} at character {error.pos}); expected an object as "
            'in {"id": "a", "text": "…"}; mend or remove the line'
        ) from None
    if not isinstance(found, dict) or not isinstance(found.get("text"), str):
        raise SpecError(f'{where}: has no text; expected an object as in {{"text": "…"}}')
    name = found.get("id", f"{path.name}:{number}")
    if not isinstance(name, str | int) or name == "":
        raise SpecError(f"{where}: id is {name!r}; expected a name or a whole number")
    return Document(id=str(name), text=found["text"], where=where)


def chunks_of(document: Document, chunk_words: int = CHUNK_WORDS) -> list[Chunk]:
    """The document in pieces of ``chunk_words`` words, the last as it comes."""
    words = document.text.split()
    return [
        Chunk(id=f"{document.id}#{at}", text=" ".join(words[first : first + chunk_words]))
        for at, first in enumerate(range(0, len(words), chunk_words))
    ]
