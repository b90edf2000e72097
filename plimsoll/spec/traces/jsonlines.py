"""Traces of one JSON object a line: Mooncake's, and plain timestamp and lengths.

Mooncake: ``timestamp`` in ms, ``input_length``, ``output_length`` and ``hash_ids``, one hash per
512-token block of the prompt, each standing for the whole prefix up to it; the last block may be
partly filled. Plain: ``timestamp`` in seconds with prompt_len/output_len or
prompt_tokens/output_tokens.
Source: kvcache-ai/Mooncake FAST25-release/traces.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from plimsoll.spec.errors import SpecError
from plimsoll.spec.traces.columns import numbers, tokens
from plimsoll.spec.traces.rows import RowSink
from plimsoll.spec.traces.source import WHOLE, Slice, numbered_lines, open_trace
from plimsoll.spec.workload import Workload

__all__ = ["MOONCAKE_BLOCK_TOKENS", "json_layout", "load_jsonl", "load_mooncake"]

MOONCAKE_BLOCK_TOKENS = 512
_CHUNK_ROWS = 20_000
_MAX_KEY = 2**63 - 1

# (name, time field, seconds a unit of time, prompt field, output field)
_LAYOUTS = (
    ("mooncake", "timestamp", 1e-3, "input_length", "output_length"),
    ("JSON lines", "timestamp", 1.0, "prompt_len", "output_len"),
    ("JSON lines", "timestamp", 1.0, "prompt_tokens", "output_tokens"),
)


def json_layout(row: dict[str, Any]) -> tuple[str, str, float, str, str] | None:
    """The layout whose fields are all in ``row``, or None."""
    for layout in _LAYOUTS:
        if all(layout[k] in row for k in (1, 3, 4)):
            return layout
    return None


def _objects(path: Path, lines: Iterator[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in numbered_lines(path, lines):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            cut = "" if line.endswith("\n") else " (the last line; is the file cut off?)"
            raise SpecError(
                f"{path}: line {number}: not a JSON object{cut}: {str(error)[:80]}"
            ) from None
        if not isinstance(row, dict):
            raise SpecError(f"{path}: line {number}: expected a JSON object, one a line")
        yield number, row


def load_jsonl(path: Path, *, part: Slice = WHOLE) -> Workload:
    """A trace of one JSON object a line, in one of the layouts of this module."""
    sink = RowSink(path, part)
    with open_trace(path, part) as lines:
        layout: tuple[str, str, float, str, str] | None = None
        chunk: list[tuple[int, dict[str, Any]]] = []
        keys_of: list[list[int]] = []
        going = True

        def flush() -> bool:
            assert layout is not None
            _, time, unit_s, prompt, output = layout
            first = chunk[0][0]
            for field in (time, prompt, output):
                for number, row in chunk:
                    value = row.get(field)
                    if isinstance(value, bool) or not isinstance(value, int | float):
                        shown = repr(value)[:40] if field in row else "missing"
                        raise SpecError(f"{path}: line {number}: {field} is {shown}, not a number")
            time_s = unit_s * numbers(
                [row[time] for _, row in chunk], path=path, column=time, first_line=first
            )
            columns: dict[str, Any] = {
                "prompt_tokens": tokens(
                    [row[prompt] for _, row in chunk], path=path, column=prompt, first_line=first
                ),
                "output_tokens": tokens(
                    [row[output] for _, row in chunk], path=path, column=output, first_line=first
                ),
            }
            if "hash_ids" in chunk[0][1]:
                columns["key_row"] = np.arange(len(keys_of), len(keys_of) + len(chunk))
                keys_of.extend(_hash_ids(path, number, row) for number, row in chunk)
            elif keys_of:
                raise SpecError(f"{path}: line {first}: hash_ids is missing")
            return sink.add(first, time_s, **columns)

        for number, row in _objects(path, lines):
            if layout is None:
                layout = json_layout(row)
                if layout is None:
                    raise SpecError(
                        f"{path}: line {number}: fields {', '.join(row)[:120]} are of no known "
                        "trace; expected timestamp, input_length and output_length"
                    )
            chunk.append((number, row))
            if len(chunk) == _CHUNK_ROWS:
                going = flush()
                chunk = []
                if not going:
                    break
        if chunk and going:
            flush()
    if layout is None:
        raise SpecError(f"{path}: holds no request; expected one JSON object a line")
    rows = sink.columns()
    extra: dict[str, Any] = {}
    if "key_row" in rows:
        kept = [keys_of[i] for i in rows.pop("key_row")]
        starts = np.zeros(len(kept) + 1, dtype=np.int64)
        np.cumsum([len(k) for k in kept], out=starts[1:])
        extra["prefix_keys"] = np.array([key for keys in kept for key in keys], dtype=np.int64)
        extra["prefix_start"] = starts
        extra["prefix_block_tokens"] = MOONCAKE_BLOCK_TOKENS
    return sink.workload(format_name=layout[0], rows=rows, **extra)


def _hash_ids(path: Path, number: int, row: dict[str, Any]) -> list[int]:
    keys = row.get("hash_ids")
    if not isinstance(keys, list) or not all(type(k) is int and 0 <= k <= _MAX_KEY for k in keys):
        raise SpecError(
            f"{path}: line {number}: hash_ids must be a list of whole numbers, one a prefix block"
        )
    most = -(-int(row["input_length"]) // MOONCAKE_BLOCK_TOKENS) if "input_length" in row else 0
    if "input_length" in row and len(keys) > most:
        raise SpecError(
            f"{path}: line {number}: {len(keys)} hash_ids for {row['input_length']} input tokens; "
            f"at most {most} blocks of {MOONCAKE_BLOCK_TOKENS} tokens"
        )
    return keys


def load_mooncake(path: Path, *, part: Slice = WHOLE) -> Workload:
    """A Mooncake trace; its prefix hashes become prefix keys of 512-token blocks."""
    workload = load_jsonl(path, part=part)
    if not workload.notes or workload.notes[0] != "read as mooncake":
        raise SpecError(
            f"{path}: line 1: not a Mooncake trace; expected timestamp, input_length, output_length"
        )
    return workload
