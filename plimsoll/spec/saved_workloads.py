"""Workloads saved and loaded again, exactly.

``.npz`` holds the columns as numpy arrays beside a JSON header: small and fast. ``.jsonl`` holds
the header in its first line and one request in each of the next: readable, and every number
round-trips. Files are written under a temporary name and renamed.
"""

import contextlib
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import IO, Any

import numpy as np

from plimsoll.spec.errors import SpecError
from plimsoll.spec.traces.source import WHOLE, numbered_lines, open_trace
from plimsoll.spec.workload import Workload

__all__ = ["SAVED_KEY", "load_saved", "save_workload"]

SAVED_KEY = "plimsoll_workload"
_VERSION = 1
_FLOATS = ("arrival_s", "think_s", "cancel_after_s")
_INTS = (
    "prompt_tokens",
    "output_tokens",
    "max_tokens",
    "class_index",
    "session_id",
    "priority",
)
_PREFIX = ("prefix_keys", "prefix_start")
_HEADER = tuple(f.name for f in fields(Workload) if f.name not in (*_FLOATS, *_INTS, *_PREFIX))
_TYPES: dict[str, type] = {
    "name": str,
    "source": str,
    "prefix_block_tokens": int,
    "num_in_flight": int,
    "sessions_wait": bool,
}


def _header(workload: Workload) -> dict[str, Any]:
    header = {name: getattr(workload, name) for name in _HEADER}
    return {SAVED_KEY: _VERSION, **header, "requests": len(workload)}


def _settings(path: Path, header: Any) -> dict[str, Any]:
    """The scalar fields out of a header that may be anybody's."""
    if not isinstance(header, dict) or SAVED_KEY not in header:
        raise SpecError(f"{path}: not a saved workload (no {SAVED_KEY} header)")
    version = header[SAVED_KEY]
    if not isinstance(version, int) or version > _VERSION:
        raise SpecError(
            f"{path}: saved by a newer version of Plimsoll (format {str(version)[:20]}, this one "
            f"reads {_VERSION}); upgrade Plimsoll"
        )
    settings: dict[str, Any] = {}
    for name in _HEADER:
        value = header.get(name)
        if name in _TYPES:
            if type(value) is not _TYPES[name]:
                raise SpecError(f"{path}: header: {name} = {str(value)[:40]!r} is not valid")
        elif not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
            raise SpecError(f"{path}: header: {name} must be a list of texts")
        else:
            value = tuple(value)
        settings[name] = value
    return settings


@contextlib.contextmanager
def _atomic(path: Path) -> Iterator[IO[bytes]]:
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            yield file
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise SpecError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def save_workload(workload: Workload, path: Path) -> None:
    """Write ``workload`` as .npz or .jsonl, chosen by the name; all or nothing."""
    if path.suffix == ".npz":
        columns = {
            name: getattr(workload, name)
            for name in (*_FLOATS, *_INTS, *_PREFIX)
            if len(getattr(workload, name))
        }
        header = np.frombuffer(json.dumps(_header(workload)).encode(), dtype=np.uint8)
        with _atomic(path) as file:
            np.savez(file, header=header, **columns)
    elif path.suffix == ".jsonl":
        names = [n for n in (*_FLOATS, *_INTS) if len(getattr(workload, n))]
        rows = zip(*(getattr(workload, n).tolist() for n in names), strict=True)
        keys, starts = workload.prefix_keys.tolist(), workload.prefix_start.tolist()
        with _atomic(path) as file:
            file.write(json.dumps(_header(workload)).encode() + b"\n")
            for i, row in enumerate(rows):
                record: dict[str, Any] = dict(zip(names, row, strict=True))
                if record.get("cancel_after_s") == float("inf"):
                    record["cancel_after_s"] = None
                if starts:
                    record["prefix_keys"] = keys[starts[i] : starts[i + 1]]
                file.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")
    else:
        raise SpecError(f"{path}: a workload is saved as .npz or .jsonl; choose one of them")


def load_saved(path: Path) -> Workload:
    """What ``save_workload`` wrote.

    Raises:
        SpecError: not such a file, cut off, or with values a workload cannot have.
    """
    if path.suffix == ".npz":
        return _load_npz(path)
    return _load_jsonl(path)


