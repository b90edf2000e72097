"""Build a datastore in a folder, shard by shard, and open it again.

Documents are cut into chunks, in order; every ``shard_chunks`` of them become one shard: texts,
vectors and a digest, written under a temporary name and renamed when whole. A build that was
interrupted goes on with the first shard that is missing: what stands in the folder is compared
with the documents by digest and neither embedded nor written again. ``datastore.json`` comes last;
without it the folder does not open.

    build.json                    what it is built with
    shard-00000/chunks.jsonl      id and text of each chunk
    shard-00000/embeddings.npy    float32 [n, d]
    shard-00000/shard.json        chunks and their digest
    datastore.json                shards, chunks, documents without words

Left out: adding documents to a finished store; several builders at once.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from plimsoll.data.datastore import Datastore, Shard
from plimsoll.data.documents import CHUNK_WORDS, Chunk, Document, chunks_of
from plimsoll.data.embed import Encoder
from plimsoll.spec.errors import SpecError
from plimsoll.spec.io import write_text

__all__ = ["Built", "build", "open_datastore"]

_PARTIAL = ".partial"


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What a build did. ``resumed``: shards that stood there already."""

    shards: int
    chunks: int
    documents: int
    empty_documents: int
    resumed: int


def build(
    documents: Iterable[Document],
    folder: Path,
    encoder: Encoder,
    *,
    shard_chunks: int,
    chunk_words: int = CHUNK_WORDS,
) -> Built:
    """Build into ``folder``, or go on where a build stopped.

    Raises:
        SpecError: no document has words, an id twice, a folder built with other settings or from
            other documents.
    """
    for name, value in (("shard_chunks", shard_chunks), ("chunk_words", chunk_words)):
        if value < 1:
            raise SpecError(f"{name} is {value}; expected 1 or more")
    _settle(
        folder,
        {
            "format_version": 1,
            "chunk_words": chunk_words,
            "shard_chunks": shard_chunks,
            "encoder": encoder.settings,
        },
    )
    counts = {"documents": 0, "empty": 0}
    shards = chunks = resumed = 0
    for part in _parts(documents, chunk_words, shard_chunks, counts):
        target = folder / f"shard-{shards:05d}"
        if target.exists():
            _same(target, part)
            resumed += 1
        else:
            _write_shard(target, part, encoder)
        shards, chunks = shards + 1, chunks + len(part)
    if not chunks:
        raise SpecError(
            f"{folder}: {counts['documents']} documents and no word in them; expected some text"
        )
    if (folder / f"shard-{shards:05d}").exists():
        raise _other_documents(folder / f"shard-{shards:05d}")
    done = Built(
        shards=shards,
        chunks=chunks,
        documents=counts["documents"],
        empty_documents=counts["empty"],
        resumed=resumed,
    )
    _write_json(
        folder / "datastore.json",
        {
            "format_version": 1,
            "shards": shards,
            "chunks": chunks,
            "documents": done.documents,
            "empty_documents": done.empty_documents,
        },
    )
    return done


def _settle(folder: Path, settings: dict[str, Any]) -> None:
    """Make the folder, or see that it was made with these settings; clear what was cut off."""
    file = folder / "build.json"
    if file.exists():
        found = _read_json(file)
        if found != settings:
            different = [k for k in settings if found.get(k) != settings[k]]
            raise SpecError(
                f"{folder}: was begun with another {' and '.join(different)}; finish it with the "
                "same, or build into another folder"
            )
    elif folder.exists() and any(folder.iterdir()):
        raise SpecError(f"{folder}: holds other files; expected a new folder or a build to resume")
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"shard-*{_PARTIAL}"):
        shutil.rmtree(left)
    if not file.exists():
        _write_json(file, settings)


def _parts(
    documents: Iterable[Document], chunk_words: int, shard_chunks: int, counts: dict[str, int]
) -> Iterator[list[Chunk]]:
    """Chunks of one shard at a time; counts documents, and those without words."""
    part: list[Chunk] = []
    seen: dict[str, str] = {}
    for document in documents:
        if document.id in seen:
            raise SpecError(
                f"{document.where or 'a document'}: id {document.id} stands at "
                f"{seen[document.id] or 'an earlier document'} too; expected every id once"
            )
        seen[document.id] = document.where
        pieces = chunks_of(document, chunk_words)
        counts["documents"] += 1
        counts["empty"] += not pieces
        for piece in pieces:
            part.append(piece)
            if len(part) == shard_chunks:
                yield part
                part = []
    if part:
        yield part


def _lines(part: Sequence[Chunk]) -> str:
    return "".join(
        json.dumps({"id": one.id, "text": one.text}, ensure_ascii=False) + "\n" for one in part
    )


def _write_shard(target: Path, part: Sequence[Chunk], encoder: Encoder) -> None:
    partial = target.with_name(target.name + _PARTIAL)
    vectors = encoder.encode([one.text for one in part])
    partial.mkdir()
    text = _lines(part).encode()
    (partial / "chunks.jsonl").write_bytes(text)
    np.save(partial / "embeddings.npy", vectors)
    _write_json(partial / "shard.json", {"chunks": len(part), "sha256": _digest(text)})
    os.replace(partial, target)


def _same(target: Path, part: Sequence[Chunk]) -> None:
    if _read_json(target / "shard.json").get("sha256") != _digest(_lines(part).encode()):
        raise _other_documents(target)


def _other_documents(target: Path) -> SpecError:
    return SpecError(
        f"{target}: was built from other documents; give those it was begun with, or build into "
        "another folder"
    )


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def open_datastore(folder: Path, encoder: Encoder) -> Datastore:
    """A finished store, with the encoder it was built with.

    Raises:
        SpecError: no store, an unfinished or damaged one, or another encoder.
    """
    if not (folder / "build.json").is_file():
        raise SpecError(f"{folder}: no build.json; expected the folder of a datastore")
    if not (folder / "datastore.json").is_file():
        raise SpecError(
            f"{folder}: its build was interrupted (no datastore.json); build it again with the "
            "same documents to go on"
        )
    if _read_json(folder / "build.json").get("encoder") != encoder.settings:
        raise SpecError(
            f"{folder}: was built with another encoder; queries need the same one, fitted on the "
            "same texts"
        )
    num = _read_json(folder / "datastore.json").get("shards")
    if not isinstance(num, int) or num < 1:
        raise SpecError(
            f"{folder}/datastore.json: shards is {num!r}; expected how many there are, so build "
            "the store again"
        )
    return Datastore([_read_shard(folder / f"shard-{at:05d}") for at in range(num)], encoder)


def _read_shard(folder: Path) -> Shard:
    try:
        raw = (folder / "chunks.jsonl").read_bytes()
        vectors = np.load(folder / "embeddings.npy", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise SpecError(f"{folder}: cannot be read: {error}; build the store again") from None
    if _read_json(folder / "shard.json").get("sha256") != _digest(raw):
        raise SpecError(f"{folder}/chunks.jsonl: is not as written; build the store again")
    chunks = [json.loads(line) for line in raw.decode("utf-8").split("\n") if line]
    return Shard(
        [one["id"] for one in chunks],
        [one["text"] for one in chunks],
        vectors,
        name=folder.name,
    )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpecError(f"{file}: cannot be read: {error}; build the store again") from None
    if not isinstance(found, dict):
        raise SpecError(f"{file}: holds {type(found).__name__}; expected an object")
    return found


def _write_json(file: Path, data: dict[str, Any]) -> None:
    write_text(json.dumps(data, indent=1, sort_keys=True) + "\n", file)