def _checked(path: Path, settings: dict[str, Any], columns: dict[str, Any]) -> Workload:
    for name in ("arrival_s", "prompt_tokens", "output_tokens"):
        if name not in columns:
            raise SpecError(f"{path}: column {name} is missing")
    starts = columns.get("prefix_start")
    if starts is not None:
        rising = len(starts) > 0 and starts[0] == 0 and bool(np.all(np.diff(starts) >= 0))
        if not rising or starts[-1] != len(columns.get("prefix_keys", ())):
            raise SpecError(f"{path}: prefix_start and prefix_keys do not belong together")
        if settings["prefix_block_tokens"] < 1:
            raise SpecError(f"{path}: prefix_block_tokens must be above zero with prefix keys")
    for name in ("think_s", "cancel_after_s"):
        if name in columns and not bool(np.all(columns[name] >= 0)):
            raise SpecError(f"{path}: {name} must be zero or more")
    kinds = columns.get("class_index")
    count = len(settings["classes"])
    if kinds is not None and len(kinds) and not 0 <= kinds.min() <= kinds.max() < count:
        raise SpecError(f"{path}: class_index points outside of the classes of the header")
    if settings["num_in_flight"] < 0:
        raise SpecError(f"{path}: num_in_flight must be zero or more")
    return Workload(**settings, **columns)


_UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    MemoryError,
    RuntimeError,
    SyntaxError,
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
)
"""What damaged archives make the zip and array readers raise."""


def _load_npz(path: Path) -> Workload:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
            arrays = {name: data[name] for name in data.files}
    except FileNotFoundError:
        raise SpecError(f"{path}: no such file") from None
    except _UNREADABLE as error:
        raise SpecError(f"{path}: not a readable .npz file: {str(error)[:80]}") from None
    raw = arrays.pop("header", None)
    try:
        header = json.loads(raw.tobytes()) if raw is not None else None
    except (ValueError, RecursionError):
        header = None
    settings = _settings(path, header)
    columns: dict[str, Any] = {}
    for name, values in arrays.items():
        if name not in (*_FLOATS, *_INTS, *_PREFIX):
            raise SpecError(f"{path}: unknown column {name!r}")
        expected = np.float64 if name in _FLOATS else np.int64
        if values.ndim != 1 or values.dtype != expected:
            raise SpecError(f"{path}: column {name} must be a list of {expected.__name__}")
        columns[name] = values
    return _checked(path, settings, columns)


def _load_jsonl(path: Path) -> Workload:
    records: list[dict[str, Any]] = []
    with open_trace(path, WHOLE) as lines:
        header: Any = None
        for number, line in numbered_lines(path, lines):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise SpecError(
                    f"{path}: line {number}: not a JSON object; is the file cut off? "
                    f"({str(error)[:60]})"
                ) from None
            if not isinstance(row, dict):
                raise SpecError(f"{path}: line {number}: expected a JSON object")
            if header is None:
                header = row
                settings = _settings(path, header)
            else:
                records.append(row)
    if header is None or len(records) != header.get("requests"):
        raise SpecError(
            f"{path}: holds {len(records):,} requests, its header says "
            f"{str((header or {}).get('requests'))[:20]}; is the file cut off?"
        )
    columns: dict[str, Any] = {}
    for name in records[0] if records else ():
        if name not in (*_FLOATS, *_INTS, "prefix_keys"):
            raise SpecError(f"{path}: line 2: unknown field {name!r}")
        values = []
        for number, row in enumerate(records, start=2):
            value = row.get(name, "missing")
            if name == "cancel_after_s" and value is None:
                value = float("inf")
            good = (
                isinstance(value, list) and all(type(v) is int for v in value)
                if name == "prefix_keys"
                else type(value) is int or (name in _FLOATS and type(value) is float)
            )
            if not good or len(row) != len(records[0]):
                raise SpecError(f"{path}: line {number}: {name} = {str(value)[:40]!r} is not valid")
            values.append(value)
        try:
            if name == "prefix_keys":
                starts = np.concatenate(([0], np.cumsum([len(v) for v in values])))
                columns["prefix_start"] = starts.astype(np.int64)
                flat = [v for keys in values for v in keys]
                columns["prefix_keys"] = np.array(flat, dtype=np.int64)
            else:
                kind = np.float64 if name in _FLOATS else np.int64
                columns[name] = np.array(values, dtype=kind)
        except OverflowError:
            raise SpecError(f"{path}: {name} holds a number that is too large") from None
    return _checked(path, settings, columns)
